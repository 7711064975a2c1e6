"""Residual networks for small images (He et al. 2016): 3×3 stem, no max-pooling, stages at strides 1, 2, 2.

ResNet18…152 have stages of 64, 128, 256, 512 channels, ResNet20 has 16, 32, 64. A :class:`~da_wa.norm.spec.Norm`
makes convolutions and activation norms; without activation norms the blocks are Fixup's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from da_wa.errors import ConfigError, nearest
from da_wa.models.backbone import Backbone
from da_wa.models.fixup import (
    Bias,
    FixupBasicBlock,
    FixupBlock,
    FixupBottleneck,
    FixupGain,
    check_gain_init,
    init_fixup,
)
from da_wa.norm.spec import Norm


class Block(nn.Module):
    """A residual block with activation norms: ``nonlinearity(shortcut(x) + branch(x))``.

    Attributes:
        expansion: output channels divided by ``width``.
        fixup: the block for networks without activation norms.
    """

    expansion: ClassVar[int]
    fixup: ClassVar[type[FixupBlock]]

    branch: nn.Sequential
    shortcut: nn.Module
    nonlinearity: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinearity(self.branch(x) + self.shortcut(x))
        return y


class BasicBlock(Block):
    """Two 3×3 convolutions, (n, c_in, h, w) -> (n, width, h/stride, w/stride).

    >>> import torch
    >>> from da_wa.norm import named
    >>> BasicBlock(8, 16, stride=2, norm=named("bn"))(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    expansion = 1
    fixup = FixupBasicBlock

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_norm(c_in, width, 3, stride, norm),
            norm.nonlinearity(width),
            *conv_norm(width, width, 3, 1, norm),
        )
        self.shortcut = normed_projection(c_in, width, stride, norm)
        self.nonlinearity = norm.nonlinearity(width)


class Bottleneck(Block):
    """1×1, 3×3, 1×1 convolutions, (n, c_in, h, w) -> (n, 4·width, h/stride, w/stride).

    >>> import torch
    >>> from da_wa.norm import named
    >>> Bottleneck(8, 16, stride=2, norm=named("bn"))(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 64, 2, 2])
    """

    expansion = 4
    fixup = FixupBottleneck

    def __init__(self, c_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_norm(c_in, width, 1, 1, norm),
            norm.nonlinearity(width),
            *conv_norm(width, width, 3, stride, norm),
            norm.nonlinearity(width),
            *conv_norm(width, 4 * width, 1, 1, norm),
        )
        self.shortcut = normed_projection(c_in, 4 * width, stride, norm)
        self.nonlinearity = norm.nonlinearity(4 * width)


BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
"""The blocks by the name that ``conf/model/*.yaml`` gives as ``block``."""

STEMS = {"cifar": (3, 1, False), "imagenet": (7, 2, True)}
"""Side and stride of the first convolution, and whether max-pooling follows, by name."""


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int, norm: Norm) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias and the activation norm after it (``norm.activation`` must be set).

    >>> from da_wa.norm import named
    >>> [type(layer).__name__ for layer in conv_norm(3, 64, 3, 1, named("bn_wa"))]
    ['WeightAlignConv2d', 'BatchNorm2d']
    """
    assert norm.activation is not None
    conv = norm.conv(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, norm.activation(c_out)


def normed_projection(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut: the identity where the shapes agree, else a 1×1 convolution and its activation norm.

    >>> from da_wa.norm import named
    >>> normed_projection(8, 8, 1, named("bn"))
    Identity()
    """
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(*conv_norm(c_in, c_out, 1, stride, norm))


