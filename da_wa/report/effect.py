"""Does it help to normalise the weights, too? Norms with and without, paired over seeds, sources, targets, images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from da_wa.report import paper
from da_wa.report.content import Plot, Section, Table
from da_wa.report.figures import Panel, critical_difference, dots
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.outcomes import Array, Outcome
from da_wa.report.resampling import Cell, Estimate, Resamples, seeds_to_resolve
from da_wa.report.statistics import (
    ALPHA,
    holm,
    image_flips,
    p_text,
    ranking,
    run_flips,
    runs_to_reach,
    smallest_run_p,
)
from da_wa.report.wording import arrow, change, counted, listed, signed

SEPARATOR = " + "

Pair = tuple[str, str]


@dataclass(frozen=True)
class Contrast:
    """One or more norms, each without and with an addition to it."""

    name: str
    addition: str
    norms: Sequence[tuple[str, str]]

    def terms(self, pairs: Sequence[Pair]) -> list[tuple[float, Cell]]:
        """Mean over ``pairs`` and norms of with - without, in points."""
        share = 100.0 / (len(pairs) * len(self.norms))
        return [
            (factor, (label, *pair))
            for without, added in self.norms
            for pair in pairs
            for factor, label in ((share, added), (-share, without))
        ]


@dataclass(frozen=True)
class Effect:
    """What a contrast does on average over the pairs that all its norms have.

    Attributes:
        contrast: which norms.
        pairs: over which pairs.
        estimate: in points of accuracy.
        p: of the permutation of paired runs, None where there are too few.
        corrected: Holm's.
    """

    contrast: Contrast
    pairs: Sequence[Pair]
    estimate: Estimate
    p: float | None
    corrected: float | None

    @property
    def resolved(self) -> bool:
        """Whether the test over runs and the interval over seeds and images both leave out zero."""
        return self.corrected is not None and self.corrected < ALPHA and 0.0 not in self.estimate.interval


def contrasts(labels: Sequence[str]) -> list[Contrast]:
    """``X`` against ``X + Y`` for all norms at hand, and ``Baseline`` against ``Y``.

    What can be added is known from the labels of these norms and of the paper's.
    """
    additions = dict.fromkeys(y for label in (*paper.ROWS, *labels) if (y := label.partition(SEPARATOR)[2]))
    found = []
    for y in additions:
        for label in labels:
            added = y if label == paper.ROWS[0] else label + SEPARATOR + y
            if added in labels:
                found.append(Contrast(f"{label} → {added}", y, [(label, added)]))
    return found


def effects(matrix: Matrix, resamples: Resamples) -> list[Effect]:
    """The average effect of every contrast whose norms share a pair, and of each addition over several norms.

    The mean over norms is of those with the most seeds: its runs are the seeds that all of them have.
    """
    known = set(resamples.cells)

    def measured(contrast: Contrast) -> tuple[Contrast, list[Pair], Estimate] | None:
        needed = [label for norms in contrast.norms for label in norms]
        pairs = [pair for pair in matrix.pairs if all((label, *pair) in known for label in needed)]
        estimate = resamples.estimate(contrast.terms(pairs)) if pairs else None
        return (contrast, pairs, estimate) if estimate else None

    found = [each for contrast in contrasts(list(matrix.mean.index)) if (each := measured(contrast))]
    for y in dict.fromkeys(contrast.addition for contrast, _, _ in found):
        of_y = [(contrast, estimate.seeds) for contrast, _, estimate in found if contrast.addition == y]
        most = max(seeds for _, seeds in of_y)
        norms = [contrast.norms[0] for contrast, seeds in of_y if seeds == most]
        name = f"{y}, mean over {listed([without for without, _ in norms], 2)}"
        if len(norms) > 1 and (mean := measured(Contrast(name, y, norms))):
            found.append(mean)
    p = [run_flips(estimate.runs, len(found)) for _, _, estimate in found]
    corrected = holm(p)
    return [Effect(*each, p[k], corrected[k]) for k, each in enumerate(found)]


def pairwise(found: Sequence[Effect], resamples: Resamples, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every contrast of two norms on every pair: effect, interval, and the test over images, Holm-corrected.

    The test takes the trained networks as they are (McNemar's for one seed); the interval is of seeds and
    images. ``resolved`` asks for both, and for two seeds at least.
    """
    by_cell: dict[Cell, dict[int, Outcome]] = {}
    for outcome in outcomes:
        by_cell.setdefault((outcome.label, outcome.source, outcome.target), {})[outcome.seed] = outcome
    single = [effect for effect in found if len(effect.contrast.norms) == 1]
    family = sum(len(effect.pairs) for effect in single)
    rows = []
    for effect in single:
        ((without, added),) = effect.contrast.norms
        for pair in effect.pairs:
            estimate = resamples.estimate(effect.contrast.terms([pair]))
            if estimate is None:
                continue
            net = _net(by_cell[added, *pair], by_cell[without, *pair])
            interval = estimate.interval
            rows.append(
                {
                    "contrast": effect.contrast.name,
                    "source": pair[0],
                    "target": pair[1],
                    "seeds": estimate.seeds,
                    "images": len(net),
                    "effect": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "p_images": image_flips(net, family),
                    "outside": interval.known and 0.0 not in interval,
                }
            )
    frame = pd.DataFrame(rows)
    if len(frame):
        corrected = holm([None if p is None or pd.isna(p) else float(p) for p in frame["p_images"]])
        frame["p_images_holm"] = np.array([math.nan if p is None else p for p in corrected])
        frame["resolved"] = frame["outside"] & (frame["p_images_holm"] < ALPHA) & (frame["seeds"] > 1)
        frame = frame.drop(columns="outside")
    return frame


