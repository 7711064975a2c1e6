"""Centered Weight Normalization (Huang, Liu, Liu, Lang & Tao, ICCV 2017)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from da_wa.norm.normalised_conv import GainConv2d, filter_size, standardise

EPS = 1e-10


def center_weight_norm(weight: Tensor, gain: Tensor, eps: float = EPS) -> Tensor:
    """``gain · (W - mean(W)) / ‖W - mean(W)‖`` for every filter.

    √2 times this is WeightAlign. The authors' PyTorch module with ``adjustScale=True`` is this with its gain
    starting at ``NScale = 1.414``; it adds 1e-5 to the norm, where ``eps`` is added to the variance here.

    Args:
        weight: (c_out, c_in/groups, k, k).
        gain: (c_out,), the norm of each filter of the result.
        eps: added to the variance of a filter.

    Returns:
        The normalised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: weights that are not real floating-point numbers, or fewer than two in a filter.
    """
    return standardise(weight, gain / math.sqrt(filter_size(weight)), eps)


class CenteredWeightNormConv2d(GainConv2d):
    """A convolution whose filters are normalised by :func:`center_weight_norm`."""

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalised_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return center_weight_norm(self.weight, self.gain, self.eps)
