"""Intervals and tests as functions of numbers. Fractions and percents both work where no unit is named.

A test whose smallest possible p-value is above the level returns ``None``. Intervals are two-sided, at the level
:data:`LEVEL`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8
"""The probability of detecting an effect for which needed seeds are computed."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A number and its bounds; bounds are NaN if unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __contains__(self, value: float) -> bool:
        return bool(self.low <= value <= self.high)

    def __rmul__(self, factor: float) -> Interval:
        return Interval(factor * self.value, factor * self.low, factor * self.high)

    @property
    def half(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2

    @property
    def known(self) -> bool:
        """Whether it has bounds."""
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Precision:
    """How precisely a value is known.

    Attributes:
        error: its standard error.
        seed_variance: the part of ``error``² that more seeds would reduce.
        df: degrees of freedom of ``error``; infinite where seeds add nothing.
        seed_df: degrees of freedom of ``seed_variance``.
    """

    error: float
    seed_variance: float = 0.0
    df: float = math.inf
    seed_df: float = math.inf

    def half_width(self, alpha: float = ALPHA) -> float:
        """Half of the interval at level 1 − ``alpha``; that over seeds alone if it is the longer one.

        >>> round(Precision(1.0).half_width(), 2), round(Precision(1.0, 1.0, 2.0, 2.0).half_width(), 2)
        (1.96, 4.3)
        """
        whole, of_seeds = scipy.stats.t.isf(alpha / 2, [self.df, self.seed_df])
        return max(float(whole) * self.error, float(of_seeds) * math.sqrt(self.seed_variance))

    def p_value(self, value: float) -> float:
        """Two-sided p of Student's test for a true value of zero: the level at which :meth:`half_width` is ``value``.

        >>> round(Precision(1.0).p_value(-1.96), 3), round(Precision(1.0, 1.0, 2.0, 2.0).p_value(4.303), 3)
        (0.05, 0.05)
        >>> Precision(0.0).p_value(0.0), Precision(0.0).p_value(1.0)
        (1.0, 0.0)
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            t = abs(value) / np.array([self.error, math.sqrt(self.seed_variance)])
        t[np.isnan(t)] = 0.0  # 0 / 0
        return float(2 * scipy.stats.t.sf(t, [self.df, self.seed_df]).max())


def welch(error: float, variances: Sequence[tuple[float, int]]) -> Precision:
    """Welch and Satterthwaite's degrees of freedom of an error that contains the variance of seeds.

    Args:
        error: standard error, that of the seeds included.
        variances: (variance, degrees of freedom) of every independent group of seeds.
    """
    seed_variance = sum(variance for variance, _ in variances)
    spread = sum(variance**2 / df for variance, df in variances)
    if spread == 0:
        return Precision(error)
    df = max(error**4 / spread, min(df for _, df in variances))
    return Precision(error, seed_variance, df, seed_variance**2 / spread)


def binomial(correct: int, n: int) -> Interval:
    """Wilson's score interval of a proportion."""
    bounds = scipy.stats.binomtest(correct, n).proportion_ci(LEVEL, method="wilson")
    return Interval(correct / n, float(bounds.low), float(bounds.high))


def of_difference(a: Interval, b: Interval) -> Interval:
    """A - b for independent a and b with the bounds of Newcombe (1998), which preserve skewness."""
    value = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value, value - below, value + above)


def of_binomial_average(correct: Sequence[int], n: Sequence[int]) -> Interval:
    """The unweighted mean of independent proportions, normal approximation."""
    p, n_ = np.divide(correct, n), np.asarray(n)
    half = float(scipy.stats.norm.ppf(1 - ALPHA / 2) * np.sqrt((p * (1 - p) / n_).sum()) / len(p))
    return Interval(float(p.mean()), float(p.mean()) - half, float(p.mean()) + half)


