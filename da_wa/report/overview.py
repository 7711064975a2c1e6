"""The matrix with its intervals, and what every number rests on."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from da_wa.report.content import Plot, Section, Table
from da_wa.report.figures import matrix_heatmap
from da_wa.report.matrix import AVERAGE, HEADLINE, Collection, Matrix, accuracy
from da_wa.report.resampling import Resamples
from da_wa.report.statistics import Interval, of_mean
from da_wa.report.tables import matrix_table
from da_wa.report.wording import counted, listed, within


def section(runs: Collection, matrix: Matrix, resamples: Resamples) -> Section:
    """Which norm transfers best?"""
    parts: list[str | Table | Plot] = [matrix_table(matrix)]
    parts.append(Plot("heatmap", matrix_heatmap(matrix), "Accuracy on the target, the lighter the higher.", wide=False))
    if (held_out := _held_out(runs)) is not None:
        parts.append(held_out)
    if runs.mixed:
        parts.append(runs.mixed)
    if runs.missing or runs.unreadable:
        absent = [*map(str, runs.missing), *runs.unreadable]
        parts.append(f"Missing, {len(absent)} in all: {listed(absent, 40)}.")
    return Section(
        "Which norm transfers best?", parts, {"intervals": intervals(runs, matrix, resamples)}, _gist(matrix)
    )


def intervals(runs: Collection, matrix: Matrix, resamples: Resamples) -> pd.DataFrame:
    """Every cell in percent: what it rests on, its spread, the interval over seeds and that over seeds and images."""
    rows = accuracy(runs.records)
    rows = rows[rows["selection"] == HEADLINE]
    grouped = rows.groupby(["label", "source", "target"], sort=False)
    found = []
    for (label, source, target), cell in grouped:
        percent = 100 * cell["accuracy"].to_numpy()
        over_seeds = of_mean(percent)
        estimate = resamples.estimate([(100.0, (label, source, target))])
        both = estimate.interval if estimate else Interval(math.nan)
        found.append(
            {
                "label": label,
                "source": source,
                "target": target,
                "seeds": len(cell),
                "images": int(cell["n"].max()),
                "mean": over_seeds.value,
                "std": float(np.std(percent, ddof=1)) if len(cell) > 1 else math.nan,
                "seeds_low": over_seeds.low,
                "seeds_high": over_seeds.high,
                "seeds_images_low": both.low,
                "seeds_images_high": both.high,
            }
        )
    return pd.DataFrame(found)


def _held_out(runs: Collection) -> Table | None:
    """Accuracy on the held-out part of the source: the matrix's diagonal."""
    rows = accuracy(runs.records)
    rows = rows[(rows["selection"] == HEADLINE) & (rows["source"] == rows["target"])]
    if rows.empty:
        return None
    labels = list(dict.fromkeys(rows["label"]))
    domains = [domain for domain in runs.domains if (rows["source"] == domain).any()]
    cells = []
    for label in labels:
        line = [label]
        for domain in domains:
            here = rows[(rows["label"] == label) & (rows["source"] == domain)]
            text = within(of_mean(100 * here["accuracy"].to_numpy())) if len(here) else "–"
            line.append(text + (f"\n{len(here)}×{here['n'].max()}" if len(here) else ""))
        cells.append(line)
    return Table(
        "held_out_source",
        "Accuracy in percent on the held-out part of the source itself",
        ["Norm", *domains],
        cells,
        notes=["The same domain, other images: what is lost from here to a target is the cost of the shift."],
    ).transposed_if_wide("Domain")


def _gist(matrix: Matrix) -> str:
    averages = matrix.mean[AVERAGE].dropna().sort_values(ascending=False, kind="stable")
    if averages.empty:
        return "No norm has a result for every pair yet."
    best = ", ".join(
        f"{label} {percent:.1f} % ({counted(int(matrix.seeds.at[label, AVERAGE]), 'seed')})"
        for label, percent in averages.iloc[:3].items()
    )
    return f"Best averages over {counted(len(matrix.pairs), 'pair')}: {best}."
