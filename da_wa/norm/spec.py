"""The norm of a network: a pair of a convolution and an activation norm.

A :class:`Norm` is two factories. ``bn_wa`` is the pair (``WeightAlignConv2d``, ``BatchNorm2d``), ``none`` is the pair
(``nn.Conv2d``, nothing). A third factory replaces the ReLU for norms that define their own non-linearity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.errors import ConfigError
from da_wa.norm.compiled import fused_group_norm

ConvFactory = Callable[..., nn.Conv2d]
"""Called like ``nn.Conv2d``: ``conv(c_in, c_out, kernel_size, stride=…, padding=…, bias=…)``."""

ActivationFactory = Callable[[int], nn.Module]
"""Called with the number of channels; returns a module ``(n, c, h, w) -> (n, c, h, w)``."""


def relu(channels: int) -> nn.Module:
    """The default non-linearity after an activation norm.

    >>> relu(64)
    ReLU(inplace=True)
    """
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class Norm:
    """How a network normalises.

    Args:
        label: the name shown in tables, e.g. ``BN + WA``.
        conv: makes a convolution; a subclass of ``nn.Conv2d`` may re-parameterise its weight.
        activation: makes the layer after a convolution, or ``None`` for networks without activation norms
            (residual networks then use Fixup blocks, see ``models/fixup.py``).
        nonlinearity: makes the non-linearity of a network instead of its ReLUs. Filter Response Norm uses the TLU;
            EvoNorm-S0 needs none, since it contains a gate. Fixup blocks refuse any but the ReLU.
        factors: the levels that tables and contrasts compare, e.g. ``{"weight": "align", "activation": "bn"}``.
            Norms with the same ``weight`` (or ``activation``) are grouped, whatever their labels.
        version: part of the identity of a run. Raise it when the code of the norm changes its results.
        keep: leave the layers of an existing network as they are. There is nothing to build a network from.

    Raises:
        ConfigError: ``factors`` is not a mapping of names to names, or ``version`` is not a whole number from 1.

    >>> from da_wa.norm import WeightAlignConv2d
    >>> norm = Norm("GN + WA", WeightAlignConv2d, group_norm, factors={"weight": "align", "activation": "gn"})
    >>> norm.conv(3, 64, 3, padding=1)
    WeightAlignConv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> norm.activation(64).num_groups
    32
    """

    label: str
    conv: ConvFactory = nn.Conv2d
    activation: ActivationFactory | None = None
    nonlinearity: ActivationFactory = relu
    factors: Mapping[str, str] = field(default_factory=dict, hash=False)
    version: int = 1
    keep: bool = False

    def __post_init__(self) -> None:
        if self.keep:
            object.__setattr__(self, "conv", _nothing_to_build)
        if not isinstance(self.factors, Mapping) or not all(
            isinstance(text, str) for item in self.factors.items() for text in item
        ):
            raise ConfigError(
                f"norm.factors={self.factors} of {self.label} must map names to names; "
                "write factors: {weight: plain, activation: bn}"
            )
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise ConfigError(f"norm.version={self.version} of {self.label} must be a whole number, 1 or more")


def _nothing_to_build(*args: Any, **kwargs: Any) -> nn.Conv2d:
    raise ConfigError(
        "norm `keep` leaves an existing network as it is, so it cannot build one; choose model=timm, or another norm"
    )


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that keeps the type of its input under autocast, as BatchNorm does.

    On a GPU, autocast returns float32 from torch's class, which makes the whole residual stream float32. The
    statistics are computed in float32 either way.

    >>> GroupNorm(2, 8)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        if _can_be_fused(self, input):
            return fused_group_norm(input, self.weight, self.bias, self.num_groups, self.eps)
        if not input.is_cuda:
            return super().forward(input)
        # the kernel needs one type
        weight, bias = (None if p is None else p.to(input.dtype) for p in (self.weight, self.bias))
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def _can_be_fused(norm: nn.GroupNorm | nn.InstanceNorm2d, x: Tensor) -> bool:
    compiled = torch.compiler.is_compiling() and x.device.type == "cpu" and x.ndim == 4
    return compiled and norm.weight is not None and norm.bias is not None


def group_norm(channels: int, groups: int = 32, **kwargs: Any) -> GroupNorm:
    """Group Normalization (Wu & He 2018) with ``groups`` groups, fewer where the channels do not allow it.

    Raises:
        ConfigError: ``groups`` is not a whole number, 1 or more.

    >>> group_norm(64).num_groups, group_norm(16).num_groups
    (32, 8)
    """
    return GroupNorm(group_count(channels, groups), channels, **kwargs)


def group_count(channels: int, groups: int) -> int:
    """The largest divisor of ``channels`` that is at most ``groups`` and leaves two or more channels per group.

    With one channel per group, GroupNorm would be InstanceNorm. Every layer of ResNet18…152 and VGG16 has at least
    64 channels and gets the usual 32 groups.

    Raises:
        ConfigError: ``groups`` is not a whole number, 1 or more.

    >>> group_count(64, 32), group_count(48, 32), group_count(7, 32)
    (32, 24, 1)
    """
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ConfigError(f"groups={groups} must be a whole number, 1 or more")
    limit = min(groups, max(1, channels // 2))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


def layer_norm(channels: int, **kwargs: Any) -> GroupNorm:
    """Layer Normalization (Ba et al. 2016) of a feature map: one group over (C, H, W), affine per channel.

    >>> layer_norm(64).num_groups
    1
    """
    return GroupNorm(1, channels, **kwargs)


class InstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` without running statistics for maps of any size.

    A 1×1 map becomes the bias; torch's class raises an error.

    >>> layer = InstanceNorm2d(8, affine=True)
    >>> torch.allclose(layer(torch.randn(2, 8, 1, 1)), torch.zeros(2, 8, 1, 1), atol=1e-3)
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w), or (c, h, w) -> (c, h, w)."""
        self._check_input_dim(input)
        if input.ndim == 3:  # torch's kernel would take it for c images of one axis
            return self.forward(input[None])[0]
        if _can_be_fused(self, input):
            return fused_group_norm(input, self.weight, self.bias, self.num_features, self.eps)
        fast = torch.backends.cudnn.enabled
        return torch.instance_norm(input, self.weight, self.bias, None, None, True, self.momentum or 0, self.eps, fast)


def instance_norm(channels: int, **kwargs: Any) -> InstanceNorm2d:
    """Instance Normalization (Ulyanov et al. 2016), affine, no running statistics.

    >>> sorted(name for name, _ in instance_norm(64).named_parameters())
    ['bias', 'weight']
    """
    return InstanceNorm2d(channels, affine=True, track_running_stats=False, **kwargs)
