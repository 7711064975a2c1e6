"""Group normalisation in a form that ``torch.compile`` turns into fast code for a processor.

torch's kernel for several groups is slow on maps in ``channels_last``, the layout that convolutions prefer, and the
compiler's own decomposition of it reads such maps with large strides. Here every pass over a map is a sum over its
pixels, or ``a·x + b`` with coefficients per channel: both read the memory in order, 16 channels at a time. The
statistics are float32, as in torch's kernels. The variance is E[x²] - mean², in one pass: its rounding error grows with
(mean/std)², so results agree with torch's up to rounding unless means are much larger than standard deviations. Without
the compiler this is slower than torch's kernels, so layers use it only while they are compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from da_wa.errors import ConfigError
from da_wa.norm.precision import at_least_float32


def fused_group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group Normalization (Wu & He 2018, Eq. 1 and 6), with its own backward pass.

    Args:
        x: (n, c, h, w) of any floating-point type, which is also the type of the result.
        weight: (c,), the scale of each channel.
        bias: (c,), likewise.
        groups: one for LayerNorm over (C, H, W), ``c`` for InstanceNorm.
        eps: added to the variance.

    Raises:
        ConfigError: the channels cannot be divided into so many groups.

    >>> x, weight, bias = torch.randn(2, 8, 4, 4), torch.rand(8), torch.rand(8)
    >>> expected = torch.nn.functional.group_norm(x, 4, weight, bias)
    >>> torch.allclose(fused_group_norm(x, weight, bias, 4, 1e-5), expected, atol=1e-5)
    True
    """
    if groups < 1 or x.shape[1] % groups:
        raise ConfigError(f"{x.shape[1]} channels cannot be divided into {groups} groups; choose a divisor")
    normalized: Tensor = _GroupNorm.apply(x, weight, bias, groups, eps)
    return normalized


class _GroupNorm(torch.autograd.Function):
    """``y = w·x̂ + b`` with ``x̂ = (x - mean)/std``; every coefficient is (n, c), the value of the channel's group."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # it would compute the statistics in half precision
            wide, pixels = at_least_float32(x), x.shape[2] * x.shape[3]
            mean = _group_mean(wide.sum((2, 3)), groups) / pixels
            square = _group_mean((wide * wide).sum((2, 3)), groups) / pixels
            inverse_std = torch.rsqrt((square - mean * mean).clamp_min(0) + eps)
            scale = weight * inverse_std
            ctx.save_for_backward(x, weight, mean, inverse_std)
            ctx.groups = groups  # type: ignore[attr-defined]
            return (wide * _map(scale) + _map(bias - mean * scale)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            wide, g, pixels = at_least_float32(x), at_least_float32(gradient), x.shape[2] * x.shape[3]
            of_bias = g.sum((2, 3))
            of_weight = ((g * wide).sum((2, 3)) - mean * of_bias) * inverse_std  # Σ g·x̂
            shift = _group_mean(weight * of_bias, ctx.groups) / pixels
            slope = _group_mean(weight * of_weight, ctx.groups) / pixels
            # dx = (w·g - shift - slope·x̂) / std
            along = -slope * inverse_std * inverse_std
            rest = -shift * inverse_std - along * mean
            dx = (g * _map(weight * inverse_std) + wide * _map(along) + _map(rest)).to(x.dtype)
            return dx, of_weight.sum(0).to(weight.dtype), of_bias.sum(0).to(weight.dtype), None, None


def _group_mean(values: Tensor, groups: int) -> Tensor:
    """The mean over the channels of a group, for every channel: (n, c) -> (n, c)."""
    n, channels = values.shape
    size = channels // groups
    if size == 1:
        return values
    if groups == 1:
        return values.mean(1, keepdim=True).expand(n, channels)
    # A matrix product is not fused into the passes over the map, where it would prevent vector instructions.
    return (values.view(n * groups, size) @ values.new_full((size, size), 1 / size)).view(n, channels)


def _map(coefficients: Tensor) -> Tensor:
    return coefficients[:, :, None, None]
