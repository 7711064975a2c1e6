"""Fixup (Zhang, Dauphin & Ma, ICLR 2019, arXiv 1901.09321): residual blocks without activation norms.

The blocks and the initialisation follow the authors' ImageNet code: a scalar bias before every
convolution and activation, one multiplier per block, a zero-initialised last convolution and classifier.

With weight-normalised convolutions the initialisation of weights has no effect (their scale is divided
out) and a zero filter has no direction. How the WeightAlign paper joined the two is not told, so it is
an option, ``gain_init``: ``one`` keeps Gaussian weights with gain 1 everywhere (Sec. III-C), ``fixup``
moves Fixup's factors to the gain: L^(-1/(2m-2)), and 0 for the last convolution of a block.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.norm.spec import Norm

GainInit = Literal["one", "fixup"]


class Bias(nn.Module):
    """Adds one learnable scalar, initially 0.

    It has no dimension: so that it does not turn a half-precision input into float32, as shape (1,) would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class Multiplier(nn.Module):
    """Multiplies by one learnable scalar, initially 1."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


class FixupBlock(nn.Module):
    """``relu(shortcut(x) + multiplier · conv_m(… relu(conv_1(x + b) + b) …) + b)``."""

    branch: nn.ModuleList  # the m convolutions of the residual branch
    shortcut: nn.Module

    def _wire(self, *branch: nn.Module, shortcut: nn.Module) -> None:
        self.branch = nn.ModuleList(branch)
        self.shortcut = shortcut
        self.before = nn.ModuleList(Bias() for _ in branch)  # ahead of each convolution
        self.after = nn.ModuleList(Bias() for _ in branch)  # behind each convolution
        self.multiplier = Multiplier()

    def forward(self, x: Tensor) -> Tensor:
        shifted = self.before[0](x)
        # The authors feed the shifted input to a convolutional shortcut and the input itself to an identity.
        residual = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(shifted)
        y = self.after[0](self.branch[0](shifted))
        for before, conv, after in zip(self.before[1:-1], self.branch[1:-1], self.after[1:-1], strict=True):
            y = after(conv(before(F.relu(y))))
        y = self.multiplier(self.branch[-1](self.before[-1](F.relu(y))))
        return F.relu(self.after[-1](y) + residual)


class FixupBasicBlock(FixupBlock):
    """Two 3×3 convolutions, (n, c_in, h, w) -> (n, width, h/stride, w/stride)."""

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self._wire(
            norm.conv(c_in, width, 3, stride=stride, padding=1, bias=False),
            norm.conv(width, width, 3, padding=1, bias=False),
            shortcut=projection(c_in, width, stride, norm),
        )


class FixupBottleneck(FixupBlock):
    """1×1, 3×3, 1×1 convolutions, (n, c_in, h, w) -> (n, 4·width, h/stride, w/stride)."""

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self._wire(
            norm.conv(c_in, width, 1, bias=False),
            norm.conv(width, width, 3, stride=stride, padding=1, bias=False),
            norm.conv(width, 4 * width, 1, bias=False),
            shortcut=projection(c_in, 4 * width, stride, norm),
        )


def projection(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut: the input itself where shapes agree, else a 1×1 convolution."""
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return norm.conv(c_in, c_out, 1, stride=stride, bias=False)


def init_fixup(blocks: list[FixupBlock], gain_init: GainInit) -> None:
    """Initialise the convolutions of L residual blocks with m layers each (Sec. 4 of the paper).

    Plain convolutions: ``N(0, 2/(k·k·c_out))``, in the residual branch times ``L^(-1/(2m-2))``, the last
    one 0. Weight-normalised ones keep their own initialisation, and ``gain_init`` says what the gain is.
    """
    for block in blocks:
        branch = list(block.branch)
        factor = len(blocks) ** (-1 / (2 * len(branch) - 2))
        for conv in branch[:-1]:
            _scale_conv(conv, factor, gain_init)
        _scale_conv(branch[-1], 0.0, gain_init)
        if not isinstance(block.shortcut, nn.Identity):
            _scale_conv(block.shortcut, 1.0, gain_init)


@torch.no_grad()
def _scale_conv(conv: nn.Module, factor: float, gain_init: GainInit) -> None:
    if type(conv) is nn.Conv2d:
        fan_out = conv.out_channels * math.prod(conv.kernel_size)
        conv.weight.normal_(0.0, math.sqrt(2 / fan_out)).mul_(factor)
    elif gain_init == "fixup" and isinstance(gain := getattr(conv, "gain", None), nn.Parameter):
        gain.mul_(factor)


def scalar_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Fixup's one-element biases and multipliers; the authors train them at a tenth of the learning rate."""
    return [m.value for m in model.modules() if isinstance(m, Bias | Multiplier)]
