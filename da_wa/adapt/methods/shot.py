"""SHOT: confident, balanced predictions and pseudo-labels of nearest centroids, with the source's head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.adapt.losses import information_maximization
from da_wa.adapt.method import Method, Phase, Seen, Step
from da_wa.adapt.options import not_negative
from da_wa.adapt.pseudo_labels import centroid_labels
from da_wa.models.backbone import Backbone


class SHOT(Method):
    """Liang, Hu & Feng, ICML 2020, arXiv 2002.08546. The head stays as the source has trained it.

    The loss is :func:`~da_wa.adapt.losses.information_maximization` plus the cross-entropy with
    :func:`~da_wa.adapt.pseudo_labels.centroid_labels`, computed once an epoch. Of one image alone information
    maximization has no gradient.

    Args:
        pseudo: weight of the pseudo-labels; 0 gives SHOT-IM.
    """

    phase: ClassVar[Phase] = "target"
    least_images: ClassVar[int] = 2

    labels: Tensor

    def __init__(self, pseudo: float = 0.3) -> None:
        super().__init__()
        self.pseudo = not_negative("pseudo", pseudo)

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        self.register_buffer("labels", torch.zeros(images, dtype=torch.int64))

    def trained(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        head = {id(p) for p in backbone.head.parameters()}
        return [p for p in backbone.parameters() if id(p) not in head]

    def refresh(self, look: Callable[[], Seen]) -> None:
        if self.pseudo:
            seen = look()
            self.labels.copy_(centroid_labels(seen.features, seen.logits))

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {"im": information_maximization(step.target.logits)}
        if self.pseudo:
            terms["pseudo"] = self.pseudo * F.cross_entropy(step.target.logits, self.labels[step.index])
        return terms
