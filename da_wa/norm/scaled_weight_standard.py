"""Scaled Weight Standardization of NF-ResNets (Brock, De & Smith, ICLR 2021, arXiv 2101.08692)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from da_wa.norm.normalised_conv import GainConv2d, filter_size, standardise

EPS = 1e-6
GAMMA_RELU = math.sqrt(2 / (1 - 1 / math.pi))
"""Restores the variance that a ReLU takes from a standard normal input: 1.7139…"""


def scale_standardise_weight(weight: Tensor, gain: Tensor, gamma: float = GAMMA_RELU, eps: float = EPS) -> Tensor:
    """``gain · gamma · (W - mean(W)) / (sqrt(n) · sqrt(var(W) + eps))`` for every filter of n weights (Eq. 5).

    The paper has ``gamma`` behind the non-linearity; here, as in timm's ``ScaledStdConv2d``, it is in the weight.
    WeightAlign is this with gamma √2, which keeps the second moment of a centred input, not its variance.

    Args:
        weight: (c_out, c_in/groups, k, k).
        gain: (c_out,), the learnable scale of each filter.
        gamma: the gain of the non-linearity in front.
        eps: added to the variance.

    Returns:
        The standardised weight, of the same shape; a filter of equal weights becomes zero.

    Raises:
        ConfigError: weights that are not real floating-point numbers, or fewer than two in a filter.
    """
    return standardise(weight, gain * (gamma / math.sqrt(filter_size(weight))), eps)


class ScaledWeightStandardConv2d(GainConv2d):
    """A convolution whose filters are standardised by :func:`scale_standardise_weight`."""

    def __init__(self, *args: Any, gamma: float = GAMMA_RELU, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.eps = eps

    def normalised_weight(self) -> Tensor:
        """The normalised weight, (c_out, c_in/groups, k, k)."""
        return scale_standardise_weight(self.weight, self.gain, self.gamma, self.eps)
