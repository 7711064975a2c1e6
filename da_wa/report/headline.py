"""The headline table: every row on every pair, its interval, reference rows, and notes on how to read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from da_wa.report.content import Table
from da_wa.report.matrix import AVERAGE, Matrix, Setting
from da_wa.report.wording import arrow, number, spanned

Spread = Literal["interval", "std", "sem", "none"]
"""What stands after ±: half of the 95 % interval, the standard deviation over runs, its standard error, or nothing."""

SPREADS: tuple[Spread, ...] = ("interval", "std", "sem", "none")

SELECTIONS = {
    "last": "after the last epoch",
    "source_val": "at the epoch with the best accuracy on held-out source images",
    "target_oracle": "at the epoch with the best accuracy on the target, which uses the target's labels",
}
"""What the selection rules mean, for notes."""

MAJORITY, CHANCE = "Majority class", "Chance"
"""Reference rows: always answering the target's largest class, and guessing uniformly."""


def matrix_table(matrix: Matrix, spread: Spread = "interval") -> Table:
    """The headline table: mean ± spread, the best of every pair bold, then majority class and chance.

    One decimal beside a spread, two, as in the paper, without.

    Args:
        matrix: of accuracies.
        spread: what stands after ±.
    """
    references = {} if matrix.setting is None else _references(matrix.setting, matrix)
    return _table("matrix", "Accuracy on the target (%)", matrix, spread, references, notes(matrix, spread))


def balanced_table(matrix: Matrix, spread: Spread = "interval") -> Table:
    """The same in balanced accuracy, whose majority class and chance are equal.

    Args:
        matrix: of balanced accuracies.
        spread: what stands after ±.
    """
    chance = math.nan if matrix.setting is None else matrix.setting.chance
    references = {} if math.isnan(chance) else {CHANCE: [chance] * len(matrix.mean.columns)}
    note = (
        "Balanced accuracy: mean of the recalls of the classes, each class with the same weight. A classifier that "
        "always predicts one class has the accuracy of chance."
    )
    caption = "Balanced accuracy on the target (%)"
    return _table("balanced", caption, matrix, spread, references, [note, *_spread_notes(matrix, spread)])


def _table(
    name: str, caption: str, matrix: Matrix, spread: Spread, references: Mapping[str, list[float]], notes: list[str]
) -> Table:
    error = _spread(matrix, spread)
    digits = 1 if error.notna().any(axis=None) else 2
    shown = matrix.mean.map(lambda percent: float(f"{percent:.{digits}f}"))
    best = (shown.eq(shown.max()) & (shown.count() > 1)).to_numpy()
    rows = []
    for i, label in enumerate(matrix.mean.index):
        row = [" ".join(str(label).split())]
        for mean, half in zip(matrix.mean.iloc[i], error.iloc[i], strict=True):
            row.append(number(mean, digits) + ("" if math.isnan(half) else f" ± {half:.{digits}f}"))
        rows.append(row)
    rows += [[label, *(number(percent, digits) for percent in values)] for label, values in references.items()]
    header = ["Norm", *(arrow(*pair) for pair in matrix.pairs), AVERAGE]
    bold = frozenset((int(i), int(j) + 1) for i, j in zip(*best.nonzero(), strict=True))
    return Table(name, caption, header, rows, bold, notes).transposed_if_wide()


def _spread(matrix: Matrix, spread: Spread) -> pd.DataFrame:
    if spread == "interval":
        return matrix.half
    if spread == "none":
        return matrix.std * math.nan
    return matrix.std if spread == "std" else matrix.std / np.sqrt(matrix.runs)


def _references(setting: Setting, matrix: Matrix) -> dict[str, list[float]]:
    majority = [setting.majority.get(target, math.nan) for _, target in matrix.pairs]
    if all(map(math.isnan, majority)):
        return {}
    average = float(np.mean(majority)) if majority else math.nan
    return {MAJORITY: [*majority, average], CHANCE: [setting.chance] * (len(majority) + 1)}


def notes(matrix: Matrix, spread: Spread = "interval") -> list[str]:
    """How to read the matrix: what was run, on how many images, with how many seeds; one sentence or two each."""
    lines = []
    if setting := matrix.setting:
        trained = f", pre-trained on {setting.pretraining}" if setting.pretraining else ", not pre-trained"
        images = ", ".join(f"{domain} {n}" for domain, n in setting.images.items())
        lines += [
            f"{setting.dataset}: {setting.model}, {setting.size}×{setting.size} pixels{trained}.",
            f"Protocol: {setting.protocol}. Images evaluated per target: {images}. "
            f"Selection: {matrix.selection} ({SELECTIONS[matrix.selection]}).",
            *_spread_notes(matrix, spread),
        ]
        if setting.majority:
            lines.append(f"{MAJORITY}: always predicting the target's largest class. {CHANCE}: 1 / number of classes.")
    lines.append(f"Bold: the best of each pair. {AVERAGE}: unweighted mean of the pairs.")
    most = matrix.most_seeds
    pairs = matrix.seeds.drop(columns=AVERAGE).set_axis([arrow(*pair) for pair in matrix.pairs], axis=1)
    if few := _named(pairs, lambda n: 0 < n < most, lambda n: f" ({n} of {most})"):
        lines.append(f"Fewer seeds: {few}.")
    if holes := _named(pairs, lambda n: n == 0, lambda n: ""):
        lines.append(f"{holes}: no finished runs, so no average.")
    return lines


def _spread_notes(matrix: Matrix, spread: Spread) -> list[str]:
    """What ± means, and over how many runs."""
    if matrix.setting is None:
        return []
    seeds = spanned(matrix.least_seeds, matrix.most_seeds, "seed")
    if len(matrix.setting.pretraining_seeds) > 1:
        seeds += f" of each of {len(matrix.setting.pretraining_seeds)} pre-trained networks"
    mean = f"Mean over {seeds}" if matrix.runs.to_numpy().max(initial=0) > 1 else "One seed"
    if spread == "none" or not _spread(matrix, spread).notna().any(axis=None):
        return [f"{mean}; no spread is shown."]
    if spread != "interval":
        name = "standard deviation" if spread == "std" else "standard error"
        return [f"{mean} ± {name} over runs; for {AVERAGE} over the runs' averages."]
    if mean == "One seed":
        return ["One seed ± half of the 95 % interval over images (bootstrap); it does not include the seeds' variance."]
    return [f"{mean} ± half of the 95 % interval over seeds and images (two-level bootstrap)."]


def _named(seeds: pd.DataFrame, wanted: Callable[[int], bool], remark: Callable[[int], str]) -> str:
    """Names the cells whose number of seeds is ``wanted``, row by row; a row of equal numbers is named once."""
    rows = []
    for label, counts in seeds.iterrows():
        cells = [f"{pair}{remark(int(n))}" for pair, n in counts.items() if wanted(int(n))]
        if cells and counts.nunique() == 1:
            rows.append(f"{label}{remark(int(counts.iloc[0]))}")
        elif cells:
            rows.append(f"{label} {', '.join(cells)}")
    return "; ".join(rows)


def matrix_frame(matrix: Matrix) -> pd.DataFrame:
    """Every value in percent beside its bounds: ``A->W``, ``A->W low``, ``A->W high``, …, ``Avg high``."""
    columns = []
    for column in matrix.mean.columns:
        bounds = (("", matrix.mean), (" low", matrix.low), (" high", matrix.high))
        columns += [frame[column].rename(f"{column}{name}") for name, frame in bounds]
    return pd.concat(columns, axis=1).rename_axis("label").reset_index()
