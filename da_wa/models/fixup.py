"""Fixup (Zhang, Dauphin & Ma, ICLR 2019, arXiv 1901.09321): residual blocks without activation norms.

The blocks and the initialisation follow the authors' ImageNet code: a scalar bias before every
convolution and activation, one multiplier per block, a zero-initialised last convolution and classifier.

With weight-normalised convolutions the scale of the initial weights has no effect (it is divided out), and a zero
filter has no direction. The WeightAlign paper does not say how it combines the two, so it is an option,
``gain_init``: ``one`` keeps Gaussian weights with gain 1 everywhere (Sec. III-C), ``fixup`` applies Fixup's factors
to the gain: L^(-1/(2m-2)), and 0 for the last convolution of a block.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.errors import ConfigError, nearest
from da_wa.norm.spec import Norm

FixupGain = Literal["one", "fixup"]


class Bias(nn.Module):
    """Adds one learnable scalar, initially 0.

    The parameter has no dimension: with shape (1,) it would promote half-precision inputs to float32.

    >>> Bias()(torch.ones(2, dtype=torch.bfloat16))
    tensor([1., 1.], dtype=torch.bfloat16, grad_fn=<AddBackward0>)
    """

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class Multiplier(nn.Module):
    """Multiplies by one learnable scalar, initially 1.

    >>> Multiplier()(torch.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


class FixupBlock(nn.Module):
    """``relu(shortcut(x) + multiplier · conv_m(… relu(conv_1(x + b) + b) …) + b)``.

    Base class of the two blocks; each convolution has a bias before and after it.
    """

    branch: nn.ModuleList  # the m convolutions of the residual branch
    shortcut: nn.Module

    def _wire(self, *branch: nn.Module, shortcut: nn.Module) -> None:
        self.branch = nn.ModuleList(branch)
        self.shortcut = shortcut
        self.before = nn.ModuleList(Bias() for _ in branch)  # before each convolution
        self.after = nn.ModuleList(Bias() for _ in branch)  # after each convolution
        self.multiplier = Multiplier()

    def forward(self, x: Tensor) -> Tensor:
        shifted = self.before[0](x)
        # The authors feed the shifted input to a convolutional shortcut and the input itself to an identity.
        residual = self.shortcut(x if isinstance(self.shortcut, nn.Identity) else shifted)
        y = self.after[0](self.branch[0](shifted))
        for before, conv, after in zip(self.before[1:-1], self.branch[1:-1], self.after[1:-1], strict=True):
            y = after(conv(before(F.relu(y))))
        y = self.multiplier(self.branch[-1](self.before[-1](F.relu(y))))
        return F.relu(self.after[-1](y) + residual)


class FixupBasicBlock(FixupBlock):
    """Two 3×3 convolutions, (n, c_in, h, w) -> (n, width, h/stride, w/stride).

    >>> from da_wa.norm import named
    >>> FixupBasicBlock(8, 16, stride=2, norm=named("wa"))(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self._wire(
            norm.conv(c_in, width, 3, stride=stride, padding=1, bias=False),
            norm.conv(width, width, 3, padding=1, bias=False),
            shortcut=projection(c_in, width, stride, norm),
        )


class FixupBottleneck(FixupBlock):
    """1×1, 3×3, 1×1 convolutions, (n, c_in, h, w) -> (n, 4·width, h/stride, w/stride).

    >>> from da_wa.norm import named
    >>> FixupBottleneck(8, 16, stride=2, norm=named("wa"))(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 64, 2, 2])
    """

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self._wire(
            norm.conv(c_in, width, 1, bias=False),
            norm.conv(width, width, 3, stride=stride, padding=1, bias=False),
            norm.conv(width, 4 * width, 1, bias=False),
            shortcut=projection(c_in, 4 * width, stride, norm),
        )


def projection(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut: the identity where the shapes agree, else a 1×1 convolution.

    >>> from da_wa.norm import named
    >>> projection(8, 8, 1, named("none"))
    Identity()
    """
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return norm.conv(c_in, c_out, 1, stride=stride, bias=False)


def init_fixup(blocks: list[FixupBlock], gain_init: FixupGain) -> None:
    """Initialise the convolutions of L residual blocks with m layers each (Sec. 4 of the paper).

    Plain convolutions: ``N(0, 2/(k·k·c_out))``, in the residual branch times ``L^(-1/(2m-2))``, the last
    one 0. Weight-normalised convolutions keep their own initialisation; ``gain_init`` sets their gains.

    Raises:
        ConfigError: ``gain_init`` is neither ``one`` nor ``fixup``.

    >>> from da_wa.norm import named
    >>> block = FixupBasicBlock(8, 8, stride=1, norm=named("wa"))
    >>> init_fixup([block], "fixup")
    >>> block.branch[-1].gain.tolist() == [0.0] * 8
    True
    """
    check_gain_init(gain_init)
    for block in blocks:
        branch = list(block.branch)
        factor = len(blocks) ** (-1 / (2 * len(branch) - 2))
        for conv in branch[:-1]:
            _scale_conv(conv, factor, gain_init)
        _scale_conv(branch[-1], 0.0, gain_init)
        if not isinstance(block.shortcut, nn.Identity):
            _scale_conv(block.shortcut, 1.0, gain_init)


@torch.no_grad()
def _scale_conv(conv: nn.Module, factor: float, gain_init: FixupGain) -> None:
    if type(conv) is nn.Conv2d:
        fan_out = conv.out_channels * math.prod(conv.kernel_size)
        conv.weight.normal_(0.0, math.sqrt(2 / fan_out)).mul_(factor)
    elif gain_init == "fixup" and isinstance(gain := getattr(conv, "gain", None), nn.Parameter):
        gain.mul_(factor)


def check_gain_init(gain_init: str) -> None:
    """Raise a ConfigError if ``gain_init`` is neither ``one`` nor ``fixup``.

    >>> check_gain_init("fixup")
    """
    known = get_args(FixupGain)
    if gain_init not in known:
        raise ConfigError(
            f"model.gain_init={gain_init} must be one of {', '.join(known)}. {nearest(str(gain_init), known)}"
        )


def scalar_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The scalar biases and multipliers of Fixup; the authors train them at a tenth of the learning rate.

    >>> from da_wa.norm import named
    >>> block = FixupBasicBlock(8, 8, stride=1, norm=named("none"))  # two convolutions: 2·2 biases, 1 multiplier
    >>> len(scalar_parameters(block))
    5
    """
    return [m.value for m in model.modules() if isinstance(m, Bias | Multiplier)]
