"""The two-level bootstrap: what other seeds and other images would have given, from the saved predictions.

Seeds and images are crossed: each seed's network sees every image. Both are drawn anew together (the
pigeonhole bootstrap: Owen 2007, "The pigeonhole bootstrap", whose variance is never too small in
expectation, and up to three times too large where neither seeds nor images matter but their chance meeting:
the intervals are cautious). Seeds are drawn per source, for each source has networks of its own, k - 1 of k with
replacement, which makes the variance right for few seeds (Rao & Wu 1988). Norms share every draw: the
comparison of two norms is paired over seeds, sources, targets and images.

The interval is value ± t · (standard deviation of the replicates). With a handful of seeds the normal
quantile would be far too short; the degrees of freedom are Satterthwaite's, seeds being few and images many.
As images add degrees of freedom, the interval of the seeds alone may be the longer one: then it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from da_wa.report.outcomes import Array, Outcome
from da_wa.report.statistics import ALPHA, POWER, Interval

REPLICATES = 2000

Cell = tuple[str, str, str]
"""(label of the norm, source, target)."""


@dataclass(frozen=True)
class Estimate:
    """A sum of cells and how well it is known.

    Attributes:
        interval: the value; from images alone when a source has one seed.
        error: standard error.
        seed_variance: the part of ``error``² that more seeds would lessen.
        df: degrees of freedom behind ``error``; infinite when seeds add nothing.
        runs: each run's contribution to the value, over all sources and seeds.
        seeds: the smallest number of seeds that any source has.
    """

    interval: Interval
    error: float
    seed_variance: float
    df: float
    runs: Array
    seeds: int


class Resamples:
    """Accuracies under resampled images, drawn once for everything that is estimated from them.

    Args:
        outcomes: of all runs.
        replicates: number of resamples.
        seed: of the draws.
    """

    def __init__(self, outcomes: Sequence[Outcome], replicates: int = REPLICATES, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.replicates = replicates
        self._observed: dict[Cell, dict[int, float]] = {}
        self._resampled: dict[Cell, dict[int, Array]] = {}
        for target in dict.fromkeys(outcome.target for outcome in outcomes):
            here = [outcome for outcome in outcomes if outcome.target == target]
            images = 1 + max(int(outcome.index.max()) for outcome in here)
            weights = draw.multinomial(images, np.full(images, 1 / images), replicates).astype(np.float32).T
            right, seen = (np.zeros((len(here), images), np.float32) for _ in range(2))
            for row, outcome in enumerate(here):
                seen[row, outcome.index] = 1
                right[row, outcome.index] = outcome.right
            resampled = (right @ weights) / np.maximum(seen @ weights, 1)
            for row, outcome in enumerate(here):
                cell = (outcome.label, outcome.source, target)
                self._observed.setdefault(cell, {})[outcome.seed] = float(outcome.right.mean())
                self._resampled.setdefault(cell, {})[outcome.seed] = resampled[row]
        self._fate = {
            source: draw.random((replicates, max(map(len, self._observed.values()))))
            for source in dict.fromkeys(outcome.source for outcome in outcomes)
        }

    @property
    def cells(self) -> list[Cell]:
        """Every cell that has predictions."""
        return list(self._observed)

    def accuracy(self, cell: Cell) -> dict[int, float]:
        """The accuracy of a cell by seed."""
        return self._observed[cell]

    def estimate(self, terms: Sequence[tuple[float, Cell]]) -> Estimate | None:
        """The sum of factor × (mean accuracy of a cell over its seeds), seeds paired within each source.

        Returns:
            None when a cell has no predictions, or the cells of a source have no seed in common.
        """
        if any(cell not in self._observed for _, cell in terms):
            return None
        value, replicates = 0.0, np.zeros(self.replicates)
        runs: list[Array] = []
        variances: list[tuple[float, int]] = []
        for source in dict.fromkeys(cell[1] for _, cell in terms):
            parts = [(factor, cell) for factor, cell in terms if cell[1] == source]
            seeds = sorted(set.intersection(*(set(self._observed[cell]) for _, cell in parts)))
            if not seeds:
                return None
            k = len(seeds)
            by_seed = np.array([sum(f * self._observed[cell][seed] for f, cell in parts) for seed in seeds])
            resampled = np.stack([sum(f * self._resampled[cell][seed] for f, cell in parts) for seed in seeds])
            value += by_seed.mean()
            replicates += (self._drawn(source, k) * resampled).sum(axis=0)
            runs.append(by_seed / k)
            if k > 1:
                variances.append((float(by_seed.var(ddof=1)) / k, k - 1))
        error = float(replicates.std(ddof=1))
        seed_variance = sum(variance for variance, _ in variances)
        spread = sum(variance**2 / df for variance, df in variances)
        df = max(error**4 / spread, min(df for _, df in variances)) if spread > 0 else math.inf
        half = float(scipy.stats.t.ppf(1 - ALPHA / 2, df)) * error
        if spread > 0:
            of_seeds = scipy.stats.t.ppf(1 - ALPHA / 2, seed_variance**2 / spread) * math.sqrt(seed_variance)
            half = max(half, float(of_seeds))
        interval = Interval(float(value), float(value) - half, float(value) + half)
        return Estimate(interval, error, seed_variance, df, np.concatenate(runs), min(map(len, runs)))

    def _drawn(self, source: str, k: int) -> Array:
        """(k, replicates) how much each of k seeds weighs in every replicate."""
        if k == 1:
            return np.ones((1, self.replicates))
        drawn = (self._fate[source][:, : k - 1] * k).astype(int)
        return np.asarray((drawn[:, :, None] == np.arange(k)).sum(axis=1).T / (k - 1))


def seeds_to_resolve(estimate: Estimate, limit: int = 100) -> int | None:
    """How many seeds per source would resolve the estimated value with a chance of :data:`POWER`.

    Takes the value and both variances for true, so it is a rough guide. None when ``limit`` seeds would
    not do, as when the images alone leave the value open.
    """
    images = max(estimate.error**2 - estimate.seed_variance, 0.0)
    if estimate.seeds < 2 or estimate.seed_variance == 0:
        return None
    df_of_seeds = estimate.df * (estimate.seed_variance / estimate.error**2) ** 2 / (estimate.seeds - 1)
    for seeds in range(2, limit + 1):
        variance = estimate.seed_variance * estimate.seeds / seeds
        error = math.sqrt(images + variance)
        df = df_of_seeds * (seeds - 1) * (error**2 / variance) ** 2
        quantiles = scipy.stats.t.ppf(1 - ALPHA / 2, df) + scipy.stats.t.ppf(POWER, df)
        if abs(estimate.interval.value) >= quantiles * error:
            return seeds
    return None
