"""WeightAlign (Shi, Li, Liu & van Gemert, ICPR 2020, arXiv 2010.07160): normalise filter weights.

Every filter is shifted to mean zero and scaled to the standard deviation of Kaiming's initialisation
(Eq. 10), so that activations keep their variance without any statistics of samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from da_wa.norm.normalised_conv import GainConv2d, filter_size, standardise
from da_wa.norm.spec import at_least_float32

EPS = 1e-10
"""Added to the variance inside the root. The paper gives none; trained filters have a variance near 2/n >= 4e-4."""


def align_weight(weight: Tensor, gain: Tensor, eps: float = EPS, multiple: float = 1.0) -> Tensor:
    """WeightAlign of a convolution's weight, Eq. (10) of the paper.

    ``gain · sqrt(2/n) · (W - mean(W)) / sqrt(var(W) + eps)`` for every output filter, where
    ``n = k·k·c_in/groups`` is the number of weights in a filter and the variance is the biased one.
    Invariant under ``W -> aW + b`` (a > 0) up to ``eps``; a filter of equal weights becomes zero.

    The same as √2 times Centered Weight Normalization (:mod:`da_wa.norm.centered_weight_norm`), and as
    Scaled Weight Standardization (:mod:`da_wa.norm.scaled_weight_standard`) with gamma √2.

    Args:
        weight: (c_out, c_in/groups, k, k), any real floating type.
        gain: (c_out,), the learnable scale of each filter, 1 at the start.
        eps: added to the variance.
        multiple: of the paper's scale ``sqrt(2/n)``, as varied in Fig. 6.

    Returns:
        The aligned weight, the shape and type of ``weight``.

    Raises:
        ConfigError: weights that are not real floating-point numbers, or fewer than two in a filter.
    """
    return standardise(weight, gain * (multiple * math.sqrt(2 / filter_size(weight))), eps)


def centre_weight(weight: Tensor, gain: Tensor) -> Tensor:
    """The mean-only part of WeightAlign (Eq. 6; Table IV): ``gain · (W - mean(W))`` for every filter.

    Shapes and errors are those of :func:`align_weight`.
    """
    filter_size(weight)
    mean = at_least_float32(weight).mean((1, 2, 3), keepdim=True)
    return (_per_filter(gain) * (weight - mean)).to(weight.dtype)


def rescale_weight(weight: Tensor, gain: Tensor, eps: float = EPS) -> Tensor:
    """The std-only part of WeightAlign (Eq. 9; Table IV): ``gain · sqrt(2/n) · W / sqrt(var(W) + eps)``.

    The variance is the biased one, about the mean that stays in the filter. Shapes and errors are those of
    :func:`align_weight`. A filter of equal weights w becomes ``gain · sqrt(2/(n·eps)) · w``.
    """
    scale = math.sqrt(2 / filter_size(weight))
    var = at_least_float32(weight).var((1, 2, 3), correction=0, keepdim=True)
    return (weight * (_per_filter(gain) * scale * torch.rsqrt(var + eps))).to(weight.dtype)


def _per_filter(gain: Tensor) -> Tensor:
    return gain.view(-1, 1, 1, 1)


class WeightAlignConv2d(GainConv2d):
    """A convolution whose filters are aligned by :func:`align_weight` at every forward pass.

    Takes the arguments of ``nn.Conv2d`` and keeps its parameter names, so that a plain checkpoint
    loads into it but for ``gain`` (c_out,). The raw weight is drawn as in Sec. III-C.

    Args:
        eps: added to the variance.
        multiple: of the paper's scale, see Fig. 6.
    """

    def __init__(self, *args: Any, eps: float = EPS, multiple: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps
        self.multiple = multiple

    def normalised_weight(self) -> Tensor:
        """The aligned weight, (c_out, c_in/groups, k, k)."""
        return align_weight(self.weight, self.gain, self.eps, self.multiple)


class MeanOnlyConv2d(GainConv2d):
    """A convolution whose filters are shifted by :func:`centre_weight`: WeightAlign without its scale."""

    def normalised_weight(self) -> Tensor:
        """The centred weight, (c_out, c_in/groups, k, k)."""
        return centre_weight(self.weight, self.gain)


class StdOnlyConv2d(GainConv2d):
    """A convolution whose filters are scaled by :func:`rescale_weight`: WeightAlign without its shift."""

    def __init__(self, *args: Any, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def normalised_weight(self) -> Tensor:
        """The rescaled weight, (c_out, c_in/groups, k, k)."""
        return rescale_weight(self.weight, self.gain, self.eps)
