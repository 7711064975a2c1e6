"""The two-level bootstrap over seeds and images, from saved predictions.

Seeds and images are crossed: each seed's network sees every image. Both are resampled together (Owen 2007, "The
pigeonhole bootstrap": its variance is never too small in expectation, and up to three times too large where seeds and
images matter only through their interaction, so the intervals are conservative). Seeds are drawn per source, because
each source has its own networks, k - 1 of k with replacement, which makes the variance unbiased for few seeds (Rao &
Wu 1988). Where there are several pre-training seeds, they are drawn first, in the same way and for all sources
together, and seeds within each; so the variance of seeds within networks counts twice, which is conservative. Rows
share every draw: the comparison of two rows is paired over seeds, sources, targets and images.

The interval is value ± t · (standard deviation of the replicates) with Satterthwaite's degrees of freedom: seeds are
few and images many, and the normal quantile would be far too short. Images add degrees of freedom, so the interval over
seeds alone may be the longer one; then it is used. A source with one seed says nothing about its variance over seeds:
it is taken to be the mean of those of the other sources.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from da_wa.records.contrasts import Cell
from da_wa.report.outcomes import Array, Outcome, balanced_accuracy
from da_wa.report.statistics import POWER, Interval, Precision, welch

REPLICATES = 2000


Replicate = tuple[int, int]
"""(pre-training seed, seed)."""

Cluster = tuple[str, str | None]
"""(source, target) of runs that depend on each other; ``None`` for all targets of the source."""

_BLOCK = 2**24
"""Numbers of resampled images that are held in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of cells and its uncertainty.

    Attributes:
        interval: the value; over images alone where no source has several seeds.
        precision: behind the interval.
        runs: each independently trained run's contribution to the value.
        seeds: the smallest number of seeds of any source.
        pretraining_seeds: how many pre-training seeds there are.
        clusters: how many groups of runs share no network: sources, or pairs where each has its networks.
    """

    interval: Interval
    precision: Precision
    runs: Array
    seeds: int
    pretraining_seeds: int = 1
    clusters: int = 1

    @property
    def images_alone(self) -> bool:
        """Whether the interval says nothing about training again: no source has several seeds."""
        return len(self.runs) == self.clusters


class Resamples:
    """Accuracies under resampled images, drawn once for every estimate.

    Args:
        outcomes: of all runs.
        replicates: number of resamples.
        seed: of the draws.
        balanced: resample balanced accuracy, the mean of the recalls of the classes that are present.
    """

    def __init__(
        self, outcomes: Sequence[Outcome], replicates: int = REPLICATES, seed: int = 0, *, balanced: bool = False
    ) -> None:
        draw = np.random.default_rng(seed)
        self.replicates = replicates
        self._observed: dict[Cell, dict[Replicate, float]] = {}
        self._resampled: dict[Cell, dict[Replicate, Array]] = {}
        self._per_pair: set[Cell] = set()
        self._several = _several_pretrainings(outcomes)
        for target in dict.fromkeys(outcome.target for outcome in outcomes):
            here = [outcome for outcome in outcomes if outcome.target == target]
            once = list({id(outcome.predicted): outcome for outcome in here}.values())  # some rows share predictions
            row = {id(outcome.predicted): k for k, outcome in enumerate(once)}
            resamples = _resampled(once, replicates, draw, balanced)
            for outcome in here:
                resampled = resamples[row[id(outcome.predicted)]]
                cell = (outcome.label, outcome.source, target)
                observed = balanced_accuracy(outcome.truth, outcome.predicted) if balanced else outcome.right.mean()
                self._observed.setdefault(cell, {})[self.replicate(outcome)] = float(observed)
                self._resampled.setdefault(cell, {})[self.replicate(outcome)] = resampled
                if outcome.unit_target is not None:
                    self._per_pair.add(cell)
        sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
        self._fate, self._pretraining_fate = self._fates(draw, sources)

    @property
    def cells(self) -> list[Cell]:
        """Every cell with saved outputs."""
        return list(self._observed)

    def replicate(self, outcome: Outcome) -> Replicate:
        """What identifies a run within a cell; pre-training seeds count where a row has several of them."""
        return outcome.replicate if self._several else (0, outcome.seed)

    def estimate(self, terms: Sequence[tuple[float, Cell]]) -> Estimate | None:
        """The sum of factor × (mean accuracy of a cell over its runs), paired by seeds within each source.

        Networks that are evaluated on every target are one run per source and seed; networks trained for one
        pair are one run per pair and seed, unless a term pairs them with a network of the first kind.

        Returns:
            ``None`` if a cell has no outputs, or the cells of a source have no seed in common.
        """
        if not terms or any(cell not in self._observed for _, cell in terms):
            return None
        clusters = self._clusters(terms)
        seeds = [self._common_seeds(part) for _, part in clusters]
        pretrainings = sorted(set.intersection(*map(set, seeds)))
        if not pretrainings:
            return None
        value, replicates = 0.0, np.zeros(self.replicates)
        runs: list[Array] = []
        spread: list[tuple[float, int]] = []  # of each cluster: the variance of its seeds, and how many there are
        totals = []
        for weight, p in zip(self._drawn(self._pretraining_fate, len(pretrainings)), pretrainings, strict=True):
            total, replicated = 0.0, np.zeros(self.replicates)
            for (cluster, part), found in zip(clusters, seeds, strict=True):
                k = len(found[p])
                by_seed = np.array([sum(f * self._observed[cell][p, s] for f, cell in part) for s in found[p]])
                resampled = np.stack([sum(f * self._resampled[cell][p, s] for f, cell in part) for s in found[p]])
                total += by_seed.mean()
                replicated += (self._drawn(self._fate[*cluster, p], k) * resampled).sum(axis=0)
                runs.append(by_seed / (k * len(pretrainings)))
                spread.append((float(by_seed.var(ddof=1)) if k > 1 else math.nan, k))
            value += total / len(pretrainings)
            replicates += weight * replicated
            totals.append(total)
        variance = float(replicates.var(ddof=1))
        if len(pretrainings) > 1:  # their spread includes that of the seeds within
            precision = welch(math.sqrt(variance), [(float(np.var(totals, ddof=1)) / len(totals), len(totals) - 1)])
        else:
            several = [(s2, k) for s2, k in spread if k > 1]
            lent = (len(spread) - len(several)) / max(len(several), 1)  # to the clusters with one seed
            variance += sum(s2 * lent for s2, _ in several)
            precision = welch(math.sqrt(variance), [(s2 * (1 / k + lent), k - 1) for s2, k in several])
        half = precision.half_width()
        interval = Interval(float(value), float(value) - half, float(value) + half)
        fewest = min(len(run) for run in runs)
        return Estimate(interval, precision, np.concatenate(runs), fewest, len(pretrainings), len(clusters))

    def _clusters(self, terms: Sequence[tuple[float, Cell]]) -> list[tuple[Cluster, list[tuple[float, Cell]]]]:
        """Terms whose runs depend on each other: those of one source, or of one pair where each has its networks."""
        found: list[tuple[Cluster, list[tuple[float, Cell]]]] = []
        for source in dict.fromkeys(cell[1] for _, cell in terms):
            part = [(factor, cell) for factor, cell in terms if cell[1] == source]
            if all(cell in self._per_pair for _, cell in part):
                for target in dict.fromkeys(cell[2] for _, cell in part):
                    found.append(((source, target), [term for term in part if term[1][2] == target]))
            else:
                found.append(((source, None), part))
        return found

    def _common_seeds(self, part: Sequence[tuple[float, Cell]]) -> dict[int, list[int]]:
        """The seeds that all cells have, by pre-training seed."""
        common = set.intersection(*(set(self._observed[cell]) for _, cell in part))
        found: dict[int, list[int]] = {}
        for p, seed in sorted(common):
            found.setdefault(p, []).append(seed)
        return found

    def _fates(
        self, draw: np.random.Generator, sources: Sequence[str]
    ) -> tuple[dict[tuple[str, str | None, int], Array], Array]:
        """Random numbers that select seeds, for every cluster and pre-training seed, and pre-training seeds."""
        if not self._observed:
            return {}, np.zeros((self.replicates, 0))
        pretrainings = sorted({p for runs in self._observed.values() for p, _ in runs})
        most = max(max(Counter(p for p, _ in runs).values()) for runs in self._observed.values())
        pairs = list(dict.fromkeys((source, target) for _, source, target in self._observed if self._per_pair))
        clusters: list[Cluster] = [*((source, None) for source in sources), *pairs]
        keys = [(*cluster, p) for p in pretrainings for cluster in clusters]
        fate = {key: draw.random((self.replicates, most)) for key in keys}
        return fate, draw.random((self.replicates, len(pretrainings)))

    def _drawn(self, fate: Array, k: int) -> Array:
        """(k, replicates) the weight of each of k seeds in every replicate."""
        if k == 1:
            return np.ones((1, self.replicates))
        drawn = (fate[:, : k - 1] * k).astype(int)
        return np.asarray((drawn[:, :, None] == np.arange(k)).sum(axis=1).T / (k - 1))


def _several_pretrainings(outcomes: Sequence[Outcome]) -> bool:
    seen: dict[str, set[int]] = {}
    for outcome in outcomes:
        seen.setdefault(outcome.label, set()).add(outcome.replicate[0])
    return any(len(seeds) > 1 for seeds in seen.values())


def _resampled(
    outcomes: Sequence[Outcome], replicates: int, draw: np.random.Generator, balanced: bool
) -> npt.NDArray[np.float32]:
    """(outcomes, replicates) accuracies of outcomes of one target, all on the same resampled images."""
    images = 1 + max(int(outcome.index.max()) for outcome in outcomes)
    right, seen = (np.zeros((len(outcomes), images), np.float32) for _ in range(2))
    truth = np.zeros(images, np.int64)
    for row, outcome in enumerate(outcomes):
        seen[row, outcome.index] = 1
        right[row, outcome.index] = outcome.right
        truth[outcome.index] = outcome.truth
    if balanced:
        order = np.argsort(truth, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(truth[order])) + 1)
    else:
        groups = [np.arange(images)]
    found = np.zeros((len(outcomes), replicates), np.float32)
    size = max(1, _BLOCK // images)
    for start in range(0, replicates, size):
        block = slice(start, min(start + size, replicates))
        drawn = draw.multinomial(images, np.full(images, 1 / images), block.stop - start).astype(np.float32).T
        recall, present = (np.zeros((len(outcomes), block.stop - start), np.float32) for _ in range(2))
        for group in groups:
            weight = seen[:, group] @ drawn[group]
            recall += (right[:, group] @ drawn[group]) / np.maximum(weight, 1)
            present += weight > 0
        found[:, block] = recall / np.maximum(present, 1)
    return found


def seeds_to_resolve(estimate: Estimate, limit: int = 100) -> int | None:
    """How many seeds per source would resolve the estimated value with a chance of :data:`POWER`.

    With several pre-training seeds it counts those. A rough guide: it assumes that the value and both variances are
    exact. ``None`` if ``limit`` seeds would not be enough, as when the images alone leave the value open.
    """
    now = estimate.precision
    images = max(now.error**2 - now.seed_variance, 0.0)
    known = estimate.pretraining_seeds if estimate.pretraining_seeds > 1 else estimate.seeds
    if known < 2 or now.seed_variance == 0:
        return None
    for seeds in range(2, limit + 1):
        variance = now.seed_variance * known / seeds
        error, seed_df = math.sqrt(images + variance), now.seed_df * (seeds - 1) / (known - 1)
        then = Precision(error, variance, seed_df * (error**2 / variance) ** 2, seed_df)
        if abs(estimate.interval.value) >= then.half_width() + scipy.stats.t.ppf(POWER, then.df) * error:
            return seeds
    return None
