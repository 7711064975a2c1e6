"""Weight Standardization (Qiao, Wang, Liu, Shen & Yuille 2019, arXiv 1903.10520)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from da_wa.norm.normalised_conv import NormalisedConv2d, filter_size
from da_wa.norm.spec import at_least_float32

EPS = 1e-5


def standardise_weight(weight: Tensor, eps: float = EPS) -> Tensor:
    """``(W - mean(W)) / (std(W) + eps)`` for every filter, with the unbiased standard deviation.

    As in the authors' code. There is no gain: the authors use it only in front of an activation norm.
    timm's ``StdConv2d`` differs: biased variance, 1e-6 inside the root.

    Args:
        weight: (c_out, c_in/groups, k, k).
        eps: added to the standard deviation.

    Returns:
        The standardised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: weights that are not real floating-point numbers, or fewer than two in a filter.
    """
    filter_size(weight)
    std, mean = torch.std_mean(at_least_float32(weight), (1, 2, 3), keepdim=True)
    return ((weight - mean) / (std + eps)).to(weight.dtype)


class WeightStandardConv2d(NormalisedConv2d):
    """A convolution whose filters are standardised by :func:`standardise_weight`."""

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalised_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return standardise_weight(self.weight, self.eps)
