"""AFN: features of growing norm in both domains."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.alignment import afn
from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import positive


class AFN(Method):
    """Stepwise adaptive feature norm, Xu et al., ICCV 2019, arXiv 1811.07456; see :func:`~da_wa.adapt.alignment.afn`.

    Args:
        step: Δ, by which every norm shall grow. The scale of features differs by normalisation. Doubling it has the
            same gradient as doubling the weight of the loss, so it needs no search of its own.
    """

    phase: ClassVar[Phase] = "joint"

    def __init__(self, step: float = 1.0) -> None:
        super().__init__()
        self.step = positive("step", step)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        return {"afn": afn(source.features, self.step) + afn(target.features, self.step)}
