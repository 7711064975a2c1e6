"""CDAN: as DANN, with a discriminator of features and predictions together."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.alignment import (
    LARGEST_PRODUCT,
    condition,
    domain_bce,
    entropy_weights,
    ramp,
    random_maps,
    reverse_gradient,
    unit_scale,
)
from da_wa.adapt.heads import mlp
from da_wa.adapt.method import Method, Phase, Seen, Step
from da_wa.adapt.methods.dann import domain_accuracy
from da_wa.adapt.options import flag, whole
from da_wa.models.backbone import Backbone


class CDAN(Method):
    """Long et al., NeurIPS 2018, arXiv 1705.10667; see :func:`~da_wa.adapt.alignment.condition`.

    Logs ``domain_accuracy`` like DANN.

    Args:
        entropy: weight images by the confidence of their prediction (CDAN+E).
        width: of the discriminator's two hidden layers.
        map_size: columns of the random maps, for d·k above 4096.
        unit_scale: divide features by the root mean square of the source's.
    """

    phase: ClassVar[Phase] = "joint"

    discriminator: nn.Sequential
    of_features: Tensor | None
    of_classes: Tensor | None

    def __init__(self, entropy: bool = True, width: int = 1024, map_size: int = 1024, unit_scale: bool = True) -> None:
        super().__init__()
        self.entropy, self.unit_scale = flag("entropy", entropy), flag("unit_scale", unit_scale)
        self.width, self.map_size = whole("width", width), whole("map_size", map_size)

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        inputs = backbone.num_features * classes
        self.register_buffer("of_features", None)
        self.register_buffer("of_classes", None)
        if inputs > LARGEST_PRODUCT:
            self.of_features, self.of_classes = random_maps(backbone.num_features, classes, self.map_size)
            inputs = self.map_size
        self.discriminator = mlp(inputs, 1, self.width)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        features = source.features, target.features
        s, t = unit_scale(*features) if self.unit_scale else features
        both = torch.cat([self._condition(s, source), self._condition(t, target)])
        judged = self.discriminator(reverse_gradient(both, ramp(step.progress))).float()
        of_source, of_target = judged[: len(s)], judged[len(s) :]
        self.watched = {"domain_accuracy": domain_accuracy(of_source, of_target)}
        weights = (entropy_weights(source.logits), entropy_weights(target.logits)) if self.entropy else (None, None)
        return {"domain": domain_bce(of_source, of_target, *weights)}

    def _condition(self, features: Tensor, seen: Seen) -> Tensor:
        if self.of_features is None or self.of_classes is None:
            return condition(features, seen.logits)
        return condition(features, seen.logits, (self.of_features, self.of_classes))
