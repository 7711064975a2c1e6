"""Residual networks for small images (He et al. 2016): 3×3 stem, no max-pooling, stages at strides 1, 2, 2.

ResNet18…152 have stages of 64, 128, 256, 512 channels, ResNet20 has 16, 32, 64. How convolutions and
activations are normalised is handed in; without activation norm the blocks are Fixup's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from da_wa.models.backbone import Backbone
from da_wa.models.fixup import Bias, FixupBasicBlock, FixupBlock, FixupBottleneck, GainInit, init_fixup
from da_wa.norm.spec import Norm


class Block(nn.Module):
    """A residual block with activation norms: ``relu(shortcut(x) + branch(x))``.

    Where ReLU stands for what the norm names as its non-linearity.
    """

    expansion: ClassVar[int]
    fixup: ClassVar[type[FixupBlock]]  # the same block for networks without activation norm

    branch: nn.Sequential
    shortcut: nn.Module
    nonlinearity: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinearity(self.branch(x) + self.shortcut(x))
        return y


class BasicBlock(Block):
    """Two 3×3 convolutions, (n, c_in, h, w) -> (n, width, h/stride, w/stride)."""

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
    """1×1, 3×3, 1×1 convolutions, (n, c_in, h, w) -> (n, 4·width, h/stride, w/stride)."""

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


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int, norm: Norm) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias and the activation norm behind it (``norm.activation`` must be set)."""
    assert norm.activation is not None
    conv = norm.conv(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, norm.activation(c_out)


def normed_projection(c_in: int, c_out: int, stride: int, norm: Norm) -> nn.Module:
    """The shortcut: the input itself where shapes agree, else a normalised 1×1 convolution."""
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(*conv_norm(c_in, c_out, 1, stride, norm))


class ResNet(Backbone):
    """A CIFAR-style residual network.

    Args:
        norm: how it normalises.
        num_classes: outputs of the head.
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        depths: blocks per stage; every stage but the first halves the resolution.
        widths: channels per stage, before the block's expansion.
        gain_init: for weight-normalised networks without activation norm, see ``models/fixup.py``.
    """

    def __init__(
        self,
        norm: Norm,
        num_classes: int,
        *,
        block: type[Block],
        depths: Sequence[int],
        widths: Sequence[int],
        gain_init: GainInit = "one",
    ) -> None:
        super().__init__()
        self.num_features = widths[-1] * block.expansion
        self.min_size = 2 ** len(widths)  # leaves two pixels a side in the last stage: one has no variance
        self.normalised = norm.activation is not None

        if self.normalised:
            self.stem = nn.Sequential(*conv_norm(3, widths[0], 3, 1, norm), norm.nonlinearity(widths[0]))
        else:
            self.stem = nn.Sequential(norm.conv(3, widths[0], 3, padding=1, bias=False), Bias(), nn.ReLU(inplace=True))
        make = block if self.normalised else block.fixup
        stages, c_in = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(make(c_in, width, 2 if stage > 0 and position == 0 else 1, norm))
                c_in = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pooled = nn.Identity() if self.normalised else Bias()  # Fixup's last scalar, ahead of the head
        self.head = self.make_head(num_classes)

        if self.normalised:
            init_kaiming(self)
        else:
            init_fixup([m for m in self.modules() if isinstance(m, FixupBlock)], gain_init)

    def features(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pooled(self.stages(self.stem(x)).mean((2, 3)))
        return pooled

    def make_head(self, num_classes: int) -> nn.Linear:
        head = super().make_head(num_classes)
        if not self.normalised:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return head


def init_kaiming(model: nn.Module) -> None:
    """Plain convolutions at N(0, 2/(k·k·c_in)) (He et al. 2015), bias 0; others keep their own initialisation."""
    for m in model.modules():
        if type(m) is nn.Conv2d:
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
