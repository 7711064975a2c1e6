"""Convolutions that use a function of their weight: what WeightAlign and its relatives have in common."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_wa.errors import ConfigError


def filter_size(weight: Tensor) -> int:
    """The number n of weights in a filter of ``weight`` (c_out, c_in/groups, k, k).

    Raises:
        ConfigError: filters without mean and variance: fewer than two weights, or no real floating-point numbers.
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


def standardise(weight: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``scale · (W - mean(W)) / sqrt(var(W) + eps)`` for every filter, with the biased variance.

    One fused kernel computes it: group normalisation of the weight viewed as (1, c_out, n), every filter a
    group. ``benchmarks/norm_cost.py`` compares it with the formula written with ``mean`` and ``var``, which
    :class:`~da_wa.norm.weight_standard.WeightStandardConv2d` uses.

    Args:
        weight: (c_out, c_in/groups, k, k), two weights or more in a filter.
        scale: (c_out,), the standard deviation of each filter of the result.
        eps: added to the variance.

    Returns:
        The shape, type and memory format of ``weight``; a filter of equal weights becomes zero.
    """
    if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
        return _standardise_rows(weight, scale, eps)
    # The order within a filter does not matter: no copies.
    return _standardise_rows(weight.permute(0, 2, 3, 1), scale, eps).permute(0, 3, 1, 2)


def _standardise_rows(weight: Tensor, scale: Tensor, eps: float) -> Tensor:
    rows = weight.reshape(1, len(weight), -1)
    return F.group_norm(rows, len(weight), scale, eps=eps).view(weight.shape)


class NormalisedConv2d(nn.Conv2d):
    """A convolution with ``normalised_weight()``, a function of its raw weight, instead of the weight itself.

    Takes the arguments of ``nn.Conv2d`` and keeps its parameter names ``weight`` and ``bias``, so that a plain
    checkpoint loads into it. The raw weight is drawn from N(0, 2/n) (He et al. 2015), n weights in a filter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        filter_size(self.weight)

    def reset_parameters(self) -> None:
        """Draw the raw weight again; the bias becomes 0."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def normalised_weight(self) -> Tensor:
        """The weight the convolution uses, (c_out, c_in/groups, k, k)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, c_in, h, w) -> (n, c_out, h', w')."""
        maps: Tensor = self._conv_forward(x, self.normalised_weight(), self.bias)
        return maps


class GainConv2d(NormalisedConv2d):
    """A normalised convolution with one learnable scale per filter, to which its weight is proportional.

    Attributes:
        gain: (c_out,), 1 at the start.
    """

    gain: nn.Parameter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))
        self.reset_gain()

    def reset_parameters(self) -> None:
        """Draw the raw weight again; the bias becomes 0, the gain as at the start."""
        super().reset_parameters()
        if hasattr(self, "gain"):  # nn.Conv2d calls this before there is one
            self.reset_gain()

    def reset_gain(self) -> None:
        """Set the gain to its value at the start."""
        nn.init.ones_(self.gain)

    @torch.no_grad()
    def match_gain(self) -> None:
        """Set the gain that brings the normalised weight closest (least squares) to the raw weight.

        A filter that differs from its normalised form in scale alone is reproduced. Where the normalised
        filter is zero, any gain will do: it becomes 1.
        """
        nn.init.ones_(self.gain)
        wide = torch.float32 if self.weight.device.type == "mps" else torch.float64  # the widest that there is
        unit, raw = (w.flatten(1).to(wide) for w in (self.normalised_weight(), self.weight))
        size = unit.square().sum(1)
        self.gain.copy_(torch.where(size > 0, (unit * raw).sum(1) / size, 1.0))
