"""BNM: predictions of a target batch with a large nuclear norm, confident and diverse."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.losses import bnm
from da_wa.adapt.method import Method, Phase, Step


class BNM(Method):
    """Cui et al., CVPR 2020, arXiv 2003.12237; see :func:`~da_wa.adapt.losses.bnm`."""

    phase: ClassVar[Phase] = "joint"

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"bnm": bnm(step.target.logits)}
