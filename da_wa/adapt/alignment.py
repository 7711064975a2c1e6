"""Losses that align the features of two domains: moments, kernels, discriminators, norms.

Features are (n_s, d) and (n_t, d), the numbers of rows may differ. Any real floating-point type is accepted; values
are computed in float32 at least.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.adapt.inputs import batch, pair, product
from da_wa.adapt.losses import entropy
from da_wa.norm.precision import at_least_float32

LARGEST_PRODUCT = 4096
"""The largest f ⊗ p that :func:`condition` computes without random maps (Long et al. 2018)."""


def unit_scale(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both features divided by ``sg sqrt(mean f_s²)``, the root mean square of the source's entries.

    Normalisations change the scale of features, and CORAL grows with its fourth power. With this, losses compare
    across normalisations. Features that are all zero are unchanged.

    Args:
        source: (n_s, d).
        target: (n_t, d).

    Raises:
        ValueError: empty batches, or different d.

    >>> unit_scale(torch.full((2, 3), 5.0), torch.full((1, 3), 10.0))[1]
    tensor([[2., 2., 2.]])
    """
    source, target = pair(source, target, "features")
    rms = source.detach().square().mean().sqrt()
    rms = torch.where(rms > 0, rms, 1)
    return source / rms, target / rms


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Deep CORAL (Sun & Saenko, ECCV workshops 2016, arXiv 1607.01719, Eq. 1): ``‖C_s - C_t‖²_F / 4d²``.

    C is the covariance of features with n - 1 (Eqs. 2, 3). There is no term for the means.

    Args:
        source: (n_s, d).
        target: (n_t, d).

    Returns:
        A scalar. It grows with the fourth power of the features, see :func:`unit_scale`.

    Raises:
        ValueError: fewer than two rows, or different d.

    >>> coral(torch.tensor([[-1.0], [1.0]]), torch.tensor([[5.0], [5.0]]))  # (2 - 0)² / 4
    tensor(1.)
    """
    source, target = pair(source, target, "features", rows=2)
    return (_covariance(source) - _covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def _covariance(x: Tensor) -> Tensor:
    centered = x - x.mean(0)
    return product(centered.T, centered) / (len(x) - 1)


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with the kernels of DAN (Long et al., ICML 2015, arXiv 1502.02791).

    ``k(x, y) = Σ_{i=-3..1} exp(-‖x - y‖² / (2 · 2^i · σ²))``; σ² is the mean of ‖x - y‖² over all ordered pairs of the
    n_s + n_t rows, each row with itself included, and carries no gradient.

    The estimator is the biased one (V-statistic), ``mean k(s, s') + mean k(t, t') - 2 mean k(s, t)`` with the pairs
    of a row and itself: 0 for equal batches and, up to rounding, never negative.

    Args:
        source: (n_s, d).
        target: (n_t, d).

    Returns:
        A scalar in [0, 10]; 0 if all rows are equal.

    Raises:
        ValueError: empty batches, or different d.

    >>> x = torch.randn(8, 4)
    >>> mmd(x, x).abs() < 1e-6, mmd(x, x + 1) > 0.1
    (tensor(True), tensor(True))
    """
    source, target = pair(source, target, "features")
    pooled = torch.cat([source, target])
    # Not by matrix products: equal rows have a distance of exactly 0, and a common offset costs no digits.
    distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square()
    mean = distance.detach().mean()
    distance = distance / torch.where(mean > 0, mean, 1)
    kernel = torch.stack([torch.exp(-distance / (2 * 2.0**i)) for i in range(-3, 2)]).sum(0)
    sign = torch.cat(
        [source.new_full((len(source),), 1 / len(source)), target.new_full((len(target),), -1 / len(target))]
    )
    return (sign[:, None] * sign * kernel).sum()


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """``x``; in the backward pass the gradient is multiplied by ``-scale``.

    Gradient reversal (Ganin & Lempitsky, ICML 2015, arXiv 1409.7495).

    Args:
        x: of any shape.
        scale: λ, see :func:`ramp`.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    reversed_: Tensor = _Reverse.apply(x, scale)
    return reversed_


def ramp(progress: float, rate: float = 10.0, top: float = 1.0) -> float:
    """``λ(τ) = top · (2 / (1 + e^{-rate·τ}) - 1)``, the schedule of gradient reversal.

    Ganin et al., JMLR 2016, arXiv 1505.07818. A function of the share of steps done only, so it survives a resume.

    Args:
        progress: τ in [0, 1].
        rate: how fast it grows.
        top: its limit; MDD uses 0.1.

    Raises:
        ValueError: ``progress`` is outside [0, 1].

    >>> round(ramp(0.1), 3)
    0.462
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} must be in [0, 1]: the share of all steps that are done")
    return top * (2 / (1 + math.exp(-rate * progress)) - 1)


