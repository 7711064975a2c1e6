"""Weight Standardization (Qiao, Wang, Liu, Shen & Yuille 2019, arXiv 1903.10520)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from da_wa.norm.normalized_conv import NormalizedConv2d, filter_size
from da_wa.norm.precision import at_least_float32

EPS = 1e-5


def standardize_weight(weight: Tensor, eps: float = EPS) -> Tensor:
    """``(W - mean(W)) / (std(W) + eps)`` for every filter, with the unbiased standard deviation.

    As in the authors' code. There is no gain: the authors use it only before an activation norm.
    timm's ``StdConv2d`` differs: biased variance, 1e-6 inside the root.

    Args:
        weight: (c_out, c_in/groups, k, k).
        eps: added to the standard deviation.

    Returns:
        The standardised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> standardize_weight(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), eps=0.0).flatten()
    tensor([-1.,  0.,  1.])
    """
    filter_size(weight)
    std, mean = torch.std_mean(at_least_float32(weight), (1, 2, 3), keepdim=True)
    return ((weight - mean) / (std + eps)).to(weight.dtype)


class WeightStandardConv2d(NormalizedConv2d):
    """A convolution whose filters are standardised by :func:`standardize_weight`.

    >>> conv = WeightStandardConv2d(3, 16, kernel_size=3)
    >>> conv.normalized_weight().flatten(1).std(1).allclose(torch.ones(16), atol=1e-3)
    True
    """

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalized_weight(self) -> Tensor:
        """The standardised weight, (c_out, c_in/groups, k, k)."""
        return standardize_weight(self.weight, self.eps)
