"""Intersection over union from confusion matrices, and its interval over seeds and images. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from da_wa.report.statistics import Interval, Precision, welch

Floats = npt.NDArray[np.float64]
REPLICATES = 2000


def class_iou(confusion: npt.NDArray[np.number]) -> Floats:
    """Intersection over union per class: n_kk / (Σ_j n_kj + Σ_j n_jk - n_kk).

    Args:
        confusion: (…, k, k) pixels by true and predicted class; void pixels are not counted.

    Returns:
        (…, k); NaN where a class is in neither truth nor prediction.

    >>> class_iou(np.array([[2, 1], [0, 1]])).round(2).tolist()
    [0.67, 0.5]
    """
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - hit
    found: Floats = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return found


def mean_iou(confusion: npt.NDArray[np.number]) -> Floats:
    """The mean of :func:`class_iou` over classes that are in truth or prediction; (…,)."""
    per_class = class_iou(confusion)
    known = ~np.isnan(per_class)
    found: Floats = np.where(known, per_class, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    return found


def interval(confusion: npt.NDArray[np.integer]) -> Interval:
    """Mean IoU over seeds with its 95 % interval: :func:`combination`."""
    value, precision = combination([(1.0, confusion)])
    half = precision.half_width()
    return Interval(value, value - half, value + half)


def combination(terms: Sequence[tuple[float, npt.NDArray[np.integer]]]) -> tuple[float, Precision]:
    """Σ factor · mean IoU over seeds, and how precisely it is known over seeds and images.

    The variance is that of the mean over seeds, s² / n, and that over images: of bootstrap replicates of all images
    together, the same for all seeds and terms. t with Welch and Satterthwaite's degrees of freedom.

    Args:
        terms: factors and (seeds, images, k, k) confusion matrices, all of the same seeds and images in the same order.
    """
    scores = [_scores(confusion) for _, confusion in terms]
    factors = np.array([factor for factor, _ in terms])
    values, replicates = (np.tensordot(factors, np.stack(of_all), 1) for of_all in zip(*scores, strict=True))
    n = len(values)
    of_seeds = float(values.var(ddof=1)) / n if n > 1 else 0.0
    error = float(np.sqrt(replicates.mean(0).var(ddof=1) + of_seeds))
    return float(values.mean()), welch(error, [(of_seeds, n - 1)] if of_seeds else [])


def _scores(confusion: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Mean IoU of every seed (seeds,), and of bootstrap replicates (seeds, replicates)."""
    _, images, k, _ = confusion.shape
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), REPLICATES).astype(np.float64)
    drawn = [mean_iou((draws @ one.reshape(images, k * k)).reshape(REPLICATES, k, k)) for one in confusion]
    return mean_iou(confusion.sum(1)), np.stack(drawn)
