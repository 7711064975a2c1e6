"""DSBN: one BatchNorm for each domain, statistics and affine parameters."""

from __future__ import annotations

from typing import ClassVar

from da_wa.adapt.method import Method, Phase


class DSBN(Method):
    """Chang et al., CVPR 2019, arXiv 1906.03950: no loss of its own, ``statistics: domain`` in its options."""

    phase: ClassVar[Phase] = "joint"
    statistics: ClassVar[str | None] = "domain"
