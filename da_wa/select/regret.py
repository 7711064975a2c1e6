"""Quality of a score: regret, harm, collapse, rank correlation.

A family is the set of candidates among which one choice is made: evaluated epochs × weights of the method, at one
norm, method, pair and seed. Accuracies on the target appear here to judge a choice; :func:`choose` never sees them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from da_wa.select.saved import Floats

POWER = 2.0


@dataclass(frozen=True)
class Verdict:
    """One choice of a score.

    Attributes:
        chosen: number of the candidate, or None where no candidate has a score.
        accuracy: its target accuracy, a fraction.
        regret: in points: the best candidate's accuracy less the chosen one's.
        below_source: whether it is worse than without adaptation; None where that is unknown.
        collapsed: whether too many of its predictions are one class, see :func:`largest_allowed`; None where that is
            unknown.
        spearman: weighted Spearman correlation of scores and accuracies over the candidates; NaN where undefined.
    """

    chosen: int | None
    accuracy: float
    regret: float
    below_source: bool | None
    collapsed: bool | None
    spearman: float


@dataclass(frozen=True)
class Summary:
    """Means over families. NaN where no family has a value.

    Attributes:
        families: how many have a choice.
        regret: mean regret in points.
        below_source: share of the choices that are worse than without adaptation.
        collapsed: share of the choices that are collapsed.
        spearman: mean weighted Spearman correlation, over the families where it is defined.
    """

    families: int
    regret: float
    below_source: float
    collapsed: float
    spearman: float


def largest_share(predicted: npt.ArrayLike) -> float:
    """Share of the predictions that the most frequent class has.

    >>> largest_share([0, 0, 0, 1])
    0.75

    Raises:
        ValueError: no predictions.
    """
    classes = np.asarray(predicted)
    if classes.ndim != 1 or not classes.size:
        raise ValueError(f"predicted classes must have shape (images,); found {classes.shape}")
    return float(np.unique(classes, return_counts=True)[1].max() / len(classes))


def largest_allowed(source_share: float = 0.0) -> float:
    """The largest share of one class, ``max(½, 1 - (1 - q)²)``; a candidate with more is collapsed.

    q is the share of the largest class on the source: with two equal classes the limit is ¾, with one of 60 % it is
    0.84, and up to q = 0.29, as with many classes, it is ½. The other classes may thus have less than on the source, as
    on a target of other proportions, but not nothing: the limit is below 1, so constant predictions are collapsed.

    >>> largest_allowed(0.5), largest_allowed(1 / 31)
    (0.75, 0.5)
    """
    return max(0.5, 1 - (1 - source_share) ** 2)


def choose(scores: npt.ArrayLike, shares: npt.ArrayLike | None = None, source_share: float = 0.0) -> int | None:
    """Number of the candidate with the highest score, the first of equals; None where no candidate has a score.

    Args:
        scores: (c,), NaN where a candidate has none.
        shares: (c,) from :func:`largest_share`. If given, collapsed candidates are not chosen (the collapse guard),
            unless all are collapsed: then the guard has no effect.
        source_share: :func:`largest_share` of the held-out source labels; see :func:`largest_allowed`.

    >>> choose([0.1, 0.9, 0.5])
    1
    >>> choose([0.1, 0.9, 0.5], shares=[0.1, 0.8, 0.2])
    2
    >>> choose([0.1, 0.9], shares=[1.0, 1.0])
    1
    """
    values = _vector("scores", scores)
    share = None if shares is None else _vector("shares", shares, len(values))
    eligible = _eligible(values, share, largest_allowed(source_share))
    candidates = np.flatnonzero(eligible)
    return int(candidates[values[candidates].argmax()]) if len(candidates) else None


def judge(
    scores: npt.ArrayLike,
    accuracies: npt.ArrayLike,
    shares: npt.ArrayLike | None = None,
    source_only: float | None = None,
    guard: bool = False,
    source_share: float = 0.0,
) -> Verdict:
    """What a score chose in one family, and how good that is.

    Regret is counted from the best of all candidates, with or without the guard, so that both are comparable.

    Args:
        scores: (c,), higher is better, NaN where a candidate has none.
        accuracies: (c,) on the target, fractions.
        shares: (c,) from :func:`largest_share`.
        source_only: accuracy without adaptation, a fraction.
        guard: whether collapsed candidates are left out.
        source_share: :func:`largest_share` of the held-out source labels; see :func:`largest_allowed`.

    >>> verdict = judge([1, 2, 3], [0.5, 0.75, 0.5], shares=[0.1, 0.1, 0.9], source_only=0.625)
    >>> verdict.chosen, verdict.regret, verdict.below_source, verdict.collapsed
    (2, 25.0, True, True)
    >>> judge([1, 2, 3], [0.5, 0.75, 0.5], shares=[0.1, 0.1, 0.9], guard=True).regret
    0.0

    Raises:
        ValueError: different numbers of candidates, an accuracy outside 0 ... 1, or a guard without shares.
    """
    values = _vector("scores", scores)
    accuracy = _fractions("accuracies", accuracies, len(values))
    share = None if shares is None else _fractions("shares", shares, len(values))
    if source_only is not None:
        _fractions("source_only", [source_only])
    if guard and share is None:
        raise ValueError("the collapse guard needs the shares of the most frequent class")
    guarding = share if guard else None
    limit = largest_allowed(source_share)
    chosen = choose(values, guarding, source_share)
    if chosen is None:
        return Verdict(None, math.nan, math.nan, None, None, math.nan)
    eligible = _eligible(values, guarding, limit)
    return Verdict(
        chosen,
        accuracy=float(accuracy[chosen]),
        regret=100 * float(accuracy.max() - accuracy[chosen]),
        below_source=None if source_only is None else bool(accuracy[chosen] < source_only),
        collapsed=None if share is None else bool(share[chosen] > limit),
        spearman=weighted_spearman(values[eligible], accuracy[eligible]),
    )


def summarize(verdicts: Sequence[Verdict]) -> Summary:
    """Means over families; each mean over the families where its value is known.

    >>> good, bad = judge([1, 2], [0.5, 0.75]), judge([2, 1], [0.5, 0.75])
    >>> summarize([good, bad]).regret
    12.5
    """
    made = [v for v in verdicts if v.chosen is not None]
    return Summary(
        families=len(made),
        regret=_mean([v.regret for v in made]),
        below_source=_mean([float(v.below_source) for v in made if v.below_source is not None]),
        collapsed=_mean([float(v.collapsed) for v in made if v.collapsed is not None]),
        spearman=_mean([v.spearman for v in made if not math.isnan(v.spearman)]),
    )


def weighted_spearman(scores: npt.ArrayLike, accuracies: npt.ArrayLike, power: float = POWER) -> float:
    """Spearman correlation of scores and accuracies that counts most the candidates which the score ranks high.

    Weights (Musgrave et al. 2022, arXiv 2208.07360): w_i = r_i^power, where r is the dense rank of the score divided
    by the largest rank: 1 for the candidate that would be chosen. A later version of their code takes the larger of
    the ranks of score and accuracy; that is not used here, because it is negative on average for a score that is
    independent of accuracy (−0.3 for ten candidates). This one is 0 on average then.

    The correlation is Pearson's, weighted, of weighted mid-ranks (weight of all smaller values plus half that of equal
    ones): for integer weights the Spearman correlation of the table with each row repeated w_i times, for ``power=0``
    the ordinary one.

    Args:
        scores: (c,).
        accuracies: (c,).
        power: exponent of the weights.

    Returns:
        −1 ... 1; NaN for fewer than two candidates or where all scores or all accuracies are equal.

    >>> round(weighted_spearman([1, 2, 3, 4], [0.1, 0.2, 0.5, 0.9]), 6)
    1.0
    >>> top_right, top_wrong = [2, 1, 3, 4], [1, 2, 4, 3]  # one swap each, at the bottom and at the top
    >>> weighted_spearman(top_right, [1, 2, 3, 4]) > weighted_spearman(top_wrong, [1, 2, 3, 4])
    True

    Raises:
        ValueError: NaN, or different numbers of scores and accuracies.
    """
    x = _vector("scores", scores)
    y = _vector("accuracies", accuracies, len(x))
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("a rank correlation needs numbers; leave out candidates without a score or an accuracy")
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return math.nan
    rank = scipy.stats.rankdata(x, method="dense")
    weights = (rank / rank.max()) ** power
    weights /= weights.sum()
    a, b = _mid_rank(x, weights), _mid_rank(y, weights)
    a, b = a - weights @ a, b - weights @ b
    correlation = float(weights @ (a * b) / math.sqrt((weights @ a**2) * (weights @ b**2)))
    return max(-1.0, min(1.0, correlation))


def _mid_rank(values: Floats, weights: Floats) -> Floats:
    """Weight of all smaller values, plus half the weight of equal ones."""
    _, group = np.unique(values, return_inverse=True)
    mass = np.bincount(group, weights)
    ranks: Floats = (np.cumsum(mass) - mass / 2)[group]
    return ranks


def _eligible(scores: Floats, shares: Floats | None, limit: float) -> npt.NDArray[np.bool_]:
    """Candidates that have a score and, unless that leaves none, are not collapsed."""
    scored = ~np.isnan(scores)
    kept = scored if shares is None else scored & (shares <= limit)
    return kept if kept.any() else scored


def _vector(name: str, values: npt.ArrayLike, length: int | None = None) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or length not in (None, len(array)):
        expected = "one value a candidate" if length is None else f"{length} values, one a candidate"
        raise ValueError(f"{name} must hold {expected}; found shape {array.shape}")
    return array


def _fractions(name: str, values: npt.ArrayLike, length: int | None = None) -> Floats:
    array = _vector(name, values, length)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name} must be fractions, 0 ... 1; found {array.min()} ... {array.max()}")
    return array


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
