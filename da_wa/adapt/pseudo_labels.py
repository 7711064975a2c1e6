"""Pseudo-labels of target images: confidence, distribution alignment, centroids.

Logits are (n, K) and finite. No gradient flows through labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.adapt.inputs import batch, pair, product


def confident(logits: Tensor, threshold: float | Tensor = 0.9) -> Tensor:
    """The rows whose label :func:`fixmatch` uses: ``max_k p_k > threshold``.

    Args:
        logits: (n, K).
        threshold: a probability, or the scalar of :func:`relative_threshold`.

    Returns:
        (n,), boolean.

    Raises:
        ValueError: not (n, K) with n >= 1, K >= 2.

    >>> confident(torch.tensor([[9.0, 0.0], [0.1, 0.0]]))
    tensor([ True, False])
    """
    return F.softmax(batch(logits.detach(), "logits", columns=2), 1).amax(1) > threshold


def fixmatch(strong: Tensor, weak: Tensor, threshold: float | Tensor = 0.9) -> Tensor:
    """Consistency of two views (Sohn et al., NeurIPS 2020, arXiv 2001.07685).

    ``(1/n) Σ_i [max p_i > threshold] · CE(z_strong,i, argmax p_i)`` with p the softmax of the weak view, without
    gradient. Rows that are not confident count in n.

    AdaMatch (Berthelot et al., ICLR 2022, arXiv 2106.04732) changes two inputs:
    ``fixmatch(strong, align_distribution(weak, source), relative_threshold(source, 0.9))``. Its interpolation of
    logits is not part of this.

    Args:
        strong: (n, K), logits of the strongly augmented target images.
        weak: (n, K), logits of the weakly augmented ones.
        threshold: see :func:`confident`.

    Returns:
        A scalar; 0, with zero gradient, if no row is confident.

    Raises:
        ValueError: empty batches, fewer than two classes, or different shapes.

    >>> z = torch.tensor([[9.0, 0.0], [0.1, 0.0]])
    >>> fixmatch(torch.zeros(2, 2), z)  # one of two rows: ln 2 / 2
    tensor(0.3466)
    """
    strong = batch(strong, "logits of the strong view", columns=2)
    if strong.shape != weak.shape:
        raise ValueError(f"logits of the strong view {tuple(strong.shape)} and of the weak {tuple(weak.shape)} differ")
    losses = F.cross_entropy(strong, weak.detach().argmax(1), reduction="none")
    return torch.where(confident(weak, threshold), losses, 0).mean()


def relative_threshold(source: Tensor, threshold: float = 0.9) -> Tensor:
    """AdaMatch's threshold (Berthelot et al. 2022, arXiv 2106.04732): ``threshold · mean_i max_k p_ik`` on the source.

    Args:
        source: (n_s, K), logits of weakly augmented source images.
        threshold: the share of the source's mean confidence.

    Returns:
        A scalar.

    Raises:
        ValueError: not (n_s, K) with n_s >= 1, K >= 2.

    >>> relative_threshold(torch.zeros(3, 4), 0.9)  # 0.9 · ¼
    tensor(0.2250)
    """
    return threshold * F.softmax(batch(source.detach(), "source logits", columns=2), 1).amax(1).mean()


def align_distribution(target: Tensor, source: Tensor) -> Tensor:
    """AdaMatch's distribution alignment (Berthelot et al. 2022, arXiv 2106.04732), of log-probabilities.

    ``p_t · (mean p_s / mean p_t)``, every row divided by its sum. The means are those of the two batches. AdaMatch
    averages them over steps, and its loss has a warm-up; both are left out. The means of a small batch are noise where
    it has about one image per class: with K = 31 and n = 32, without any shift, the share of images above
    :func:`relative_threshold` falls from 0.69 to 0.29 (logits of normal noise, plus 5 for the class).

    Args:
        target: (n_t, K), logits of weakly augmented target images.
        source: (n_s, K), logits of weakly augmented source images.

    Returns:
        (n_t, K), logarithms of the aligned probabilities, without gradient.

    Raises:
        ValueError: empty batches, fewer than two classes, or different K.

    >>> target = torch.tensor([[0.8, 0.2]]).log()
    >>> align_distribution(target, torch.zeros(5, 2)).exp()  # the source predicts both classes equally often
    tensor([[0.5000, 0.5000]])
    """
    source, target = pair(source.detach(), target.detach(), "logits", columns=2)
    log_p = F.log_softmax(target, 1)
    return F.log_softmax(log_p + _log_mean(F.log_softmax(source, 1)) - _log_mean(log_p), 1)


def _log_mean(log_p: Tensor) -> Tensor:
    return torch.logsumexp(log_p, 0) - math.log(len(log_p))


def centroid_labels(features: Tensor, logits: Tensor, rounds: int = 2) -> Tensor:
    """SHOT's pseudo-labels (Liang, Hu & Feng, ICML 2020, arXiv 2002.08546): the class of the nearest centroid.

    First round: ``c_k = Σ_i p_ik f_i / Σ_i p_ik``, label ``argmax_k cos(f_i, c_k)``. Every further round takes the mean
    of the features that have label k. Only classes that the network predicts for at least one image can be labels;
    a class that has lost all its images stays without a centroid. Of equal similarities the first class counts.

    The authors' code first appends a 1 to the features and scales them to unit length; this is the paper's form.

    Args:
        features: (n, d), of all target images.
        logits: (n, K).
        rounds: how often centroids are made.

    Returns:
        (n,), class numbers, without gradient.

    Raises:
        ValueError: empty or different batches, fewer than two classes, or ``rounds`` below 1.

    >>> f = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> z = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.1, 0.0]])  # the last one is on the wrong side
    >>> centroid_labels(f, z)
    tensor([0, 0, 1, 1])
    """
    features, logits = batch(features.detach(), "features"), batch(logits.detach(), "logits", columns=2)
    if len(features) != len(logits) or rounds < 1:
        raise ValueError(
            f"features {tuple(features.shape)}, logits {tuple(logits.shape)}, rounds={rounds}: expected equal rows and "
            "one round or more"
        )
    classes = logits.shape[1]
    shares = F.softmax(logits, 1)
    possible = F.one_hot(logits.argmax(1), classes).any(0)
    labels = logits.argmax(1)
    for _ in range(rounds):
        centroids = product(shares.T.to(features.dtype), features)  # their length does not change the cosine
        similarity = product(
            features, F.normalize(centroids, eps=1e-30).T
        )  # cosine · ‖f_i‖, of the same order in a row
        labels = similarity.masked_fill(~possible, -math.inf).argmax(1)
        shares = F.one_hot(labels, classes).to(features.dtype)
        possible = possible & shares.any(0)
    return labels
