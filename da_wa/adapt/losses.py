"""Losses of logits: entropy, information maximisation, class confusion, nuclear norm, disparity, sharpness.

Logits are (n, K) and finite, of any real floating-point type; values are computed in float32 at least and do not
overflow for saturated probabilities. p = softmax(z) row by row, H is the entropy in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.adapt.inputs import batch, pair
from da_wa.norm.precision import at_least_float32


def entropy(logits: Tensor) -> Tensor:
    """``H(p) = -Σ_k p_k log p_k`` of every row, in nats: 0 for one class, ln K for a uniform p.

    Its mean is the loss of TENT (Wang et al., ICLR 2021, arXiv 2006.10726).

    Args:
        logits: (n, K).

    Returns:
        (n,). With K = 1 all values are 0.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 1.

    >>> entropy(torch.zeros(2, 4))  # ln 4
    tensor([1.3863, 1.3863])
    """
    log_p = F.log_softmax(batch(logits, "logits"), 1)
    return -(log_p.exp() * log_p).sum(1)


def information_maximization(logits: Tensor) -> Tensor:
    """``mean_i H(p_i) - H(p̄)`` with p̄ the mean of p: confident rows, balanced classes.

    The unsupervised loss of SHOT (Liang, Hu & Feng, ICML 2020, arXiv 2002.08546). It lies between -ln K, for one-hot
    rows over balanced classes, and 0, for equal rows. Its negative is the label-free score ``im``.

    Args:
        logits: (n, K).

    Returns:
        A scalar.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 2.

    >>> information_maximization(100 * torch.eye(4))  # -ln 4
    tensor(-1.3863)
    """
    log_p = F.log_softmax(batch(logits, "logits", columns=2), 1)
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(log_p))
    return (log_mean.exp() * log_mean).sum() - (log_p.exp() * log_p).sum(1).mean()


def mcc(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion (Jin et al., ECCV 2020, arXiv 1912.03699): ``(ΣC - tr C) / K``.

    C is ``PᵀWP`` with every row divided by its sum, P = softmax(z/T), W the diagonal matrix of the weights
    ``n(1 + e^{-H_i}) / Σ_j (1 + e^{-H_j})``, H the entropies of P without gradient. The rows of P sum to 1, hence

        MCC = 1 - (1/K) Σ_k [Σ_i w_i p_ik²] / [Σ_i w_i p_ik]

    which is what is computed: no K×K matrix, and the scale of w cancels. PᵀWP is symmetric, so dividing columns by
    their sums gives the same loss.

    Args:
        logits: (n, K), of target images.
        temperature: T.

    Returns:
        A scalar in [0, 1 - 1/K]. A uniform p gives 1 - 1/K, as does n = 1. A class whose probabilities are all zero
        in floating point counts as fully confused, the limit.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 2, or a temperature that is not above 0.

    >>> mcc(torch.zeros(8, 4))
    tensor(0.7500)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    scaled = batch(logits, "logits", columns=2) / temperature
    weights = 1 + torch.exp(-entropy(scaled.detach()))
    p = F.softmax(scaled, 1)
    total = (weights[:, None] * p).sum(0)
    kept = (weights[:, None] * p.square()).sum(0)
    unused = total <= torch.finfo(total.dtype).tiny
    return 1 - torch.where(unused, 0, kept / torch.where(unused, 1, total)).mean()


def bnm(logits: Tensor) -> Tensor:
    """Batch nuclear-norm maximisation (Cui et al., CVPR 2020, arXiv 2003.12237): ``-‖P‖_* / n``, P = softmax(z).

    Args:
        logits: (n, K), of target images.

    Returns:
        A scalar, at least ``-sqrt(min(n, K) / n)``; NaN where logits are not finite, which have no singular values.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 2.

    >>> bnm(torch.zeros(4, 2))  # ‖P‖_* = ‖P‖_F = sqrt(4 · 2 · ¼)
    tensor(-0.3536)
    """
    p = F.softmax(batch(logits, "logits", columns=2), 1)
    if not p.isfinite().all():
        return p.sum() * math.nan
    nuclear: Tensor = torch.linalg.svdvals(p).sum()
    return -nuclear / len(p)


def mdd(
    source: Tensor,
    source_adversary: Tensor,
    target: Tensor,
    target_adversary: Tensor,
    gamma: float = 4.0,
) -> Tensor:
    """Margin disparity discrepancy (Zhang, Liu, Long & Jordan, ICML 2019, arXiv 1904.05801), as the adversary sees it.

    ``γ · mean_s CE(h'(s), argmax h(s)) - mean_t log(1 - p'_{argmax h(t)}(t))`` with p' = softmax(h'). The adversary h'
    minimises it; the features maximise it through :func:`~da_wa.adapt.alignment.reverse_gradient` before h'.
    log(1 - p') is taken from the logits, so it stays finite, and its gradient is bounded, when p' is 1 in floating
    point. The labels argmax h carry no gradient.

    Args:
        source: (n_s, K), h(s).
        source_adversary: (n_s, K), h'(s).
        target: (n_t, K), h(t).
        target_adversary: (n_t, K), h'(t).
        gamma: the margin factor γ.

    Returns:
        A scalar.

    Raises:
        ValueError: batches that are empty, that have fewer than two classes or do not match.

    >>> z = torch.zeros(3, 2)
    >>> mdd(z, z, z, z, gamma=1.0)  # ln 2 + ln 2
    tensor(1.3863)
    """
    source, target = pair(source, target, "logits", columns=2)
    h_s, h_t = pair(source_adversary, target_adversary, "logits of the adversary", columns=2)
    if h_s.shape != source.shape or h_t.shape != target.shape:
        raise ValueError(
            f"logits of the adversary {tuple(h_s.shape)}, {tuple(h_t.shape)} must have the shapes of the "
            f"classifier's {tuple(source.shape)}, {tuple(target.shape)}"
        )
    own = F.one_hot(target.argmax(1), target.shape[1]).bool()
    rest = torch.logsumexp(h_t.masked_fill(own, -math.inf), 1) - torch.logsumexp(h_t, 1)
    return gamma * F.cross_entropy(h_s, source.argmax(1)) - rest.mean()


def reliable(logits: Tensor, share: float = 0.4) -> Tensor:
    """The rows that SAR trains on (Niu et al., ICLR 2023, arXiv 2302.12400): ``H(p) < share · ln K``.

    Args:
        logits: (n, K).
        share: of the largest entropy.

    Returns:
        (n,), boolean; without gradient.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 2.

    >>> reliable(torch.tensor([[9.0, 0.0], [0.0, 0.0]]))
    tensor([ True, False])
    """
    classes = batch(logits, "logits", columns=2).shape[1]
    return entropy(logits.detach()) < share * math.log(classes)


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """The mean of the values where ``keep`` is true; 0, with zero gradient, where it is true nowhere.

    SAR's loss is ``masked_mean(entropy(z), reliable(z))``.

    Args:
        values: (n,).
        keep: (n,), boolean.

    Raises:
        ValueError: the shapes are not (n,) and (n,) with n >= 1.

    >>> masked_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]))
    tensor(3.5000)
    """
    if values.ndim != 1 or values.shape != keep.shape or len(values) == 0:
        raise ValueError(f"values {tuple(values.shape)} and keep {tuple(keep.shape)} must be (n,) with n >= 1")
    values = at_least_float32(values)
    return torch.where(keep, values, 0).sum() / keep.sum().clamp_min(1)


def sharpness_step(gradients: Sequence[Tensor], rho: float = 0.05) -> list[Tensor]:
    """``ρ · g / ‖g‖``, the ascent step of sharpness-aware minimisation, with one norm over all gradients.

    Foret et al., ICLR 2021, arXiv 2010.01412; used by SAR. Add the step to the parameters, take the gradient there,
    subtract the step, then let the optimiser use that gradient.

    Args:
        gradients: of any shapes.
        rho: the norm of the step, ρ.

    Returns:
        One tensor for each gradient, of its shape and type; zeros where all gradients are zero.

    Raises:
        ValueError: no gradients, or a negative ``rho``.

    >>> sharpness_step([torch.tensor([3.0]), torch.tensor([4.0])], rho=1.0)
    [tensor([0.6000]), tensor([0.8000])]
    """
    if len(gradients) == 0 or rho < 0:
        raise ValueError(f"{len(gradients)} gradients, rho={rho}: expected one gradient or more, and rho >= 0")
    norms = torch.stack([torch.linalg.vector_norm(at_least_float32(g.detach())) for g in gradients])
    norm = torch.linalg.vector_norm(norms)
    scale = torch.where(norm > 0, rho / torch.where(norm > 0, norm, 1), 0)
    return [(at_least_float32(g.detach()) * scale).to(g.dtype) for g in gradients]
