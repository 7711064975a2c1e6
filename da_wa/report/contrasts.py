"""Effects of one factor: compare table rows that differ only in it, paired over seeds, sources, targets and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from da_wa.errors import ConfigError, nearest
from da_wa.records.contrasts import BASES, IMPLIED, Cell, Contrast, Pair, Row, contrasts, level_name
from da_wa.report.outcomes import Array, Outcome
from da_wa.report.resampling import Estimate, Replicate, Resamples, seeds_to_resolve
from da_wa.report.statistics import ALPHA, holm, image_flips, run_flips, runs_to_reach, smallest_run_p
from da_wa.report.wording import counted, listed


@dataclass(frozen=True)
class Effect:
    """A contrast on average over the pairs that all its rows have with a common seed.

    Attributes:
        contrast: what is compared.
        pairs: over which pairs.
        estimate: in points of accuracy.
        p: of the sign-flip test of paired runs, with several pre-training seeds that of Student's test over networks;
            ``None`` if there are too few runs, or one network where others have several.
        corrected: p after Holm's correction.
    """

    contrast: Contrast
    pairs: Sequence[Pair]
    estimate: Estimate
    p: float | None
    corrected: float | None

    @property
    def resolved(self) -> bool:
        """Whether the test over runs and the interval over seeds and images both exclude zero."""
        return self.corrected is not None and self.corrected < ALPHA and 0.0 not in self.estimate.interval


def effects(
    rows: Mapping[str, Row],
    pairs: Sequence[Pair],
    resamples: Resamples,
    factor: str = "weight",
    labels: Mapping[tuple[str, Any], str] = MappingProxyType({}),
    base: str | None = None,
    levels: Sequence[str] | None = None,
) -> list[Effect]:
    """The average effect of every contrast, and of each level over several bases.

    An effect is over the pairs for which its rows have a common seed; without any there is none. The mean over bases is
    of those with the most networks and seeds: its runs are the seeds that all of them have. If a base is compared with
    several rows, such as the weights of a method, it is over all of them, and its name says how many. The p-values are
    corrected together.

    Args:
        rows: see :func:`contrasts`.
        pairs: in display order.
        resamples: of all runs.
        factor: ``norm``, ``weight``, ``activation`` or ``method``.
        labels: display names by (factor, level).
        base: the level that the others are compared with; default: ``plain`` weights, the method ``none``.
        levels: the others; default: all.
    """

    def measured(contrast: Contrast) -> tuple[Contrast, list[Pair], Estimate] | None:
        shared: list[Pair] = []
        for pair in pairs:
            if resamples.estimate(contrast.terms([*shared, pair])):
                shared.append(pair)
        estimate = resamples.estimate(contrast.terms(shared)) if shared else None
        return (contrast, shared, estimate) if estimate else None

    found = [each for contrast in contrasts(rows, factor, base, levels) if (each := measured(contrast))]
    for value in dict.fromkeys(contrast.value for contrast, _, _ in found):
        of_value = [
            (contrast, (estimate.pretraining_seeds, estimate.seeds))
            for contrast, _, estimate in found
            if contrast.value == value
        ]
        most = max(counts for _, counts in of_value)
        averaged = [contrast.rows[0] for contrast, counts in of_value if counts == most]
        starts = list(dict.fromkeys(start for start, _ in averaged))
        if len(starts) > 1:
            name = f"{level_name(factor, value, labels)}, mean over {listed(starts, 2)}"
            name += f" ({len(averaged)} comparisons)" if len(averaged) > len(starts) else ""
            if mean := measured(Contrast(factor, value, of_value[0][0].base, averaged, name)):
                found.append(mean)
    p = [_p_value(estimate, len(found), resamples.several_networks) for _, _, estimate in found]
    corrected = holm(p)
    return [Effect(*each, p[k], corrected[k]) for k, each in enumerate(found)]


def too_few_runs(found: Sequence[Effect]) -> list[str]:
    """Why some of the comparisons that are corrected together have no p-value; empty if all have one.

    Only with one pre-trained network of each norm: with several, networks are tested, not runs.
    """
    if all(effect.p is not None for effect in found) or any(effect.estimate.over_networks for effect in found):
        return []
    runs = min(len(effect.estimate.runs) for effect in found)
    return [
        f"No p-value (–) where runs are too few: {counted(runs, 'paired run')} cannot give less than "
        f"{smallest_run_p(runs):.2g}, and the correction for {counted(len(found), 'comparison')} requires "
        f"{ALPHA / len(found):.2g}, which takes {runs_to_reach(len(found))} runs."
    ]


def _p_value(estimate: Estimate, family: int, several_networks: bool) -> float | None:
    """Of the sign-flip test of runs or, where rows have several pre-trained networks, of Student's test over those.

    Runs that start from the same network share its luck, so their signs are not independent.
    """
    if estimate.over_networks:
        return estimate.precision.p_value(estimate.interval.value)
    return None if several_networks else run_flips(estimate.runs, family)


def refuse_unknown(
    rows: Mapping[str, Row], factor: str, base: str | None = None, levels: Sequence[str] | None = None
) -> None:
    """Refuse a comparison of what is not there.

    Args:
        rows: see :func:`contrasts`.
        factor: what shall be compared.
        base: the level that the others are compared with.
        levels: the others.

    Raises:
        ConfigError: another factor or level, or no base for ``norm`` or ``activation``.
    """
    if factor not in IMPLIED:
        raise ConfigError(f"Levels of {factor!r} cannot be compared. {nearest(factor, IMPLIED)}")
    known = list(dict.fromkeys(str(row[factor]) for row in rows.values()))
    if base is None and factor not in BASES:
        raise ConfigError(f"{factor} has no natural base to compare with; give base=, one of {listed(known)}.")
    if isinstance(levels, str):
        raise ConfigError(f"levels is one text; write a list of it: [{levels!r}].")
    for level in [*([] if base is None else [base]), *(levels or [])]:
        if level not in known:
            raise ConfigError(f"{level!r} is no level of {factor} here. {nearest(level, known)}")


def effects_frame(found: Sequence[Effect]) -> pd.DataFrame:
    """One row per effect: contrast, factor, value, base, its estimate in points, p-values, and the seeds needed."""
    rows = [
        {
            "contrast": e.contrast.name,
            "factor": e.contrast.factor,
            "value": e.contrast.value,
            "base": e.contrast.base,
            "pairs": len(e.pairs),
            "pretraining_seeds": e.estimate.pretraining_seeds,
            "seeds": e.estimate.seeds,
            "runs": len(e.estimate.runs),
            "effect": e.estimate.interval.value,
            "low": e.estimate.interval.low,
            "high": e.estimate.interval.high,
            "standard_error": e.estimate.precision.error,
            "df": e.estimate.precision.df,
            "p_runs": math.nan if e.p is None else e.p,
            "p_runs_holm": math.nan if e.corrected is None else e.corrected,
            "resolved": e.resolved,
            "seeds_needed": seeds_needed(e, len(found)),
        }
        for e in found
    ]
    return pd.DataFrame(rows)


def seeds_needed(effect: Effect, family: int) -> str:
    """How many seeds per source, or pre-training seeds if there are several, would resolve the effect, as text.

    At least one more than there are, which have not resolved it.
    """
    if effect.resolved:
        return "enough"
    estimate = effect.estimate
    known = estimate.pretraining_seeds if estimate.over_networks else estimate.seeds
    least = max(least_seeds(effect, family), known + 1)
    if known == 1:
        return f"≥ {least}"
    needed = seeds_to_resolve(estimate, family)
    return "> 100" if needed is None else str(max(needed, least))


def least_seeds(effect: Effect, family: int) -> int:
    """The number of seeds per source, or of pre-training seeds, from which the runs could reach the level at all."""
    estimate, runs = effect.estimate, runs_to_reach(family)
    return 2 if estimate.over_networks else math.ceil(runs / estimate.clusters)


def pairwise(found: Sequence[Effect], resamples: Resamples, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every contrast of two rows on every pair: effect, interval, and the test over images, Holm-corrected.

    The test over images takes the trained networks as fixed (McNemar's test for one seed); the interval is over seeds
    and images. ``resolved`` requires both to exclude zero, and at least two runs.
    """
    by_cell: dict[Cell, dict[Replicate, Outcome]] = {}
    for outcome in outcomes:
        key = resamples.replicate(outcome)
        by_cell.setdefault((outcome.label, outcome.source, outcome.target), {})[key] = outcome
    single = [effect for effect in found if len(effect.contrast.rows) == 1]
    family = sum(len(effect.pairs) for effect in single)
    rows = []
    for effect in single:
        ((base, changed),) = effect.contrast.rows
        for pair in effect.pairs:
            estimate = resamples.estimate(effect.contrast.terms([pair]))
            if estimate is None:
                continue
            net = _net(by_cell[changed, *pair], by_cell[base, *pair])
            interval = estimate.interval
            p = image_flips(net, family)
            rows.append(
                {
                    "contrast": effect.contrast.name,
                    "source": pair[0],
                    "target": pair[1],
                    "seeds": estimate.seeds,
                    "runs": len(estimate.runs),
                    "images": len(net),
                    "effect": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "p_images": math.nan if p is None else p,
                    "outside": interval.known
                    and 0.0 not in interval
                    and estimate.over_networks == resamples.several_networks,
                }
            )
    frame = pd.DataFrame(rows)
    if len(frame):
        corrected = holm([None if math.isnan(p) else float(p) for p in frame["p_images"]])
        frame["p_images_holm"] = [math.nan if p is None else p for p in corrected]
        frame["resolved"] = frame["outside"] & (frame["p_images_holm"] < ALPHA) & (frame["runs"] > 1)
        frame = frame.drop(columns="outside")
    return frame


def _net(changed: Mapping[Replicate, Outcome], base: Mapping[Replicate, Outcome]) -> Array:
    """(images,) in how many runs the image is right in the changed row only, less in the base row only."""
    runs = sorted(set(changed) & set(base))
    if not runs:  # of different pre-training seeds
        return np.zeros(0, np.int64)
    size = 1 + max(int(changed[run].index.max()) for run in runs)
    net, seen = np.zeros(size, np.int64), np.zeros(size, bool)
    for run in runs:
        a, b = changed[run], base[run]
        net[a.index] += a.right.astype(np.int64)
        net[b.index] -= b.right.astype(np.int64)
        seen[a.index] = True
    return net[seen]
