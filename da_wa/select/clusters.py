"""Agreement of predictions with clusters of features (Musgrave et al. 2022, arXiv 2208.07360)."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score

from da_wa.select.saved import Floats, Integers, indices, matrix

RESTARTS = 4
SEED = 0


def class_ami(predicted: npt.ArrayLike, features: npt.ArrayLike, classes: int) -> float:
    """Adjusted mutual information of predicted classes and a k-means of the features into as many clusters.

    The k-means starts from fixed seeds and from rows in a sorted order, so it depends on nothing but the rows.
    Scikit-learn calls two trivial partitions identical (1); a network that predicts one class gets 0 here.

    Args:
        predicted: (n,) classes.
        features: (n, d).
        classes: k, the number of clusters, at most n.

    >>> class_ami([0, 0, 1, 1], [[0.0], [0.1], [5.0], [5.1]], classes=2)
    1.0
    >>> class_ami([1, 1, 1, 1], [[0.0], [0.0], [0.0], [0.0]], classes=2)
    0.0

    Raises:
        ValueError: arrays that do not fit together, or fewer images than clusters.
    """
    labels, f = indices("predicted", predicted), matrix("features", features)
    if len(labels) != len(f):
        raise ValueError(f"{len(labels)} predictions, features of {len(f)} images")
    if not 2 <= classes <= len(f):
        raise ValueError(f"{len(f)} images cannot be clustered into {classes}; give 2 ... {len(f)} clusters")
    if (labels == labels[0]).all():
        return 0.0
    order = sorted_rows(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        clusters = KMeans(classes, n_init=RESTARTS, random_state=SEED).fit_predict(f[order])
    return float(adjusted_mutual_info_score(labels[order], clusters))


def sorted_rows(values: Floats) -> Integers:
    """The order that sorts rows by their first, then their second column, and so on.

    >>> sorted_rows(np.array([[2.0, 0.0], [1.0, 5.0], [1.0, 3.0]])).tolist()
    [2, 1, 0]
    """
    order: Integers = np.lexsort(values.T[::-1])
    return order
