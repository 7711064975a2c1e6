"""Exact mean and variance of all images, merged from batches: the statistics of AdaBN and of streams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and variance of ``count`` values per channel.

    Attributes:
        count: values per channel: images × pixels.
        mean: (c,), float64.
        var: (c,), float64, the biased (population) variance.

    >>> moments(torch.tensor([[1.0], [3.0]]))
    Moments(count=2, mean=tensor([2.], dtype=torch.float64), var=tensor([1.], dtype=torch.float64))
    """

    count: int
    mean: Tensor
    var: Tensor


def moments(x: Tensor) -> Moments:
    """The moments of one batch, per channel.

    Args:
        x: (n, c) or (n, c, …), the input of a BatchNorm.

    Raises:
        ValueError: fewer than two dimensions, or no values.

    >>> moments(torch.zeros(2, 3, 4, 4)).count
    32
    """
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"maps of shape {tuple(x.shape)} must be (n, c, …) with at least one value per channel")
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # mps has no float64
    dims = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x.detach().to(wide), dims, correction=0)
    return Moments(x.numel() // x.shape[1], mean, var)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of two sets of values together (Chan, Golub & LeVeque 1983).

    With n = n_a + n_b and δ = μ_b - μ_a: ``μ = μ_a + δ n_b/n``, ``σ² = (n_a σ_a² + n_b σ_b²)/n + δ² n_a n_b/n²``.
    AdaBN (Li et al. 2016, arXiv 1603.04779) takes the moments of all target images; merged batch by batch they are
    exact, whatever the order and the size of the batches. A running average with a momentum is neither.

    Args:
        a: of the batches so far.
        b: of one more batch.

    Raises:
        ValueError: different numbers of channels, or a count below 1.

    >>> x = torch.randn(10, 3, dtype=torch.float64)
    >>> torch.allclose(merge_moments(moments(x[:7]), moments(x[7:])).var, x.var(0, correction=0))
    True
    """
    if a.mean.shape != b.mean.shape or min(a.count, b.count) < 1:
        raise ValueError(
            f"moments of {a.count} and {b.count} values, {tuple(a.mean.shape)} and {tuple(b.mean.shape)} channels: "
            "expected one value or more, and equal channels"
        )
    n = a.count + b.count
    delta = b.mean - a.mean
    var = (a.count * a.var + b.count * b.var) / n + delta.square() * (a.count * b.count / n**2)
    return Moments(n, a.mean + delta * (b.count / n), var)


def blend(source: Tensor, target: Tensor, alpha: float = 1.0) -> Tensor:
    """``(1 - α) · source + α · target``, for the means and for the variances of AdaBN.

    Args:
        source: (c,), a running mean or variance.
        target: (c,), of the same kind, from :class:`Moments`.
        alpha: in [0, 1]; 1 replaces the source's statistics.

    Returns:
        (c,), with the type of ``source``.

    Raises:
        ValueError: ``alpha`` is outside [0, 1], or the shapes differ.

    >>> blend(torch.tensor([0.0]), torch.tensor([4.0]), alpha=0.25)
    tensor([1.])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in [0, 1]: 0 keeps the source's statistics, 1 takes the target's")
    if source.shape != target.shape:
        raise ValueError(f"statistics of {tuple(source.shape)} and {tuple(target.shape)} channels do not match")
    return ((1 - alpha) * source.to(target.dtype) + alpha * target).to(source.dtype)
