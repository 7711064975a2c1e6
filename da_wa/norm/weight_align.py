"""WeightAlign (Shi, Li, Liu & van Gemert, ICPR 2020, arXiv 2010.07160): normalise filter weights.

Every filter is shifted to mean zero and scaled to the standard deviation of Kaiming initialisation (Eq. 10), so
that activations keep their variance without statistics of samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from da_wa.norm.normalized_conv import GainConv2d, filter_size, standardize_filters
from da_wa.norm.precision import at_least_float32

EPS = 1e-10
"""Added to the variance inside the root. The paper gives no value; trained filters have a variance near 2/n >= 4e-4."""


def align_weight(weight: Tensor, gain: Tensor, eps: float = EPS, multiple: float = 1.0) -> Tensor:
    """WeightAlign of a convolution's weight, Eq. (10) of the paper.

    ``gain · sqrt(2/n) · (W - mean(W)) / sqrt(var(W) + eps)`` for every output filter, where
    ``n = k·k·c_in/groups`` is the number of weights in a filter and the variance is the biased one.
    Invariant under ``W -> aW + b`` (a > 0) up to ``eps``; a filter of equal weights becomes zero.

    Equal to √2 times Centered Weight Normalization (:mod:`da_wa.norm.centered_weight_norm`), and to Scaled Weight
    Standardization (:mod:`da_wa.norm.scaled_weight_standard`) with gamma √2.

    Args:
        weight: (c_out, c_in/groups, k, k), any real floating-point type.
        gain: (c_out,), the learnable scale of each filter, initially 1.
        eps: added to the variance.
        multiple: factor on the paper's scale ``sqrt(2/n)``, as varied in Fig. 6.

    Returns:
        The aligned weight, with the shape and type of ``weight``.

    Raises:
        ConfigError: a filter has fewer than two weights, or the weights are not real floating-point numbers.

    >>> weight = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # n = 2, so sqrt(2/n) = 1
    >>> align_weight(weight, torch.ones(1)).flatten()
    tensor([-1.,  1.])
    """
    return standardize_filters(weight, gain * (multiple * math.sqrt(2 / filter_size(weight))), eps)


def center_weight(weight: Tensor, gain: Tensor) -> Tensor:
    """The mean-only part of WeightAlign (Eq. 6; Table IV): ``gain · (W - mean(W))`` for every filter.

    Shapes and errors: see :func:`align_weight`.

    >>> center_weight(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1), torch.ones(1)).flatten()
    tensor([-2.,  2.])
    """
    filter_size(weight)
    mean = at_least_float32(weight).mean((1, 2, 3), keepdim=True)
    return (_per_filter(gain) * (weight - mean)).to(weight.dtype)


def rescale_weight(weight: Tensor, gain: Tensor, eps: float = EPS) -> Tensor:
    """The std-only part of WeightAlign (Eq. 9; Table IV): ``gain · sqrt(2/n) · W / sqrt(var(W) + eps)``.

    The variance is the biased one, around the filter's mean, which is not removed. Shapes and errors: see
    :func:`align_weight`. A filter of equal weights w becomes ``gain · sqrt(2/(n·eps)) · w``.

    >>> rescale_weight(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1), torch.ones(1)).flatten()
    tensor([0.5000, 2.5000])
    """
    scale = math.sqrt(2 / filter_size(weight))
    var = at_least_float32(weight).var((1, 2, 3), correction=0, keepdim=True)
    return (weight * (_per_filter(gain) * scale * torch.rsqrt(var + eps))).to(weight.dtype)


def _per_filter(gain: Tensor) -> Tensor:
    return gain.view(-1, 1, 1, 1)


class WeightAlignConv2d(GainConv2d):
    """A convolution whose filters are aligned by :func:`align_weight` in every forward pass.

    Takes the arguments of ``nn.Conv2d`` and keeps its parameter names: a plain checkpoint loads, only ``gain``
    (c_out,) is missing from it. The raw weight is drawn as in Sec. III-C.

    Args:
        *args: as for ``nn.Conv2d``.
        eps: added to the variance.
        multiple: factor on the paper's scale, see Fig. 6.
        **kwargs: as for ``nn.Conv2d``.

    Raises:
        ConfigError: a filter has fewer than two weights.

    >>> conv = WeightAlignConv2d(3, 16, kernel_size=3, padding=1)
    >>> conv(torch.randn(2, 3, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    >>> conv.normalized_weight().flatten(1).mean(1).abs().max() < 1e-6
    tensor(True)
    """

    def __init__(self, *args: Any, eps: float = EPS, multiple: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps
        self.multiple = multiple

    def normalized_weight(self) -> Tensor:
        """The aligned weight, (c_out, c_in/groups, k, k)."""
        return align_weight(self.weight, self.gain, self.eps, self.multiple)


class MeanOnlyConv2d(GainConv2d):
    """A convolution whose filters are centred by :func:`center_weight`: WeightAlign without its scale.

    >>> conv = MeanOnlyConv2d(3, 16, kernel_size=3)
    >>> conv.normalized_weight().flatten(1).mean(1).abs().max() < 1e-6
    tensor(True)
    """

    def normalized_weight(self) -> Tensor:
        """The centred weight, (c_out, c_in/groups, k, k)."""
        return center_weight(self.weight, self.gain)


class StdOnlyConv2d(GainConv2d):
    """A convolution whose filters are scaled by :func:`rescale_weight`: WeightAlign without its shift.

    >>> conv = StdOnlyConv2d(8, 16, kernel_size=3)  # n = 72: a standard deviation of sqrt(2/n) = 1/6
    >>> torch.allclose(6 * conv.normalized_weight().flatten(1).std(1, correction=0), torch.ones(16))
    True
    """

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalized_weight(self) -> Tensor:
        """The rescaled weight, (c_out, c_in/groups, k, k)."""
        return rescale_weight(self.weight, self.gain, self.eps)