def _net(added: dict[int, Outcome], without: dict[int, Outcome]) -> Array:
    """(images,) in how many seeds the image is right with the addition only, less without it only."""
    seeds = sorted(set(added) & set(without))
    size = 1 + max(int(added[seed].index.max()) for seed in seeds)
    net, seen = np.zeros(size, np.int64), np.zeros(size, bool)
    for seed in seeds:
        a, b = (outcomes[seed] for outcomes in (added, without))
        net[a.index] += a.right.astype(np.int64)
        net[b.index] -= b.right.astype(np.int64)
        seen[a.index] = True
    return net[seen]


def section(matrix: Matrix, resamples: Resamples, outcomes: Sequence[Outcome]) -> Section:
    """Does WA help?"""
    found = effects(matrix, resamples)
    additions = list(dict.fromkeys(effect.contrast.addition for effect in found)) or ["WA"]
    title = f"Does {additions[0]} help?" if len(additions) == 1 else f"Do {listed(additions)} help?"
    parts: list[str | Table | Plot] = []
    data: dict[str, pd.DataFrame] = {}
    summary = ""
    if found:
        summary = _verdict(found)
        pretrained = matrix.setting is not None and matrix.setting.pretraining is not None
        parts += [summary, _averages(found, pretrained)]
        data["effect"] = _frame(found)
        by_pair = pairwise(found, resamples, outcomes)
        data["effect_pairs"] = by_pair
        parts += [*_per_pair(by_pair), _forest(found)]
    else:
        parts.append(
            "No norm stands in the table both with and without an addition, with what it predicted saved, so there "
            "is nothing to compare in pairs. Norms to run together are, for example, norms=[bn,bn_wa]."
        )
    parts += _ranks(matrix)
    return Section(title, parts, data, summary)


def _verdict(found: Sequence[Effect]) -> str:
    """What is and what is not resolved, in words."""
    single = [effect for effect in found if len(effect.contrast.norms) == 1]
    clear = [effect for effect in single if effect.resolved]
    helped = [e.contrast.name for e in clear if e.estimate.interval.value > 0]
    hurt = [e.contrast.name for e in clear if e.estimate.interval.value < 0]
    lines = []
    if helped:
        lines.append(f"Higher accuracy on average over the pairs is resolved for {listed(helped)}.")
    if hurt:
        lines.append(f"Lower accuracy on average over the pairs is resolved for {listed(hurt)}.")
    open_ = [effect for effect in single if not effect.resolved]
    if unclear := [effect.contrast.name for effect in open_ if effect.p is not None]:
        lines.append(f"Not resolved: {listed(unclear)}.")
    if untold := [effect for effect in open_ if effect.p is None]:
        least = counted(max(_least_seeds(effect, len(found)) for effect in untold), "seed")
        names = [effect.contrast.name for effect in untold]
        lines.append(f"Too few runs to tell (it takes {least} at least): {listed(names)}.")
    for effect in found:
        if len(effect.contrast.norms) > 1:
            state = "resolved" if effect.resolved else "not resolved"
            lines.append(f"{effect.contrast.name}: {change(effect.estimate.interval)} points, {state}.")
    return " ".join(lines)


