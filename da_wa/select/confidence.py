"""Scores from predicted probabilities: accuracy, entropy, mutual information, nuclear norm, neighbourhoods, mixing.

Notation: z logits (n, k), p = softmax z, p̄ the mean of p over images, H entropy in nats. Higher is better throughout.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

from da_wa.select.saved import Floats, check_labels, indices, matrix

SND_TEMPERATURE = 0.05
BLOCK = 2**22
"""Similarities computed at a time: 32 MB in float64."""


def source_val(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Accuracy on held-out source images, a fraction.

    Args:
        logits: (n, k).
        labels: (n,).

    >>> source_val([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 4.0]], [0, 1, 1, 1])
    0.75

    Raises:
        ValueError: arrays that do not fit together.
    """
    z, y = matrix("logits", logits), indices("labels", labels)
    check_labels(y, *z.shape)
    return float((z.argmax(axis=1) == y).mean())


def entropy(logits: npt.ArrayLike) -> float:
    """−mean H(p), between −ln k and 0 (Morerio et al. 2018, arXiv 1711.10288). Rewards collapse to one class.

    Args:
        logits: (n, k).

    >>> round(entropy([[0.0, 0.0], [0.0, 0.0]]), 6)  # −ln 2
    -0.693147
    """
    return -float(_entropies(log_softmax(matrix("logits", logits))).mean())


def im(logits: npt.ArrayLike) -> float:
    """Mutual information H(p̄) − mean H(p), between 0 and ln k (Shi & Sha 2012, arXiv 1206.6438).

    Confident predictions, spread evenly over the classes: a network that predicts one class scores 0.

    Args:
        logits: (n, k).

    >>> round(im([[100.0, 0.0], [0.0, 100.0]]), 6)  # ln 2
    0.693147
    >>> round(im([[100.0, 0.0], [100.0, 0.0]]), 6)
    0.0
    """
    log_p = log_softmax(matrix("logits", logits))
    log_mean = scipy.special.logsumexp(log_p, axis=0) - math.log(len(log_p))
    return float(_entropies(log_mean[None])[0] - _entropies(log_p).mean())


def bnm(logits: npt.ArrayLike) -> float:
    """Nuclear norm ‖P‖_* / n of the predictions (Cui et al. 2020, arXiv 2003.12237, over all images at once).

    Args:
        logits: (n, k).

    >>> round(bnm([[100.0, 0.0], [0.0, 100.0]]), 6)  # singular values 1, 1
    1.0
    >>> round(bnm([[100.0, 0.0], [100.0, 0.0]]), 6)  # √2, 0
    0.707107
    """
    p = np.exp(log_softmax(matrix("logits", logits)))
    return float(scipy.linalg.svdvals(p).sum() / len(p))


def snd(logits: npt.ArrayLike, temperature: float = SND_TEMPERATURE) -> float:
    """Soft neighbourhood density mean_i H(softmax_{j≠i} cos(p_i, p_j)/T) (Saito et al. 2021, arXiv 2108.10860).

    A control that is known to fail: it is highest, ln(n−1), when all images get the same prediction. Computed in
    blocks of rows, so that no (n, n) array exists.

    Args:
        logits: (n, k), n >= 2.
        temperature: T.

    >>> round(snd([[3.0, 1.0]] * 5), 6)  # ln 4
    1.386294

    Raises:
        ValueError: fewer than two images.
    """
    z = matrix("logits", logits)
    n = len(z)
    if n < 2:
        raise ValueError("SND compares images with each other; logits of at least two are needed")
    p = np.exp(log_softmax(z))
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    total = 0.0
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        similarity = unit[start : start + rows] @ unit.T / temperature
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        total += float(_entropies(log_softmax(similarity)).sum())
    return total / n


def mixval(mixed: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of mixed images .55 x_i + .45 x_j that are predicted as x_i is (Hu et al. 2023, MixVal).

    Args:
        mixed: (p,) predicted classes of the mixed images.
        predicted: (p,) predicted class of each one's x_i.

    >>> mixval([0, 1, 2, 2], [0, 1, 1, 2])
    0.75

    Raises:
        ValueError: different numbers of images.
    """
    a, b = indices("mixed", mixed), indices("predicted", predicted)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} predictions of mixed images, {len(b)} of their first images")
    return float((a == b).mean())


def log_softmax(logits: Floats) -> Floats:
    """Logarithms of probabilities along the last axis, without overflow.

    >>> log_softmax(np.array([[1e4, 0.0]])).tolist()
    [[0.0, -10000.0]]
    """
    log_p: Floats = scipy.special.log_softmax(logits, axis=-1)
    return log_p


def _entropies(log_p: Floats) -> Floats:
    """Entropy of each row of log-probabilities; a probability of 0 contributes 0."""
    total: Floats = scipy.special.entr(np.exp(log_p)).sum(axis=1)
    return total
