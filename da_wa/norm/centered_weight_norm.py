"""Centered Weight Normalization (Huang, Liu, Liu, Lang & Tao, ICCV 2017)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from da_wa.norm.normalized_conv import GainConv2d, filter_size, standardize_filters

EPS = 1e-10


def center_weight_norm(weight: Tensor, gain: Tensor, eps: float = EPS) -> Tensor:
    """``gain · (W - mean(W)) / ‖W - mean(W)‖`` for every filter.

    √2 times this is WeightAlign. The authors' PyTorch module with ``adjustScale=True`` is this with an initial gain
    of ``NScale = 1.414``; it adds 1e-5 to the norm, here ``eps`` is added to the variance.

    Args:
        weight: (c_out, c_in/groups, k, k).
        gain: (c_out,), the norm of each filter of the result.
        eps: added to the variance of a filter.

    Returns:
        The normalised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> import torch
    >>> center_weight_norm(torch.tensor([1.0, 1.0, 3.0, 3.0]).view(1, 4, 1, 1), torch.ones(1)).flatten()
    tensor([-0.5000, -0.5000,  0.5000,  0.5000])
    """
    return standardize_filters(weight, gain / math.sqrt(filter_size(weight)), eps)


class CenteredWeightNormConv2d(GainConv2d):
    """A convolution whose filters are normalised by :func:`center_weight_norm`.

    >>> conv = CenteredWeightNormConv2d(3, 16, kernel_size=3)
    >>> round(conv.normalized_weight().flatten(1).norm(dim=1).mean().item(), 4)
    1.0
    """

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalized_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return center_weight_norm(self.weight, self.gain, self.eps)
