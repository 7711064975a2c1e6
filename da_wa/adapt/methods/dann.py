"""DANN: features that a domain discriminator cannot tell apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.alignment import domain_bce, ramp, reverse_gradient, unit_scale
from da_wa.adapt.heads import mlp
from da_wa.adapt.method import Method, Phase, Step
from da_wa.adapt.options import flag, whole
from da_wa.models.backbone import Backbone


class DANN(Method):
    """Ganin et al., JMLR 2016, arXiv 1505.07818: :func:`~da_wa.adapt.alignment.domain_bce` through gradient reversal.

    Logs ``domain_accuracy``, the accuracy of the discriminator: 0.5 when the domains cannot be told apart.

    Args:
        width: of the discriminator's two hidden layers.
        unit_scale: divide features by the root mean square of the source's.
    """

    phase: ClassVar[Phase] = "joint"

    discriminator: nn.Sequential

    def __init__(self, width: int = 1024, unit_scale: bool = True) -> None:
        super().__init__()
        self.width, self.unit_scale = whole("width", width), flag("unit_scale", unit_scale)

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        self.discriminator = mlp(backbone.num_features, 1, self.width)

    def loss(self, step: Step) -> dict[str, Tensor]:
        source, target = step.pair
        features = source.features, target.features
        s, t = unit_scale(*features) if self.unit_scale else features
        judged = self.discriminator(reverse_gradient(torch.cat([s, t]), ramp(step.progress))).float()
        self.watched = {"domain_accuracy": domain_accuracy(judged[: len(s)], judged[len(s) :])}
        return {"domain": domain_bce(judged[: len(s)], judged[len(s) :])}


def domain_accuracy(source: Tensor, target: Tensor) -> Tensor:
    """The mean accuracy of a discriminator over the two domains, a fraction; inputs as in ``domain_bce``.

    >>> domain_accuracy(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-1.0]]))
    tensor(0.7500)
    """
    return 0.5 * ((source.detach() > 0).float().mean() + (target.detach() <= 0).float().mean())
