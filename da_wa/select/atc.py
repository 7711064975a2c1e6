"""Average thresholded confidence (Garg et al. 2022, arXiv 2201.04234): an estimate of accuracy on the target."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

from da_wa.select.confidence import log_softmax
from da_wa.select.saved import Floats, Integers, check_labels, indices, matrix

TEMPERATURES = (0.05, 20.0)
"""Where the temperature is searched. Without a wrong source image the likelihood is highest at 0: the bound is used."""


def atc(target_logits: npt.ArrayLike, source_logits: npt.ArrayLike, source_labels: npt.ArrayLike) -> float:
    """Share of target images whose confidence reaches θ, a fraction: an estimate of target accuracy.

    θ is the confidence that a share of held-out source images reaches that equals their accuracy. Confidence is
    max softmax(z/T), T fitted on the source. On the source itself the estimate is the source accuracy, up to ties.

    Args:
        target_logits: (n, k), k >= 2.
        source_logits: (n_s, k), held out of training.
        source_labels: (n_s,).

    >>> source = [[4.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 0.0]]  # right, right, right, wrong
    >>> atc(source, source, [0, 0, 1, 1])
    0.75
    >>> atc([[9.0, 0.0], [0.5, 0.0]], source, [0, 0, 1, 1])
    0.5

    Raises:
        ValueError: arrays that do not fit together.
    """
    target, source = matrix("target_logits", target_logits), matrix("source_logits", source_logits)
    labels = indices("source_labels", source_labels)
    if target.shape[1] != source.shape[1] or source.shape[1] < 2:
        raise ValueError(f"logits need the same two or more columns; found {target.shape[1]} and {source.shape[1]}")
    check_labels(labels, *source.shape)
    t = temperature(source, labels)
    threshold = _threshold(_confidence(source / t), float((source.argmax(axis=1) == labels).mean()))
    return float((_confidence(target / t) >= threshold).mean())


def temperature(logits: Floats, labels: Integers) -> float:
    """T > 0 that maximises the likelihood of labels under softmax(z/T) (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (n, k).
        labels: (n,).

    >>> z = np.array([[3.0, 0.0]] * 4)  # p = 3/4 fits three of four: T = 3 / ln 3
    >>> round(temperature(z, np.array([0, 0, 0, 1])), 4), round(3 / math.log(3), 4)
    (2.7307, 2.7307)
    """

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / math.exp(log_t))[np.arange(len(labels)), labels].mean())

    low, high = (math.log(t) for t in TEMPERATURES)
    found = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return math.exp(float(found.x))


def _confidence(logits: Floats) -> Floats:
    """Log odds of the predicted class: increases with max softmax, and stays apart where that rounds to 1."""
    best = logits.argmax(axis=1)[:, None]
    rest = np.array(logits)
    np.put_along_axis(rest, best, -np.inf, axis=1)
    odds: Floats = np.take_along_axis(logits, best, axis=1)[:, 0] - scipy.special.logsumexp(rest, axis=1)
    return odds


def _threshold(confidence: Floats, accuracy: float) -> float:
    """The confidence reached by a share of images as close to ``accuracy`` as ties allow; infinity for none."""
    values, first = np.unique(np.sort(confidence), return_index=True)
    shares = np.append(1 - first / len(confidence), 0.0)
    return float(np.append(values, np.inf)[np.abs(shares - accuracy).argmin()])