def _averages(found: Sequence[Effect], pretrained: bool) -> Table:
    rows, bold = [], set()
    for i, effect in enumerate(found):
        e = effect.estimate
        rows.append(
            [
                effect.contrast.name,
                change(e.interval),
                str(len(effect.pairs)),
                str(e.seeds),
                str(len(e.runs)),
                p_text(effect.p),
                p_text(effect.corrected),
                _needed(effect, len(found)),
            ]
        )
        if effect.resolved:
            bold |= {(i, 0), (i, 1)}
    runs = min(len(effect.estimate.runs) for effect in found)
    least = runs_to_reach(len(found))
    told = [
        "Effect: points of accuracy gained, unweighted mean over the pairs, with its 95 % interval over seeds and "
        "images (two-level bootstrap, paired; Student's t with Satterthwaite's degrees of freedom). p: two-sided "
        "permutation test of the paired runs (source and seed), corrected after Holm over the rows of this table. "
        "Bold: the interval leaves out 0 and the corrected p is below 0.05; nothing else is called resolved.",
        "Seeds needed: per source, to resolve an effect of just this size in four of five repetitions; a rough guide, "
        "for it takes the estimates for the truth. From one seed (≥): for any p-value at all.",
    ]
    if any(effect.p is None for effect in found):
        told.append(
            f"No p-value (–) where the design cannot give one: {counted(runs, 'paired run')} cannot reach less than "
            f"{smallest_run_p(runs):.2g} two-sided, and the correction for {counted(len(found), 'comparison')} asks "
            f"for {ALPHA / len(found):.2g}; {least} runs would do."
        )
    told += [_no_test_over_seeds(seeds) for seeds in sorted({effect.estimate.seeds for effect in found})]
    told.append("Seeds vary the split, the order, the augmentation and the new head.")
    if pretrained:
        told.append(
            "The pre-trained network of a norm is one and the same for all its seeds: its luck is in no interval here."
        )
    return Table(
        "effect",
        "Change of the average accuracy in points",
        ["Change of norm", "Effect (95 % interval)", "Pairs", "Seeds", "Runs", "p", "p (Holm)", "Seeds needed"],
        rows,
        frozenset(bold),
        told,
    )


def _no_test_over_seeds(seeds: int) -> str:
    if seeds == 1:
        return (
            "With one seed the intervals are of the images alone. They speak of these very networks and not of "
            "what training once more would give."
        )
    smallest = smallest_run_p(seeds)
    if smallest <= ALPHA:
        return f"On a single pair, the signs of {seeds} seeds alone could reach p = {smallest:.2g} at the least."
    return (
        f"On a single pair, {seeds} seeds cannot give a two-sided p-value below {smallest:.2g} by their signs or ranks "
        "(Wilcoxon), so none is printed for seeds there."
    )


def _needed(effect: Effect, family: int) -> str:
    if effect.resolved:
        return "enough"
    seeds = effect.estimate.seeds
    least = _least_seeds(effect, family)
    if seeds == 1:
        return f"≥ {least}"
    needed = seeds_to_resolve(effect.estimate)
    return "> 100" if needed is None else str(max(needed, least))


def _least_seeds(effect: Effect, family: int) -> int:
    """How many seeds per source it takes for runs enough to reach the level at all."""
    return math.ceil(runs_to_reach(family) * effect.estimate.seeds / len(effect.estimate.runs))


