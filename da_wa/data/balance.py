"""Class balance of a domain."""

from __future__ import annotations

import numpy as np

from da_wa.errors import DataError


def class_counts(labels: np.ndarray, k: int) -> np.ndarray:
    """Images of each class, (k,) int64.

    Args:
        labels: (n,) int64 in 0 … k-1.
        k: the number of classes.

    Raises:
        DataError: a label is not in 0 … k-1.

    >>> class_counts(np.array([0, 2, 2]), 3).tolist()
    [1, 0, 2]
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < k:
        raise DataError(
            f"Labels range from {labels.min()} to {labels.max()}, but {k} classes are numbered 0 to {k - 1}. "
            "Correct the labels or the list of classes."
        )
    return np.bincount(labels, minlength=k).astype(np.int64)


def imbalance(labels: np.ndarray) -> float:
    """Images of the largest class over those of the smallest that occurs: 1 is balanced; NaN without images.

    Args:
        labels: (n,) int64, 0 or more.

    >>> imbalance(np.array([0, 0, 0, 4]))
    3.0
    """
    counts = np.bincount(labels)
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else float("nan")