def image_flips(net: npt.NDArray[np.integer], family: int = 1) -> float | None:
    """Exact two-sided permutation test of paired images; for one pair of networks it is McNemar's exact test.

    Under the null hypothesis the sign of each image's ``net`` is a fair coin. The distribution of the sum is computed
    exactly.

    Args:
        net: (images,) by how many seeds the one classifier is right more often than the other.
        family: how many tests are corrected for together.

    Returns:
        The p-value, or None when the images are too few to reach the level after the correction.
    """
    if family * 2.0 ** (1 - len(net)) > ALPHA:
        return None
    size = np.abs(net)
    pmf = np.ones(1)  # of (size.sum() + sum of signed sizes) / 2
    for step in range(1, int(size.max(initial=0)) + 1):
        m = int((size == step).sum())
        spread = np.zeros(step * m + 1)
        spread[::step] = scipy.stats.binom.pmf(np.arange(m + 1), m, 0.5)
        pmf = np.convolve(pmf, spread)
    extreme = np.abs(2 * np.arange(len(pmf)) - size.sum()) >= abs(int(net.sum()))
    return float(min(1.0, pmf[extreme].sum()))


def run_flips(effects: Floats, family: int = 1) -> float | None:
    """Two-sided permutation test of paired runs: under the null hypothesis every effect's sign is a fair coin.

    Exact for up to 13 runs, else over 10 000 random flips.

    Args:
        effects: (runs,) each run's difference, weighted as in the sum that is tested.
        family: how many tests are corrected for together.

    Returns:
        The p-value, or None when the runs are too few to reach the level after the correction: n runs
        cannot give less than 2^(1-n).
    """
    if family * smallest_run_p(len(effects)) > ALPHA:
        return None
    test = scipy.stats.permutation_test(
        (np.asarray(effects),), np.sum, permutation_type="samples", n_resamples=10_000, axis=-1, vectorized=True, rng=0
    )
    return float(test.pvalue)


def smallest_run_p(runs: int) -> float:
    """The smallest two-sided p-value that ``runs`` paired differences can give by their signs."""
    return 2.0 ** (1 - runs)


def runs_to_reach(family: int) -> int:
    """The fewest paired runs whose signs can reach the level after a correction for ``family`` tests."""
    return 1 + math.ceil(math.log2(family / ALPHA))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; a test without a p-value counts in the family.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((k for k, value in enumerate(p) if value is not None), key=lambda k: p[k] or 0.0)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, k in enumerate(order):
        highest = min(1.0, max(highest, (len(p) - rank) * (p[k] or 0.0)))
        corrected[k] = highest
    return corrected


@dataclass(frozen=True)
class Ranking:
    """Friedman's test and Nemenyi's critical difference.

    Attributes:
        ranks: (methods,) mean rank over the blocks, 1 is best.
        statistic: Friedman's chi-square.
        p: its p-value.
        critical: mean ranks closer than this do not differ significantly.
        blocks: how many blocks were ranked.
    """

    ranks: Floats
    statistic: float
    p: float
    critical: float
    blocks: int


def ranking(scores: Floats) -> Ranking | None:
    """Compare several methods over blocks (Demšar 2006), equal scores sharing their rank.

    Args:
        scores: (blocks, methods), higher is better.

    Returns:
        ``None`` for fewer than three methods, or so few blocks that even equal orders in all of them would not reach
        the level.
    """
    blocks, methods = scores.shape
    if methods < 3 or scipy.stats.chi2.sf(blocks * (methods - 1), methods - 1) > ALPHA:
        return None
    ranks = scipy.stats.rankdata(-scores, axis=1).mean(axis=0)
    differ = bool((scores != scores[:, :1]).any())
    statistic, p = scipy.stats.friedmanchisquare(*scores.T) if differ else (0.0, 1.0)
    q = scipy.stats.studentized_range.ppf(LEVEL, methods, np.inf) / math.sqrt(2)
    critical = q * math.sqrt(methods * (methods + 1) / (6 * blocks))
    return Ranking(ranks, float(statistic), float(p), float(critical), blocks)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None]:
    """Kendall's tau-b and its p-value, None for fewer than five values, which cannot reach the level."""
    test = scipy.stats.kendalltau(a, b)
    return float(test.statistic), float(test.pvalue) if len(a) >= 5 else None


def p_text(p: float | None) -> str:
    """A p-value for display."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equation(p: float) -> str:
    """A p-value in a sentence.

    >>> p_equation(0.03), p_equation(1e-5)
    ('p = 0.030', 'p < 0.001')
    """
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"
