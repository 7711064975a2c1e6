"""MCC: little confusion between classes on the target."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.losses import mcc
from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import positive


class MCC(Method):
    """Jin et al., ECCV 2020, arXiv 1912.03699; see :func:`~da_wa.adapt.losses.mcc`.

    One image alone is confused with none: its loss has no gradient.

    Args:
        temperature: T.
    """

    phase: ClassVar[Phase] = "joint"
    least_images: ClassVar[int] = 2

    def __init__(self, temperature: float = 2.5) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {"mcc": mcc(step.target.logits, self.temperature)}
