"""Base classes of convolutions that normalise their weight in every forward pass."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.errors import ConfigError


def filter_size(weight: Tensor) -> int:
    """The number n of weights in one filter of a convolution's weight.

    Args:
        weight: (c_out, c_in/groups, k, k).

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> filter_size(torch.zeros(64, 16, 3, 3))
    144
    """
    n = math.prod(weight.shape[1:])
    if not weight.is_floating_point():
        raise ConfigError(f"weights of type {weight.dtype} cannot be normalised; use a real floating-point type")
    if len(weight) == 0 or n < 2:
        raise ConfigError(
            f"weights of shape {tuple(weight.shape)} cannot be normalised: a filter needs two weights or more; "
            "use a plain nn.Conv2d here"
        )
    return n


def standardize_filters(weight: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``scale · (W - mean(W)) / sqrt(var(W) + eps)`` for every filter, with the biased variance.

    One fused kernel computes it: group normalisation of the weight viewed as (1, c_out, n), one group per
    filter. ``benchmarks/norm_cost.py`` compares it with the formula written with ``mean`` and ``var``, as in
    :class:`~da_wa.norm.weight_standard.WeightStandardConv2d`.

    Args:
        weight: (c_out, c_in/groups, k, k), two weights or more per filter.
        scale: (c_out,), the standard deviation of each filter of the result.
        eps: added to the variance.

    Returns:
        A tensor of the shape, type and memory format of ``weight``; a filter of equal weights becomes zero.

    >>> weight = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    >>> standardize_filters(weight, torch.tensor([5.0]), eps=0.0).flatten()
    tensor([-5.,  5.])
    """
    if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
        return _standardize_rows(weight, scale, eps)
    # The order within a filter does not matter: no copies.
    return _standardize_rows(weight.permute(0, 2, 3, 1), scale, eps).permute(0, 3, 1, 2)


def _standardize_rows(weight: Tensor, scale: Tensor, eps: float) -> Tensor:
    rows = weight.reshape(1, len(weight), -1)
    return F.group_norm(rows, len(weight), scale, eps=eps).view(weight.shape)


class NormalizedConv2d(nn.Conv2d):
    """A convolution that uses ``normalized_weight()``, a function of its raw weight.

    Takes the arguments of ``nn.Conv2d`` and keeps the parameter names ``weight`` and ``bias``, so that a plain
    checkpoint loads. The raw weight is drawn from N(0, 2/n) (He et al. 2015), with n weights per filter.
    Subclasses implement ``normalized_weight``.

    Raises:
        ConfigError: a filter has fewer than two weights.

    >>> class Centered(NormalizedConv2d):
    ...     def normalized_weight(self):
    ...         return self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    >>> conv = Centered(3, 8, kernel_size=3, padding=1)
    >>> conv(torch.zeros(1, 3, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        filter_size(self.weight)

    def reset_parameters(self) -> None:
        """Draw the raw weight again and set the bias to 0."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def normalized_weight(self) -> Tensor:
        """The weight that the convolution uses, (c_out, c_in/groups, k, k)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h', w')."""
        maps: Tensor = self._conv_forward(x, self.normalized_weight(), self.bias)
        return maps


class GainConv2d(NormalizedConv2d):
    """A normalised convolution with one learnable gain per filter; the weight is proportional to it.

    Attributes:
        gain: (c_out,), initially 1.

    >>> from da_wa.norm import WeightAlignConv2d
    >>> conv = WeightAlignConv2d(3, 8, 3)
    >>> isinstance(conv, GainConv2d), conv.gain.shape
    (True, torch.Size([8]))
    """

    gain: nn.Parameter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))
        self.reset_gain()

    def reset_parameters(self) -> None:
        """Draw the raw weight again, set the bias to 0 and the gain to its initial value."""
        super().reset_parameters()
        if hasattr(self, "gain"):  # nn.Conv2d.__init__ calls this before the gain exists
            self.reset_gain()

    def reset_gain(self) -> None:
        """Set the gain to its initial value."""
        nn.init.ones_(self.gain)

    @torch.no_grad()
    def match_gain(self) -> None:
        """Set the gain so that the normalised weight is closest (least squares) to the raw weight.

        A filter that differs from its normalised form only in scale is reproduced. Where the normalised filter is
        zero, it has no direction, and gradients would be divided by the square root of eps: the raw filter is drawn
        anew and the gain becomes 0, which computes the same.

        >>> from da_wa.norm import WeightNormConv2d
        >>> conv = WeightNormConv2d(3, 8, 3)
        >>> conv.match_gain()
        >>> torch.allclose(conv.normalized_weight(), conv.weight)
        True
        """
        nn.init.ones_(self.gain)
        wide = torch.float32 if self.weight.device.type == "mps" else torch.float64  # mps has no float64
        unit, raw = (w.flatten(1).to(wide) for w in (self.normalized_weight(), self.weight))
        exact = (
            deepcopy(self).to(wide).normalized_weight().flatten(1)
        )  # of equal weights, float32 leaves a rounding error
        dead = exact.square().sum(1) <= 1e-16 * raw.square().sum(1)
        self.gain.copy_(torch.where(dead, 0.0, (unit * raw).sum(1) / unit.square().sum(1)))
        if not dead.is_meta and dead.any():
            self.weight[dead] = nn.init.kaiming_normal_(torch.empty_like(self.weight), nonlinearity="relu")[dead]
