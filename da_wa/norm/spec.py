"""What normalises: a point of the plane *convolution × activation norm*.

A :class:`Norm` is two callables. ``bn_wa`` is not a special case of anything: it is the pair
(``WeightAlignConv2d``, ``BatchNorm2d``), as ``none`` is the pair (``nn.Conv2d``, nothing). A third callable
says what stands in the place of ReLUs, for the norms that were made with a non-linearity of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.config.tree import conf_dir
from da_wa.errors import ConfigError, nearest

ConvFactory = Callable[..., nn.Conv2d]
"""Called like ``nn.Conv2d``: ``conv(c_in, c_out, kernel_size, stride=…, padding=…, bias=…)``."""

ActivationFactory = Callable[[int], nn.Module]
"""Called with a number of channels; returns a module ``(n, c, h, w) -> (n, c, h, w)``."""


def relu(channels: int) -> nn.Module:
    """What follows an activation norm if nothing else is said."""
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class Norm:
    """How a network normalises.

    Args:
        label: the name shown in tables, e.g. ``BN + WA``.
        conv: makes a convolution; a subclass of ``nn.Conv2d`` may re-parameterise its weight.
        activation: makes the layer after a convolution, or ``None`` for a network whose activations
            are not normalised (residual networks then use Fixup's block, see ``models/fixup.py``).
        nonlinearity: makes what stands where a network has its ReLUs. Filter Response Norm brings its own
            (the TLU), EvoNorm-S0 needs none since it holds a gate.
    """

    label: str
    conv: ConvFactory = nn.Conv2d
    activation: ActivationFactory | None = None
    nonlinearity: ActivationFactory = relu


def named(name: str) -> Norm:
    """The :class:`Norm` of ``conf/norm/<name>.yaml``, e.g. ``named("bn_wa")``.

    Raises:
        ConfigError: there is no such file; the message offers the nearest names.
    """
    files = {path.stem: path for path in (conf_dir() / "norm").glob("*.yaml")}
    if name not in files:
        raise ConfigError(f"There is no norm {name!r}. {nearest(name, files)}")
    norm: Norm = instantiate(OmegaConf.load(files[name]))
    return norm


class GroupNorm(nn.GroupNorm):
    """Torch's, which keeps the type of its input under autocast, as BatchNorm does.

    On a GPU autocast would make it float32, and with it the residual stream of a whole network; the statistics
    are taken in float32 all the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c, h, w)."""
        if not input.is_cuda:
            return super().forward(input)
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)  # the kernel wants one type
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def group_norm(channels: int, groups: int = 32, **kwargs: Any) -> GroupNorm:
    """Group Normalization (Wu & He 2018) with ``groups`` groups, fewer where channels do not allow it."""
    return GroupNorm(group_count(channels, groups), channels, **kwargs)


def group_count(channels: int, groups: int) -> int:
    """The largest divisor of ``channels`` that is at most ``groups`` and leaves two channels or more in a group.

    With one channel in each, GroupNorm would be InstanceNorm. Every layer of ResNet18…152 and VGG16 has 64
    channels or more and gets the usual 32 groups.
    """
    limit = min(groups, max(1, channels // 2))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


def layer_norm(channels: int, **kwargs: Any) -> GroupNorm:
    """Layer Normalization (Ba et al. 2016) of a feature map: one group over (C, H, W), affine per channel."""
    return GroupNorm(1, channels, **kwargs)


class InstanceNorm2d(nn.InstanceNorm2d):
    """Torch's, without running statistics, for maps of any size: a 1×1 map becomes the bias, where torch's refuses."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c, h, w)."""
        self._check_input_dim(input)
        fast = torch.backends.cudnn.enabled
        return torch.instance_norm(input, self.weight, self.bias, None, None, True, self.momentum or 0, self.eps, fast)


def instance_norm(channels: int, **kwargs: Any) -> InstanceNorm2d:
    """Instance Normalization (Ulyanov et al. 2016), affine, no running statistics."""
    return InstanceNorm2d(channels, affine=True, track_running_stats=False, **kwargs)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if its type is narrower: statistics are never taken in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