def _per_pair(by_pair: pd.DataFrame) -> list[str | Table | Plot]:
    names = list(dict.fromkeys(by_pair["contrast"]))
    pairs = list(dict.fromkeys(zip(by_pair["source"], by_pair["target"], strict=True)))
    cells = {(row.contrast, row.source, row.target): row for row in by_pair.itertuples()}
    rows, bold = [], set()
    for i, name in enumerate(names):
        line = [name]
        for j, pair in enumerate(pairs):
            row = cells.get((name, *pair))
            if row is None:
                line.append("–")
                continue
            half = (row.high - row.low) / 2
            p = None if math.isnan(row.p_images_holm) else row.p_images_holm
            line.append(f"{signed(row.effect)} ± {half:.1f}\np {p_text(p)}")
            if row.resolved:
                bold.add((i, j + 1))
        rows.append(line)
    table = Table(
        "effect_pairs",
        "Change of the accuracy in points, pair by pair",
        ["Change of norm", *(arrow(*pair) for pair in pairs)],
        rows,
        frozenset(bold),
        [
            "± is half of the 95 % interval over seeds and images, of images alone for one seed. p: exact "
            "permutation test over the images of the trained networks as they are (McNemar's test when there is one "
            "seed), corrected after Holm over all cells; it knows nothing of other seeds. Bold: the interval leaves "
            "out 0, the corrected p is below 0.05, and there are two seeds at least.",
        ],
    )
    return [table.transposed_if_wide()]


def _forest(found: Sequence[Effect]) -> Plot:
    names = [effect.contrast.name for effect in found]
    intervals = [effect.estimate.interval for effect in found]
    hollow = frozenset(row for row, effect in enumerate(found) if not effect.resolved)
    figure = dots(
        names,
        [Panel("Mean over the pairs", {"effect": intervals}, hollow)],
        "change of accuracy (points), 95 % intervals",
        zero=True,
        width=5.2,
    )
    caption = (
        "The effects on average over the pairs; right of the line: higher accuracy. Intervals are over seeds and "
        "images, for one seed of images alone. Hollow: not resolved."
    )
    return Plot("effect", figure, caption, wide=False)


def _ranks(matrix: Matrix) -> list[str | Table | Plot]:
    """Friedman and Nemenyi over the pairs, for the norms that have all of them."""
    scores = matrix.mean.drop(columns=AVERAGE).dropna(axis=0)
    found = ranking(scores.to_numpy().T)
    if found is None:
        return [
            f"The norms are not ranked by Friedman's test: {counted(len(scores), 'norm')} on "
            f"{counted(len(matrix.pairs), 'pair')} cannot reach 0.05 (three norms are the least, and enough pairs)."
        ]
    apart = sum(
        abs(a - b) > found.critical for k, a in enumerate(found.ranks) for b in found.ranks[:k]
    )  # pairs of norms
    total = len(scores) * (len(scores) - 1) // 2
    norms = f"{len(scores)} norms"
    verdict = f"not all {norms} are alike" if found.p < ALPHA else f"the {norms} are not shown to differ"
    p = p_text(found.p) if found.p < 0.001 else f"= {p_text(found.p)}"
    return [
        f"Over the {counted(found.blocks, 'pair')} as blocks, each the mean over its seeds, "
        f"{verdict} (Friedman χ² = {found.statistic:.1f}, p {p}). Nemenyi's test tells norms apart whose mean ranks "
        f"differ by more than {found.critical:.2f}: {apart} of the {total} pairs of norms. Pairs with a common source "
        "or target are not independent, so read it as a summary.",
        Plot(
            "critical_difference",
            critical_difference(list(scores.index), found),
            "Mean rank over the pairs, 1 is best; bars join norms that are not told apart.",
        ),
    ]


def _frame(found: Sequence[Effect]) -> pd.DataFrame:
    rows = [
        {
            "contrast": e.contrast.name,
            "pairs": len(e.pairs),
            "seeds": e.estimate.seeds,
            "runs": len(e.estimate.runs),
            "effect": e.estimate.interval.value,
            "low": e.estimate.interval.low,
            "high": e.estimate.interval.high,
            "standard_error": e.estimate.error,
            "df": e.estimate.df,
            "p_runs": e.p,
            "p_runs_holm": e.corrected,
            "resolved": e.resolved,
            "seeds_needed": _needed(e, len(found)),
        }
        for e in found
    ]
    return pd.DataFrame(rows)
