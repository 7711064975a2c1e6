"""Effect of weight normalisation and of adaptation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from da_wa.records.contrasts import level_name
from da_wa.report.content import NONE, Part, Plot, Section, Table
from da_wa.report.contrasts import Effect, effects, effects_frame, least_seeds, pairwise, seeds_needed, too_few_runs
from da_wa.report.facts import Facts
from da_wa.report.figures import Panel, critical_difference, dots
from da_wa.report.matrix import AVERAGE
from da_wa.report.statistics import ALPHA, p_equation, p_text, ranking, smallest_run_p
from da_wa.report.wording import arrow, change, counted, listed, random_levels, signed

NAMED = 5
"""Comparisons that a sentence names."""

LONG = 20
"""A table with more comparisons is folded."""


def section(facts: Facts) -> Section:
    """Does WA help? Other weight normalisations likewise, each against plain weights."""
    empty = (
        "No norm was run both with and without weight normalisation with a common seed, so there is nothing to "
        "compare. Example: norms=[bn,bn_wa]."
    )
    found = _section(facts, "weight", "effect", empty)
    return replace(found, details=[*found.details, *_ranks(facts)])


def adaptation(facts: Facts) -> Section:
    """Does adaptation help? Every method against training on the source alone, with the same norm."""
    empty = "No method was run beside method=none with the same norm and a common seed."
    return _section(facts, "method", "adaptation", empty)


def _section(facts: Facts, factor: str, name: str, empty: str) -> Section:
    found = effects(facts.levels, facts.matrix.pairs, facts.resamples, factor, facts.rows.labels)
    values = [
        level_name(factor, v, facts.rows.labels) for v in dict.fromkeys(effect.contrast.value for effect in found)
    ]
    default = "WA" if factor == "weight" else "adaptation"
    title = f"Does {(values or [default])[0]} help?" if len(values) < 2 else f"Do {listed(values, NAMED)} help?"
    if not found:
        return Section(title, [empty])
    verdict = _verdict(found)
    setting = facts.matrix.setting
    one_network = setting is not None and setting.pretraining is not None and len(setting.pretraining_seeds) < 2
    by_pair = pairwise(found, facts.resamples, facts.outcomes)
    table = _averages(found, name, one_network)
    details: list[Part] = [_forest(found, name), _per_pair(by_pair, name, random_levels(_over_networks(found)))]
    return Section(
        title,
        [verdict, table] if len(found) <= LONG else [verdict],
        {name: effects_frame(found), f"{name}_pairs": by_pair},
        verdict,
        details if len(found) <= LONG else [table, *details],
    )


def _verdict(found: Sequence[Effect]) -> str:
    """Which effects are resolved, in words."""
    single = [effect for effect in found if len(effect.contrast.rows) == 1]
    clear = [effect for effect in single if effect.resolved]
    higher = [e.contrast.name for e in clear if e.estimate.interval.value > 0]
    lower = [e.contrast.name for e in clear if e.estimate.interval.value < 0]
    lines = []
    if higher:
        lines.append(f"Accuracy is significantly higher for {listed(higher, NAMED)}.")
    if lower:
        lines.append(f"Accuracy is significantly lower for {listed(lower, NAMED)}.")
    rest = [effect for effect in single if not effect.resolved]
    if unclear := [effect.contrast.name for effect in rest if effect.p is not None]:
        lines.append(f"No significant difference: {listed(unclear, NAMED)}.")
    if untested := [effect for effect in rest if effect.p is None]:
        names = listed([effect.contrast.name for effect in untested], NAMED)
        if _over_networks(found):
            lines.append(f"No test with one pre-trained network where others have several: {names}.")
        else:
            least = counted(max(least_seeds(effect, len(found)) for effect in untested), "seed")
            lines.append(f"Too few runs for a test ({least} needed): {names}.")
    averaged = sorted(
        (effect for effect in found if len(effect.contrast.rows) > 1),
        key=lambda effect: (not effect.resolved, -abs(effect.estimate.interval.value)),
    )
    for effect in averaged[:NAMED]:
        state = "significant" if effect.resolved else "not significant"
        lines.append(f"{effect.contrast.name}: {change(effect.estimate.interval)} points, {state}.")
    if len(averaged) > NAMED:
        lines.append(f"{len(averaged) - NAMED} more means are in the table.")
    return " ".join(lines)


def _over_networks(found: Sequence[Effect]) -> bool:
    return any(effect.estimate.over_networks for effect in found)


def _averages(found: Sequence[Effect], name: str, one_network: bool) -> Table:
    rows, bold, several = [], set(), _over_networks(found)
    for i, effect in enumerate(found):
        e = effect.estimate
        rows.append(
            [
                effect.contrast.name,
                change(e.interval),
                str(len(effect.pairs)),
                *([str(e.pretraining_seeds)] if several else []),
                str(e.seeds),
                str(len(e.runs)),
                p_text(effect.p),
                p_text(effect.corrected),
                seeds_needed(effect, len(found)),
            ]
        )
        if effect.resolved:
            bold |= {(i, 0), (i, 1)}
    return Table(
        name,
        "Change of the average accuracy (percentage points)",
        [
            *("Change", "Effect (95 % interval)", "Pairs"),
            *(["Networks"] if several else []),
            *("Seeds", "Runs", "p", "p (Holm)", "Networks needed" if several else "Seeds needed"),
        ],
        rows,
        frozenset(bold),
        _averages_notes(found, one_network),
    )


def _averages_notes(found: Sequence[Effect], one_network: bool) -> list[str]:
    over_networks = _over_networks(found)
    levels, test, needed = (
        "over seeds and images",
        "two-sided sign-flip test of the paired runs",
        "Seeds needed: per source",
    )
    if over_networks:
        levels, test = "over pre-trained networks, seeds and images", "Student's test over pre-trained networks"
        needed = "Networks needed: of every norm"
    notes = [
        f"Effect: change of the unweighted mean over the pairs, with its 95 % interval {levels} (bootstrap, paired; "
        f"Student's t with Satterthwaite's degrees of freedom). p: {test}, Holm-corrected over the rows of this table. "
        "Bold: significant, which means that the interval excludes 0 and the corrected p is below 0.05.",
        f"{needed}, to detect an effect of this size with a power of 80 % after the correction; a rough guide, because "
        "it takes the estimates as exact. With one (≥): the fewest that could be enough.",
    ]
    if over_networks:
        notes.append(
            "Networks: the fewest pre-training seeds of a norm. Networks of different norms are independent. Runs from "
            "one network are not, so their signs are not tested; no p (–) with one network of each norm."
        )
    else:
        notes += too_few_runs(found)
    estimates = [effect.estimate for effect in found]
    if any(each.images_alone for each in estimates):
        notes.append(
            "With one seed, intervals are over images alone: they describe these trained networks, not what training "
            "again would give."
        )
    if any(each.pretraining_seeds == 1 and each.over_networks for each in estimates):
        notes.append("A norm with one network is taken to vary over networks as the other norms do on average.")
    if any(each.seeds == 1 and not each.over_networks and not each.images_alone for each in estimates):
        notes.append("A source with one seed is taken to vary over seeds as the other sources do on average.")
    counts = {each.seeds for each in estimates if not each.over_networks}
    notes += [_no_test_over_seeds(n) for n in sorted(counts - {1})]
    notes.append("Seeds vary the split and all that is random in training: order of images, augmentation, new head.")
    notes.append(
        "Intervals are conservative where predictions vary from run to run on single images: in simulations, they "
        "cover the true effect in 95 % (pre-trained networks dominate) to 100 % (images dominate) of studies, and at "
        "most 5 % of absent effects are called significant."
    )
    if one_network:
        notes.append("All seeds of a norm start from one pre-trained network: intervals do not include its variance.")
    return notes


def _no_test_over_seeds(seeds: int) -> str:
    smallest = smallest_run_p(seeds)
    if smallest <= ALPHA:
        return f"On a single pair, the signs of {seeds} seeds could reach p = {smallest:.2g} at best."
    return (
        f"On a single pair, {seeds} seeds cannot give a two-sided p-value below {smallest:.2g} by their signs or ranks "
        "(Wilcoxon), so none is printed."
    )


def _per_pair(by_pair: pd.DataFrame, stem: str, levels: str) -> Table:
    names = list(dict.fromkeys(by_pair["contrast"]))
    pairs = list(dict.fromkeys(zip(by_pair["source"], by_pair["target"], strict=True)))
    cells = {(row.contrast, row.source, row.target): row for row in by_pair.itertuples()}
    rows, bold = [], set()
    for i, name in enumerate(names):
        line = [name]
        for j, pair in enumerate(pairs):
            row = cells.get((name, *pair))
            if row is None:
                line.append(NONE)
                continue
            half = (row.high - row.low) / 2
            p = None if math.isnan(row.p_images_holm) else row.p_images_holm
            line.append(f"{signed(row.effect)} ± {half:.1f}\np {p_text(p)}")
            if row.resolved:
                bold.add((i, j + 1))
        rows.append(line)
    return Table(
        f"{stem}_pairs",
        "Change of the accuracy on each pair (percentage points)",
        ["Change", *(arrow(*pair) for pair in pairs)],
        rows,
        frozenset(bold),
        [
            f"± is half of the 95 % interval over {levels}, over images alone for one seed. p: exact "
            "permutation test over images, networks fixed (McNemar's test for one seed), Holm-corrected over all "
            "cells. Bold: the interval excludes 0, the corrected p is below 0.05, and there are at least two runs.",
        ],
    ).transposed_if_wide()


def _forest(found: Sequence[Effect], name: str) -> Plot:
    intervals = [effect.estimate.interval for effect in found]
    hollow = frozenset(row for row, effect in enumerate(found) if not effect.resolved)
    figure = dots(
        [effect.contrast.name for effect in found],
        [Panel("Mean over the pairs", {"effect": intervals}, hollow)],
        "change of accuracy (points), 95 % intervals",
        zero=True,
        width=5.2,
    )
    caption = (
        f"Average effects with intervals over {random_levels(_over_networks(found))} (over images alone for one seed); "
        "right of the line: higher accuracy. Hollow: not significant."
    )
    return Plot(name, figure, caption, wide=False)


def _ranks(facts: Facts) -> list[Part]:
    """Friedman and Nemenyi over the pairs, for the norms without adaptation that have all of them."""
    norms = [label for label, row in facts.levels.items() if row["method"] == "none"]
    scores = facts.matrix.mean.loc[norms].drop(columns=AVERAGE).dropna(axis=0)
    found = ranking(scores.to_numpy().T)
    if found is None:
        return [
            f"No ranking by Friedman's test: {counted(len(scores), 'norm')} on {counted(scores.shape[1], 'pair')} "
            "cannot reach p < 0.05 (it takes three norms and enough pairs)."
        ]
    apart = sum(abs(a - b) > found.critical for k, a in enumerate(found.ranks) for b in found.ranks[:k])
    total = len(scores) * (len(scores) - 1) // 2
    verdict = "differ" if found.p < ALPHA else "do not differ significantly"
    return [
        f"Over {counted(found.blocks, 'pair')} as blocks, the {len(scores)} norms {verdict} (Friedman χ² = "
        f"{found.statistic:.1f}, {p_equation(found.p)}). By Nemenyi's test, norms differ whose mean ranks are more "
        f"than {found.critical:.2f} apart: {apart} of {total} pairs of norms. Pairs of domains with a common source or "
        "target are not independent, so this is a summary, not a test of its own.",
        Plot(
            "critical_difference",
            critical_difference(list(scores.index), found),
            "Mean rank over the pairs, 1 is best; bars join norms that do not differ significantly.",
        ),
    ]
