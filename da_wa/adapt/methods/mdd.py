"""MDD: features on which an auxiliary classifier cannot disagree with the classifier on the target alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.alignment import ramp, reverse_gradient
from da_wa.adapt.heads import mlp
from da_wa.adapt.losses import mdd
from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import positive, whole
from da_wa.models.backbone import Backbone


class MDD(Method):
    """Zhang, Liu, Long & Jordan, ICML 2019, arXiv 1904.05801; see :func:`~da_wa.adapt.losses.mdd`.

    Args:
        gamma: the margin factor γ.
        reversal: upper limit of the scale of gradient reversal, see :func:`~da_wa.adapt.alignment.ramp`.
        width: of the hidden layer of the auxiliary classifier.
    """

    phase: ClassVar[Phase] = "joint"

    adversary: nn.Sequential

    def __init__(self, gamma: float = 4.0, reversal: float = 0.1, width: int = 1024) -> None:
        super().__init__()
        self.gamma, self.reversal = positive("gamma", gamma), positive("reversal", reversal)
        self.width = whole("width", width)

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        self.adversary = mlp(backbone.num_features, classes, self.width, hidden=1)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        features = torch.cat([source.features, target.features])
        scale = ramp(step.progress, top=self.reversal)
        judged = self.adversary(reverse_gradient(features, scale)).float()
        n = len(source.features)
        return {"mdd": mdd(source.logits, judged[:n], target.logits, judged[n:], self.gamma)}
