"""Does the best score depend on the norm? A permutation test of the interaction."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from da_wa.select.saved import Floats

PERMUTATIONS = 10_000
_BLOCK = 2**22


def interaction(
    regrets: npt.ArrayLike, permutations: int = PERMUTATIONS, alpha: float = 0.05, seed: int = 0
) -> float | None:
    """P-value of the interaction of norm and score in the regret, by permutation.

    In each cluster and norm the mean over scores is subtracted: what is left is how scores differ. Without an
    interaction it is distributed alike for all norms, so norms are exchangeable within a cluster. The statistic is the
    sum of squares of the means over clusters, after subtracting the mean over norms. All scores and targets of a
    cluster are permuted together, because they share networks; clusters are permuted independently.

    Args:
        regrets: (clusters, norms, scores); a cluster is a source and a seed or, where norms have several pre-trained
            networks, the seed of these.
        permutations: random ones.
        alpha: the level that the test must be able to reach.
        seed: of the permutations.

    Returns:
        ``None`` where fewer than two norms or scores are compared, or too few clusters to reach ``alpha``.

    >>> rng = np.random.default_rng(0)
    >>> swapped = np.array([[0.0, 1.0], [1.0, 0.0]]) + 0.1 * rng.normal(size=(12, 2, 2))
    >>> interaction(swapped) < 0.01
    True
    >>> interaction(swapped[:2]) is None
    True

    Raises:
        ValueError: another shape, or NaN.
    """
    x = np.asarray(regrets, dtype=np.float64)
    if x.ndim != 3 or not np.isfinite(x).all():
        raise ValueError(f"regrets must be finite numbers of shape (clusters, norms, scores); found {x.shape}")
    clusters, norms, scores = x.shape
    distinct = math.factorial(norms) ** max(clusters - 1, 0)  # renaming norms in all clusters changes nothing
    if norms < 2 or scores < 2 or distinct * alpha < 1:
        return None
    differences = x - x.mean(axis=2, keepdims=True)
    observed = _statistic(differences.mean(axis=0)[None])[0]
    rng = np.random.default_rng(seed)
    extreme, size = 0, max(1, _BLOCK // x.size)
    for start in range(0, permutations, size):
        many = min(size, permutations - start)
        order = rng.random((many, clusters, norms)).argsort(axis=2)
        shuffled = differences[np.arange(clusters)[:, None], order]  # (many, clusters, norms, scores)
        extreme += int((_statistic(shuffled.mean(axis=1)) >= observed * (1 - 1e-9)).sum())
    return (1 + extreme) / (1 + permutations)


def _statistic(means: Floats) -> Floats:
    """(many, norms, scores) means over clusters -> (many,) sums of squares of the interaction."""
    total: Floats = ((means - means.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    return total