def domain_bce(
    source: Tensor,
    target: Tensor,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of a domain discriminator: source is 1, target is 0, both domains count the same.

    ``½ [mean_s w·(-log D(s)) + mean_t w·(-log(1 - D(t)))]`` with D the sigmoid of the discriminator's output. DANN
    (Ganin et al. 2016, arXiv 1505.07818) has w = 1, CDAN+E has :func:`entropy_weights` (Long et al. 2018).

    Args:
        source: outputs before the sigmoid, (n_s,) or (n_s, 1).
        target: (n_t,) or (n_t, 1).
        source_weights: (n_s,).
        target_weights: (n_t,).

    Returns:
        A scalar; ln 2 if D is ½ everywhere (and the weights have mean 1).

    Raises:
        ValueError: empty batches, or other shapes.

    >>> domain_bce(torch.zeros(4), torch.zeros(2, 1))
    tensor(0.6931)
    """
    return 0.5 * (_one_domain(source, 1, source_weights) + _one_domain(target, -1, target_weights))


def _one_domain(outputs: Tensor, sign: int, weights: Tensor | None) -> Tensor:
    if outputs.shape[1:] not in ((), (1,)) or outputs.ndim == 0 or len(outputs) == 0:
        raise ValueError(f"discriminator outputs of shape {tuple(outputs.shape)} must be (n,) or (n, 1) with n >= 1")
    losses = -F.logsigmoid(sign * at_least_float32(outputs).flatten())
    if weights is None:
        return losses.mean()
    if weights.shape != losses.shape:
        raise ValueError(f"weights of shape {tuple(weights.shape)} must be ({len(losses)},), one for each row")
    return (at_least_float32(weights) * losses).mean()


def entropy_weights(logits: Tensor) -> Tensor:
    """The weights of CDAN+E (Long et al., NeurIPS 2018, arXiv 1705.10667): ``n · w / Σ w``, ``w = 1 + e^{-H(p)}``.

    Normalised in one domain. Without gradient.

    Args:
        logits: (n, K).

    Returns:
        (n,), with mean 1; all 1 with K = 1.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 1.

    >>> entropy_weights(torch.tensor([[50.0, 0.0], [0.0, 0.0]]))  # 2 and 1.5, divided by 1.75
    tensor([1.1429, 0.8571])
    """
    weights = 1 + torch.exp(-entropy(logits.detach()))
    return weights / weights.mean()


def random_maps(
    features: int, classes: int, size: int = 1024, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Fixed Gaussian matrices (d, size) and (K, size) for :func:`condition`: make them once, keep them as buffers.

    Raises:
        ValueError: a size below 1.

    >>> [tuple(m.shape) for m in random_maps(2048, 31)]
    [(2048, 1024), (31, 1024)]
    """
    if min(features, classes, size) < 1:
        raise ValueError(f"features={features}, classes={classes}, size={size} must be 1 or more")
    return torch.randn(features, size, generator=generator), torch.randn(classes, size, generator=generator)


def condition(features: Tensor, logits: Tensor, maps: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The input of CDAN's discriminator (Long et al., NeurIPS 2018, arXiv 1705.10667): ``f ⊗ sg p``, p = softmax(z).

    With random maps ``(f R_f) ⊙ (sg p R_p) / sqrt(size)``; its inner products are those of f ⊗ p in expectation.
    The probabilities carry no gradient.

    Args:
        features: (n, d).
        logits: (n, K).
        maps: from :func:`random_maps`; needed if d·K is above 4096.

    Returns:
        (n, d·K) with f_i p_k in column i·K + k, or (n, size). With K = 1 it is f.

    Raises:
        ValueError: empty or different batches, maps of other shapes, or d·K above 4096 without maps.

    >>> condition(torch.tensor([[2.0, 4.0]]), torch.zeros(1, 2))
    tensor([[1., 1., 2., 2.]])
    """
    features, logits = batch(features, "features"), batch(logits, "logits")
    (n, d), (rows, classes) = features.shape, logits.shape
    if n != rows:
        raise ValueError(f"features {tuple(features.shape)} and logits {tuple(logits.shape)} must have equal rows")
    p = F.softmax(logits.detach(), 1)
    if maps is None:
        if d * classes > LARGEST_PRODUCT:
            raise ValueError(
                f"f ⊗ p has {d}·{classes} > {LARGEST_PRODUCT} columns; pass maps=random_maps({d}, {classes})"
            )
        return (features[:, :, None] * p[:, None, :]).flatten(1)
    if len(maps[0]) != d or len(maps[1]) != classes or maps[0].shape[1] != maps[1].shape[1]:
        shapes = ", ".join(str(tuple(m.shape)) for m in maps)
        raise ValueError(f"maps of shapes {shapes} must be ({d}, size), ({classes}, size)")
    of_features, of_classes = (m.to(features.dtype) for m in maps)
    return product(features, of_features) * product(p.to(features.dtype), of_classes) / math.sqrt(of_features.shape[1])


def afn(features: Tensor, step: float = 1.0) -> Tensor:
    """Stepwise adaptive feature norm (Xu et al., ICCV 2019, arXiv 1811.07456): ``mean (‖f‖ - sg‖f‖ - Δ)²``.

    The value is always Δ²; the gradient, ``-2Δ f / (n‖f‖)``, enlarges all norms. It is
    proportional to Δ, so Δ and the weight of the loss are one option. The loss of a step is the sum over source and
    target, with weight 0.05.

    Args:
        features: (n, d), of one domain.
        step: Δ. The scale of features differs by normalisation.

    Returns:
        A scalar. A row of zeros has zero gradient.

    Raises:
        ValueError: not (n, d) with n >= 1, d >= 1.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> afn(x).backward()
    >>> x.grad
    tensor([[-1.2000, -1.6000]])
    """
    norm: Tensor = torch.linalg.vector_norm(batch(features, "features"), dim=1)
    return (norm - norm.detach() - step).square().mean()
