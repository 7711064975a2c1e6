"""The best row of the table, with intervals and their basis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from da_wa.records.contrasts import Cell
from da_wa.report.content import NONE, Part, Plot, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.figures import matrix_heatmap
from da_wa.report.matrix import AVERAGE, HEADLINE, Matrix
from da_wa.report.resampling import Estimate, Resamples
from da_wa.report.tables import Spread, matrix_table
from da_wa.report.wording import counted, listed, random_levels, within

TITLE = "Which norm transfers best?"
LONG = 24
"""A headline table with more rows than this is folded away."""


def section(facts: Facts, spread: Spread = "interval") -> Section:
    """Which norm transfers best?

    Args:
        facts: of the runs.
        spread: what stands after ± in the headline tables.
    """
    matrix = facts.matrix
    notices = facts.notices
    long = len(matrix.mean) > LONG
    parts: list[Part] = [*notices, *([] if long else [matrix_table(matrix, spread)])]
    details: list[Part] = [
        *([matrix_table(matrix, spread)] if long else []),
        Plot("heatmap", matrix_heatmap(matrix), "Accuracy on the target: lighter is higher.", wide=False),
    ]
    if facts.balanced.mean.notna().any(axis=None):
        (parts if facts.warnings else details).append(balanced_table(facts.balanced, spread))
    held_out = _held_out_estimates(facts)
    if held_out:
        details.append(_held_out(facts, held_out))
    if facts.missing or facts.unreadable:
        absent = [*map(str, facts.missing), *facts.unreadable]
        details.append(f"Missing, {len(absent)} in all: {listed(absent, 40)}.")
    data = {"intervals": intervals(facts, held_out)}
    return Section(TITLE, parts, data, _best(matrix), details)


def intervals(facts: Facts, held_out: Mapping[tuple[str, str], Estimate]) -> pd.DataFrame:
    """Every cell in percent: how many seeds, runs and images, accuracy and balanced accuracy with their intervals."""
    results = facts.frame[facts.frame["selection"] == HEADLINE]
    matrix, balanced = facts.matrix, facts.balanced
    column = dict(zip(matrix.pairs, matrix.mean.columns, strict=False))
    found = []
    for (label, source, target), cell in results.groupby(["label", "source", "target"], sort=False):
        runs = _per_run(cell, "accuracy")
        row = {
            "label": label,
            "source": source,
            "target": target,
            "seeds": cell["seed"].nunique(),
            "runs": len(runs),
            "images": int(cell["n"].max()),
            "std": float(runs.std(ddof=1)) if len(runs) > 1 else math.nan,
        }
        if source == target:
            estimate = held_out.get((label, source))
            low, high = (estimate.interval.low, estimate.interval.high) if estimate else (math.nan, math.nan)
            row |= {"mean": float(runs.mean()), "low": low, "high": high}
            row |= {"balanced": float(_per_run(cell, "balanced_accuracy").mean())}
        else:
            at = (label, column[source, target])
            row |= {"mean": matrix.mean.at[at], "low": matrix.low.at[at], "high": matrix.high.at[at]}
            row |= {"balanced": balanced.mean.at[at], "balanced_low": balanced.low.at[at]}
            row |= {"balanced_high": balanced.high.at[at]}
        found.append(row)
    order = ["label", "source", "target", "seeds", "runs", "images", "mean", "low", "high", "std"]
    return pd.DataFrame(found, columns=[*order, "balanced", "balanced_low", "balanced_high"])


def _per_run(cell: pd.DataFrame, value: str) -> pd.Series:
    """Percent for each (pre-training seed, seed): units of several pairs that share a source and seeds are averaged."""
    return 100 * cell.groupby(["pretraining_seed", "seed"], dropna=False)[value].mean().astype(float)


def balanced_table(matrix: Matrix, spread: Spread = "interval") -> Table:
    """The headline table in balanced accuracy, whose majority class and chance are equal.

    Args:
        matrix: of balanced accuracies.
        spread: what stands after ±.
    """
    setting = matrix.setting
    if setting is not None:
        setting = replace(setting, majority=dict.fromkeys(setting.majority, setting.chance))
    table = matrix_table(replace(matrix, setting=setting), spread)
    note = (
        "Balanced accuracy: mean of the recalls of all classes, each with the same weight. A classifier that always "
        "predicts one class has the balanced accuracy of chance."
    )
    return replace(
        table, name="balanced", caption="Balanced accuracy on the target (%)", notes=[note, *table.notes[2:]]
    )


def _held_out_estimates(facts: Facts) -> dict[tuple[str, str], Estimate]:
    """Accuracy on held-out images of the source, by label and source.

    Units trained for different pairs of one source are averaged within each seed.
    """
    by_unit = [replace(outcome, label=f"{outcome.label}\0{outcome.unit_target}") for outcome in facts.held_out]
    resamples = Resamples(by_unit, facts.resamples.replicates)
    cells: dict[tuple[str, str], dict[Cell, None]] = {}
    for outcome, unit in zip(facts.held_out, by_unit, strict=True):
        cells.setdefault((outcome.label, outcome.source), {})[unit.label, unit.source, unit.target] = None
    found = {}
    for key, of_key in cells.items():
        if estimate := resamples.estimate([(100.0 / len(of_key), cell) for cell in of_key]):
            found[key] = estimate
    return found


def _held_out(facts: Facts, estimates: Mapping[tuple[str, str], Estimate]) -> Table:
    """Accuracy on the held-out images of the source: the matrix's diagonal."""
    labels = [label for label in facts.matrix.mean.index if any(label == known for known, _ in estimates)]
    domains = [domain for domain in facts.domains if any(domain == known for _, known in estimates)]
    rows = []
    for label in labels:
        found = [estimates.get((label, domain)) for domain in domains]
        rows.append([label, *(NONE if each is None else within(each.interval) for each in found)])
    images = {d: max(len(o.index) for o in facts.held_out if o.source == d) for d in domains}
    levels = random_levels(any(estimate.over_networks for estimate in estimates.values()))
    return Table(
        "held_out_source",
        "Accuracy on held-out images of the source (%)",
        ["Norm", *domains],
        rows,
        notes=[
            f"The same domain, other images: {listed([f'{domain} {n}' for domain, n in images.items()])}. The "
            f"difference to a target is the cost of the shift. ± is half of the 95 % interval over {levels}, over "
            "images alone for one seed."
        ],
    ).transposed_if_wide("Domain")


def _best(matrix: Matrix) -> str:
    averages = matrix.mean[AVERAGE].dropna().sort_values(ascending=False, kind="stable")
    if averages.empty:
        return "No norm has a result for every pair yet."
    seeds, runs = matrix.seeds[AVERAGE].astype(int), matrix.runs[AVERAGE].astype(int)
    best = ", ".join(
        f"{label} {percent:.1f} % "
        f"({counted(runs[label], 'run') if runs[label] > seeds[label] else counted(seeds[label], 'seed')})"
        for label, percent in averages.iloc[:3].items()
    )
    return f"Best averages over {counted(len(matrix.pairs), 'pair')}: {best}."
