"""Deep CORAL: equal covariance of source and target features."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from da_wa.adapt.alignment import coral, unit_scale
from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import flag


class CORAL(Method):
    """Sun & Saenko, ECCV workshops 2016, arXiv 1607.01719; see :func:`~da_wa.adapt.alignment.coral`.

    Args:
        unit_scale: divide features by the root mean square of the source's, so that the loss, of the fourth power in
            the features, compares across normalisations.
    """

    phase: ClassVar[Phase] = "joint"
    least_images: ClassVar[int] = 2

    def __init__(self, unit_scale: bool = True) -> None:
        super().__init__()
        self.unit_scale = flag("unit_scale", unit_scale)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        features = source.features, target.features
        return {"coral": coral(*(unit_scale(*features) if self.unit_scale else features))}
