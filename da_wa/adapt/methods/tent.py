"""TENT: minimise the entropy of every batch of a stream, through affine parameters only."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.losses import entropy
from da_wa.adapt.method import Method, Phase
from da_wa.adapt.options import below_1, positive
from da_wa.adapt.streams import affine_parameters, batch_statistics
from da_wa.models.backbone import Backbone


class TENT(Method):
    """Wang et al., ICLR 2021, arXiv 2006.10726: one step a batch; the prediction is from before the step.

    BatchNorm uses the statistics of each batch; those of all images of the stream serve the evaluation afterwards.

    Args:
        lr: of SGD on the parameters of :func:`~da_wa.adapt.adaptable.adaptable`.
        momentum: of SGD.
    """

    phase: ClassVar[Phase] = "stream"

    def __init__(self, lr: float = 1e-3, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = positive("lr", lr), below_1("momentum", momentum)
        self._optimizer: torch.optim.Optimizer | None = None

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        batch_statistics(backbone)

    def trained(self, backbone: Backbone) -> list[nn.Parameter]:
        return affine_parameters(backbone)

    def observe(self, backbone: Backbone, images: Tensor) -> Tensor:
        if self._optimizer is None:
            self._optimizer = torch.optim.SGD(self.trained(backbone), lr=self.lr, momentum=self.momentum)
        logits = backbone(images).float()
        loss = entropy(logits).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.watched = {"loss": loss.detach()}
        predicted: Tensor = logits.detach()
        return predicted
