"""DAN: equal kernel mean embeddings of source and target features."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.alignment import mmd
from da_wa.adapt.method import Method, Phase, Step


class DAN(Method):
    """Long et al., ICML 2015, arXiv 1502.02791; see :func:`~da_wa.adapt.alignment.mmd`."""

    phase: ClassVar[Phase] = "joint"

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        return {"mmd": mmd(source.features, target.features)}