class ResNet(Backbone):
    """A residual network, by default with the stem for small images of CIFAR.

    Args:
        norm: how the network normalises.
        num_classes: outputs of the head.
        block: ``basic``, ``bottleneck``, or a subclass of :class:`Block`.
        depths: blocks per stage, one or more; every stage but the first halves the resolution.
        widths: channels per stage, before the block's expansion.
        gain_init: for weight-normalised networks without activation norms, see ``models/fixup.py``.
        stem: ``cifar``, a 3×3 convolution, or ``imagenet``, a 7×7 convolution of stride 2 and 3×3 max-pooling of
            stride 2 (He et al. 2016).

    Raises:
        ConfigError: an unknown ``block``, ``gain_init`` or ``stem``, ``depths`` and ``widths`` that are not lists of
            whole numbers of one length, 1 or more each, or a norm without activation norm but with a non-linearity.

    >>> import torch
    >>> from da_wa.norm import named
    >>> resnet20 = ResNet(named("bn_wa"), 31, block="basic", depths=[3, 3, 3], widths=[16, 32, 64])
    >>> resnet20(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 31])
    >>> resnet20.num_features, resnet20.min_size
    (64, 8)
    """

    def __init__(
        self,
        norm: Norm,
        num_classes: int,
        *,
        block: str | type[Block],
        depths: Sequence[int],
        widths: Sequence[int],
        gain_init: FixupGain = "one",
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        check_gain_init(gain_init)
        if stem not in STEMS:
            raise ConfigError(f"model.build.stem={stem} is unknown. {nearest(str(stem), STEMS)}")
        kernel, stride, pooling = STEMS[stem]
        kind = _block(block)
        _check_stages(depths, widths)
        self.num_features = widths[-1] * kind.expansion
        # 2×2 pixels in the last stage: one pixel has no variance
        self.min_size = 2 ** len(widths) * stride * (2 if pooling else 1)
        self.normalized = norm.activation is not None

        if self.normalized:
            self.stem = nn.Sequential(*conv_norm(3, widths[0], kernel, stride, norm), norm.nonlinearity(widths[0]))
        else:
            if not isinstance(norm.nonlinearity(widths[0]), nn.ReLU):
                raise ConfigError(
                    f"{norm.label}: residual networks without activation norm are Fixup's, which have ReLUs; leave out "
                    "`nonlinearity`, or choose another network, e.g. model=vgg16"
                )
            conv = norm.conv(3, widths[0], kernel, stride=stride, padding=kernel // 2, bias=False)
            self.stem = nn.Sequential(conv, Bias(), nn.ReLU(inplace=True))
        if pooling:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        make = kind if self.normalized else kind.fixup
        stages, c_in = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(make(c_in, width, 2 if stage > 0 and position == 0 else 1, norm))
                c_in = width * kind.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pooled = nn.Identity() if self.normalized else Bias()  # Fixup's last scalar, before the head
        self.head = self.make_head(num_classes)

        if self.normalized:
            init_kaiming(self)
        else:
            init_fixup([m for m in self.modules() if isinstance(m, FixupBlock)], gain_init)

    def features(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pooled(self.stages(self.stem(x)).mean((2, 3)))
        return pooled

    def make_head(self, num_classes: int) -> nn.Linear:
        head = super().make_head(num_classes)
        if not self.normalized:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return head


def _block(block: Any) -> type[Block]:
    if isinstance(block, type) and issubclass(block, Block):
        return block
    if not isinstance(block, str) or block not in BLOCKS:
        raise ConfigError(f"model.build.block={block} is unknown. {nearest(str(block), BLOCKS)}")
    return BLOCKS[block]


def _check_stages(depths: Any, widths: Any) -> None:
    for option, numbers in (("depths", depths), ("widths", widths)):
        whole = isinstance(numbers, Sequence) and all(type(n) is int and n >= 1 for n in numbers)
        if not whole or len(numbers) == 0 or isinstance(numbers, str):
            raise ConfigError(
                f"model.build.{option}={numbers} must be a list of whole numbers, 1 or more, one for each stage; "
                f"write model.build.{option}=[{'3,3,3' if option == 'depths' else '16,32,64'}]"
            )
    if len(depths) != len(widths):
        raise ConfigError(
            f"model.build.depths={depths} has {len(depths)} stages and model.build.widths={widths} has {len(widths)}; "
            "set both to the same length"
        )


def init_kaiming(model: nn.Module) -> None:
    """Draw plain convolutions from N(0, 2/(k·k·c_in)) (He et al. 2015), bias 0; others keep their initialisation.

    >>> conv = nn.Conv2d(3, 8, 3)
    >>> init_kaiming(conv)
    >>> conv.bias.tolist() == [0.0] * 8
    True
    """
    for m in model.modules():
        if type(m) is nn.Conv2d:
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
