"""SAR: TENT on reliable images with sharpness-aware steps, and a reset before it collapses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from da_wa.adapt.losses import entropy, masked_mean, reliable, sharpness_step
from da_wa.adapt.method import Method, Phase
from da_wa.adapt.options import below_1, fraction, not_negative, positive
from da_wa.adapt.streams import affine_parameters, batch_statistics, frozen_statistics
from da_wa.models.backbone import Backbone


class SAR(Method):
    """Niu et al., ICLR 2023, arXiv 2302.12400.

    Logs ``used``, the share of images trained on, and ``reset``, the share of steps that ended in a reset.

    Args:
        lr: of SGD on the parameters of :func:`~da_wa.adapt.adaptable.adaptable`.
        momentum: of SGD.
        share: images count if their entropy is below this share of ln k.
        rho: radius of the sharpness-aware step.
        reset_below: restore the source network when the moving average of the loss falls below. It is absolute, unlike
            ``share``; 0.2 is the authors' value for 1000 classes. Images of mean confidence 0.98 are below it with 31
            classes or fewer, so a network that is so sure of its predictions is reset after every step.
        decay: of that average.
    """

    phase: ClassVar[Phase] = "stream"

    def __init__(
        self,
        lr: float = 2.5e-4,
        momentum: float = 0.9,
        share: float = 0.4,
        rho: float = 0.05,
        reset_below: float = 0.2,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        self.lr, self.momentum = positive("lr", lr), below_1("momentum", momentum)
        self.share, self.rho = positive("share", fraction("share", share)), not_negative("rho", rho)
        self.reset_below, self.decay = not_negative("reset_below", reset_below), below_1("decay", decay)
        self._stream: _Stream | None = None

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        batch_statistics(backbone)

    def trained(self, backbone: Backbone) -> list[nn.Parameter]:
        return affine_parameters(backbone)

    def observe(self, backbone: Backbone, images: Tensor) -> Tensor:
        stream = self._stream = self._stream or _Stream(self.trained(backbone), self.lr, self.momentum)
        logits = backbone(images).float()
        keep = reliable(logits, self.share)
        loss = masked_mean(entropy(logits), keep)
        found = torch.autograd.grad(loss, stream.parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(stream.parameters, found, strict=True)]
        climb = sharpness_step(gradients, self.rho)
        stream.move(climb, 1)
        with frozen_statistics(backbone):
            second = backbone(images).float()
        again = keep & reliable(second, self.share)
        there = masked_mean(entropy(second), again)
        stream.optimizer.zero_grad()
        there.backward()  # type: ignore[no-untyped-call]
        stream.move(climb, -1)
        stream.optimizer.step()
        reset = stream.reset_if_below(self.reset_below, there.detach(), again.any(), self.decay)
        self.watched = {"loss": loss.detach(), "used": keep.float().mean(), "reset": reset.float()}
        predicted: Tensor = logits.detach()
        return predicted


class _Stream:
    """The state of a stream: optimiser, the start, the moving average of the loss. Never copied to the host."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        self.parameters = parameters
        self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
        self.start = [p.detach().clone() for p in parameters]
        self.average = torch.full((), math.nan, device=parameters[0].device)

    @torch.no_grad()
    def move(self, step: Sequence[Tensor], sign: int) -> None:
        """Add ``sign · step`` to the parameters."""
        for parameter, change in zip(self.parameters, step, strict=True):
            parameter.add_(change, alpha=sign)
        torch.clear_autocast_cache()  # it has copies of the parameters in half precision, from before the move

    @torch.no_grad()
    def reset_if_below(self, limit: float, loss: Tensor, valid: Tensor, decay: float) -> Tensor:
        """Update the average; where it is below the limit restore the parameters and clear it. Returns whether."""
        updated = torch.where(self.average.isnan(), loss, decay * self.average + (1 - decay) * loss)
        average = torch.where(valid, updated, self.average)
        below = average < limit
        for parameter, start in zip(self.parameters, self.start, strict=True):
            parameter.copy_(torch.where(below, start, parameter))
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                buffer.copy_(torch.where(below, 0, buffer))
        self.average = torch.where(below, math.nan, average)
        return below
