"""Scaled Weight Standardization of NF-ResNets (Brock, De & Smith, ICLR 2021, arXiv 2101.08692)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from da_wa.norm.normalized_conv import GainConv2d, filter_size, standardize_filters

EPS = 1e-6
GAMMA_RELU = math.sqrt(2 / (1 - 1 / math.pi))
"""Restores the variance of a standard normal input after a ReLU: 1.7128…; timm has 1.7139, measured."""


def scaled_standardize_weight(weight: Tensor, gain: Tensor, gamma: float = GAMMA_RELU, eps: float = EPS) -> Tensor:
    """``gain · gamma · (W - mean(W)) / (sqrt(n) · sqrt(var(W) + eps))`` for every filter of n weights (Eq. 5).

    The paper applies ``gamma`` after the non-linearity; here, as in timm's ``ScaledStdConv2d``, it is part of the
    weight. WeightAlign is this with gamma √2, which keeps the second moment of a centred input, not its variance.

    Args:
        weight: (c_out, c_in/groups, k, k).
        gain: (c_out,), the learnable scale of each filter.
        gamma: the gain of the preceding non-linearity.
        eps: added to the variance.

    Returns:
        The standardised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> import torch
    >>> weight = torch.tensor([1.0, 1.0, 3.0, 3.0]).view(1, 4, 1, 1)  # n = 4
    >>> scaled_standardize_weight(weight, torch.ones(1), gamma=2.0, eps=0.0).flatten()
    tensor([-1., -1.,  1.,  1.])
    """
    return standardize_filters(weight, gain * (gamma / math.sqrt(filter_size(weight))), eps)


class ScaledWeightStandardConv2d(GainConv2d):
    """A convolution whose filters are standardised by :func:`scaled_standardize_weight`.

    >>> conv = ScaledWeightStandardConv2d(3, 16, kernel_size=3)
    >>> round(conv.normalized_weight().flatten(1).norm(dim=1).mean().item(), 2)  # GAMMA_RELU
    1.71
    """

    def __init__(self, *args: Any, gamma: float = GAMMA_RELU, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.eps = eps

    def normalized_weight(self) -> Tensor:
        """The standardised weight, (c_out, c_in/groups, k, k)."""
        return scaled_standardize_weight(self.weight, self.gain, self.gamma, self.eps)
