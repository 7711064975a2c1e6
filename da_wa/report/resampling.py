"""The two-level bootstrap over seeds and images, from saved predictions.

Seeds and images are crossed: each seed's network sees every image. Both are resampled together (Owen 2007, "The
pigeonhole bootstrap": its variance is never too small in expectation, and up to three times too large where seeds and
images matter only through their interaction, so the intervals are conservative). Seeds are drawn per source, because
each source has its own networks, k - 1 of k with replacement, which makes the variance unbiased for few seeds (Rao &
Wu 1988). Networks trained for different targets of one source share its draw, because with one seed they share held-out
images, first head, order and augmentation of the source. Rows share every draw: the comparison of two rows is paired
over seeds, sources, targets and images.

Where there are several pre-training seeds, networks are drawn first, in the same way and for all sources together, and
seeds within each; so the variance of seeds within networks counts twice, which is conservative. Rows that start from
the same networks, such as two methods, share the draw of networks. Networks of different norms are drawn apart, because
two of them have nothing but the number of their seed in common: each norm has its own variance over its networks.

The interval is value ± t · (standard deviation of the replicates) with Satterthwaite's degrees of freedom: seeds are
few and images many, and the normal quantile would be far too short. Images add degrees of freedom, so the interval over
seeds alone may be the longer one; then it is used. A source with one seed says nothing about its variance over seeds:
it is taken to be the mean of those of the other sources. Likewise a norm with one network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from da_wa.records.contrasts import Cell
from da_wa.report.outcomes import Array, Outcome, balanced_accuracy
from da_wa.report.statistics import ALPHA, POWER, Interval, Precision, welch

REPLICATES = 2000


Replicate = tuple[int, int]
"""(pre-training seed, seed)."""

_BLOCK = 2**24
"""Numbers of resampled images that are held in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of cells and its uncertainty.

    Attributes:
        interval: the value; over images alone where no source has several seeds.
        precision: behind the interval.
        runs: contributions to the value of every source and seed, which are independent of each other.
        seeds: the smallest number of seeds of any source.
        pretraining_seeds: the smallest number of pre-trained networks of any norm.
        clusters: how many groups of runs are independent: sources of every norm.
        over_networks: whether the interval is over pre-trained networks, too: some norm has several.
    """

    interval: Interval
    precision: Precision
    runs: Array
    seeds: int
    pretraining_seeds: int = 1
    clusters: int = 1
    over_networks: bool = False

    @property
    def images_alone(self) -> bool:
        """Whether the interval says nothing about training again: no source has several seeds."""
        return len(self.runs) == self.clusters


@dataclass(frozen=True)
class _Part:
    """Terms whose runs depend on each other.

    Attributes:
        cluster: source and pre-training seed of the runs.
        terms: (factor, cell).
        seeds: that all cells have.
    """

    cluster: tuple[str, int]
    terms: Sequence[tuple[float, Cell]]
    seeds: Sequence[int]


class Resamples:
    """Accuracies under resampled images, drawn once for every estimate.

    Args:
        outcomes: of all runs.
        replicates: number of resamples.
        seed: of the draws.
        balanced: resample balanced accuracy, the mean of the recalls of the classes that are present.

    Attributes:
        several_networks: whether some rows have several pre-trained networks.
    """

    def __init__(
        self, outcomes: Sequence[Outcome], replicates: int = REPLICATES, seed: int = 0, *, balanced: bool = False
    ) -> None:
        draw = np.random.default_rng(seed)
        self.replicates = replicates
        self._observed: dict[Cell, dict[Replicate, float]] = {}
        self._resampled: dict[Cell, dict[Replicate, Array]] = {}
        self.several_networks = _several_pretrainings(outcomes)
        self._family = _families(outcomes)
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
        sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
        self._fate, self._network_fate = self._fates(draw, sources)

    @property
    def cells(self) -> list[Cell]:
        """Every cell with saved outputs."""
        return list(self._observed)

    def replicate(self, outcome: Outcome) -> Replicate:
        """What identifies a run within a cell; pre-training seeds count where a row has several of them."""
        return outcome.replicate if self.several_networks else (0, outcome.seed)

    def renamed(self, labels: Mapping[str, str]) -> Resamples:
        """The same draws for some rows alone, under other labels.

        Args:
            labels: the new label of each of these rows by the one that it has.
        """
        found = copy(self)
        for name in ("_observed", "_resampled"):
            cells = getattr(self, name).items()
            setattr(found, name, {(labels[c[0]], *c[1:]): value for c, value in cells if c[0] in labels})
        found._family = {new: self._family[old] for old, new in labels.items() if old in self._family}
        return found

    def estimate(self, terms: Sequence[tuple[float, Cell]]) -> Estimate | None:
        """The sum of factor × (mean accuracy of a cell over its runs).

        It is paired by seeds within each source, and by pre-trained networks where rows start from the same ones.

        Returns:
            ``None`` if a cell has no outputs, or cells that are paired have no seed in common.
        """
        if not terms or any(cell not in self._observed for _, cell in terms):
            return None
        families: dict[int, list[tuple[float, Cell]]] = {}
        for term in terms:
            families.setdefault(self._family[term[1][0]], []).append(term)
        parts = [(family, self._by_network(part)) for family, part in families.items()]
        if not all(by_network for _, by_network in parts):
            return None
        if any(len(by_network) > 1 for _, by_network in parts):
            return self._over_networks(parts)
        together = list(self._by_network(terms).values())
        return self._over_seeds(together[0]) if together else None

    def _by_network(self, terms: Sequence[tuple[float, Cell]]) -> dict[int, list[_Part]]:
        """Terms whose runs depend on each other with the seeds that all have, by pre-training seed that has some."""
        of_source: dict[str, list[tuple[float, Cell]]] = {}
        for term in terms:
            of_source.setdefault(term[1][1], []).append(term)
        seeds = {source: self._common_seeds(part) for source, part in of_source.items()}
        shared = sorted(set.intersection(*map(set, seeds.values())))
        return {p: [_Part((source, p), part, seeds[source][p]) for source, part in of_source.items()] for p in shared}

    def _over_seeds(self, parts: Sequence[_Part]) -> Estimate:
        """The estimate from one network of each norm."""
        by_seed = [self._by_seed(part) for part in parts]
        replicates = sum((self._replicated(part) for part in parts), np.zeros(self.replicates))
        runs = [values / len(values) for values in by_seed]
        return _estimate(replicates, by_seed, runs, len(parts))

    def _over_networks(self, families: Sequence[tuple[int, Mapping[int, Sequence[_Part]]]]) -> Estimate:
        """The estimate where some norms have several networks; the variance over networks includes that of seeds."""
        replicates, groups, runs = np.zeros(self.replicates), [], []
        for family, by_network in families:
            totals = []
            for weight, parts in zip(
                self._drawn(self._network_fate[family], len(by_network)), by_network.values(), strict=True
            ):
                by_seed = [self._by_seed(part) for part in parts]
                replicates += weight * sum(self._replicated(part) for part in parts)
                totals.append(sum(values.mean() for values in by_seed))
                runs += [values / (len(values) * len(by_network)) for values in by_seed]
            groups.append(np.array(totals))
        clusters = sum(len(next(iter(by_network.values()))) for _, by_network in families)
        return _estimate(replicates, groups, runs, clusters, networks=min(map(len, groups)), over_networks=True)

    def _by_seed(self, part: _Part) -> Array:
        """(seeds,) the sum of the terms with each seed."""
        _, p = part.cluster
        return np.array([sum(f * self._observed[cell][p, s] for f, cell in part.terms) for s in part.seeds])

    def _replicated(self, part: _Part) -> Array:
        """(replicates,) the sum of the terms for resampled seeds and images."""
        _, p = part.cluster
        found = np.stack([sum(f * self._resampled[cell][p, s] for f, cell in part.terms) for s in part.seeds])
        return np.asarray((self._drawn(self._fate[part.cluster], len(part.seeds)) * found).sum(axis=0))

    def _common_seeds(self, part: Sequence[tuple[float, Cell]]) -> dict[int, list[int]]:
        """The seeds that all cells have, by pre-training seed."""
        common = set.intersection(*(set(self._observed[cell]) for _, cell in part))
        found: dict[int, list[int]] = {}
        for p, seed in sorted(common):
            found.setdefault(p, []).append(seed)
        return found

    def _fates(
        self, draw: np.random.Generator, sources: Sequence[str]
    ) -> tuple[dict[tuple[str, int], Array], dict[int, Array]]:
        """Random numbers that select seeds, for every source and pre-training seed, and networks of every family."""
        if not self._observed:
            return {}, {}
        pretrainings = sorted({p for runs in self._observed.values() for p, _ in runs})
        most = max(max(Counter(p for p, _ in runs).values()) for runs in self._observed.values())
        fate = {(source, p): draw.random((self.replicates, most)) for p in pretrainings for source in sources}
        families = dict.fromkeys(self._family.values())
        return fate, {family: draw.random((self.replicates, len(pretrainings))) for family in families}

    def _drawn(self, fate: Array, k: int) -> Array:
        """(k, replicates) the weight of each of k seeds in every replicate."""
        if k == 1:
            return np.ones((1, self.replicates))
        drawn = (fate[:, : k - 1] * k).astype(int)
        return np.asarray((drawn[:, :, None] == np.arange(k)).sum(axis=1).T / (k - 1))


def _estimate(
    replicates: Array,
    groups: Sequence[Array],
    runs: Sequence[Array],
    clusters: int,
    networks: int = 1,
    over_networks: bool = False,
) -> Estimate:
    """The sum of the means of independent groups of values; one with a single value has the variance of the others.

    Args:
        replicates: of the sum.
        groups: the values behind each mean: seeds or pre-trained networks.
        runs: contributions of the runs of every cluster and network.
        clusters: how many clusters there are.
        networks: the smallest number of networks of a norm.
        over_networks: whether the groups are networks.
    """
    several = [(float(values.var(ddof=1)), len(values)) for values in groups if len(values) > 1]
    lent = (len(groups) - len(several)) / max(len(several), 1)  # to the groups with one value
    variance = float(replicates.var(ddof=1)) + sum(s2 * lent for s2, _ in several)
    precision = welch(math.sqrt(variance), [(s2 * (1 / k + lent), k - 1) for s2, k in several])
    value, half = sum(float(values.mean()) for values in groups), precision.half_width()
    interval = Interval(value, value - half, value + half)
    return Estimate(interval, precision, np.concatenate(runs), min(map(len, runs)), networks, clusters, over_networks)


def _families(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Rows of one number start from the same pre-trained networks, by label; without names, those of equal seeds."""
    networks: dict[str, set[object]] = {}
    for outcome in outcomes:
        networks.setdefault(outcome.label, set()).add(outcome.network or outcome.pretraining_seed)
    groups: list[set[object]] = []
    for names in networks.values():
        touching = [group for group in groups if group & names]
        groups = [*(group for group in groups if not group & names), names.union(*touching)]
    return {label: next(k for k, group in enumerate(groups) if names <= group) for label, names in networks.items()}


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


def seeds_to_resolve(estimate: Estimate, family: int = 1, limit: int = 100) -> int | None:
    """How many seeds per source would resolve the estimated value with a chance of :data:`POWER`.

    With several pre-training seeds it counts those. A rough guide: it assumes that the value and both variances are
    exact. ``None`` if ``limit`` seeds would not be enough, as when the images alone leave the value open.

    Args:
        estimate: of the value.
        family: how many tests are corrected for together (Bonferroni, which Holm's first step is).
        limit: of the search.
    """
    now = estimate.precision
    images = max(now.error**2 - now.seed_variance, 0.0)
    known = estimate.pretraining_seeds if estimate.over_networks else estimate.seeds
    if known < 2 or now.seed_variance == 0:
        return None
    for seeds in range(2, limit + 1):
        variance = now.seed_variance * known / seeds
        error, seed_df = math.sqrt(images + variance), now.seed_df * (seeds - 1) / (known - 1)
        then = Precision(error, variance, seed_df * (error**2 / variance) ** 2, seed_df)
        if abs(estimate.interval.value) >= then.half_width(ALPHA / family) + scipy.stats.t.ppf(POWER, then.df) * error:
            return seeds
    return None
