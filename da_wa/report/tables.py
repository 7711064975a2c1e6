"""Tables for people and programs: CSV, Markdown, plain text. Each function returns the text of one file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from da_wa.errors import printable
from da_wa.report.content import NONE, Table
from da_wa.report.latex import table_latex
from da_wa.report.matrix import AVERAGE, BOUNDS, Matrix, Missing
from da_wa.report.wording import arrow, counted, number, of_networks, random_levels

Spread = Literal["interval", "std", "sem", "none"]
"""What stands behind ± in the table, see :func:`spread_of`."""

SELECTIONS = {
    "last": "after the last epoch",
    "source_val": "at the epoch with the best accuracy on held-out source images",
    "target_oracle": "at the epoch with the best accuracy on the target, which uses the target's labels",
}
"""What the selection rules mean, for notes."""

BY_SCORE = "a label-free score, which chooses epoch and weight of the method for every pair and seed"
"""What any other selection is."""


_OPTIONAL_FACTORS = ("method", "model", "pretraining_seed")


def accuracy_csv(frame: pd.DataFrame) -> str:
    """One row per result; ``accuracy`` is a fraction. Equal runs give equal bytes.

    Args:
        frame: see :class:`da_wa.report.facts.Facts`. Method, model and pre-training seed are written where they vary,
            the weight of a method where one method has several.
    """
    varying = [name for name in _OPTIONAL_FACTORS if frame[name].nunique(dropna=False) > 1]
    if frame.groupby("method")["method_weight"].nunique(dropna=False).gt(1).any():
        varying.append("method_weight")
    columns = ["norm", *varying, "source", "target", "seed", "selection", "correct", "n", "accuracy", "run_id"]
    return csv(frame[columns], "%.6f")


def matrix_csv(matrix: Matrix) -> str:
    """One row per norm; mean and interval (low, high) of every pair and their average, in percent; empty if unknown."""
    columns = {}
    for name in matrix.mean.columns:
        columns[name] = matrix.mean[name]
        columns |= {f"{name} {bound}": getattr(matrix, bound)[name] for bound in BOUNDS}
    return csv(pd.DataFrame(columns, index=matrix.mean.index).rename_axis("label").reset_index(), "%.2f")


def spread_of(matrix: Matrix, spread: Spread) -> pd.DataFrame:
    """What stands behind ± in every cell, in points; NaN where there is nothing.

    Args:
        matrix: accuracies.
        spread: ``interval``: half of the 95 % interval; ``std``: standard deviation over runs; ``sem``: standard error
            of the mean over runs; ``none``.
    """
    if spread == "interval":
        return matrix.half
    if spread == "none":
        return matrix.half * math.nan
    return matrix.std if spread == "std" else matrix.std / np.sqrt(matrix.runs.where(matrix.runs > 0))


def matrix_table(matrix: Matrix, spread: Spread = "interval") -> Table:
    """The matrix: mean ± spread, the best norm of every pair bold, chance and majority class, counts in the notes.

    One decimal beside a spread, two, as the paper has, without.
    """
    around = spread_of(matrix, spread)
    digits = 1 if around.notna().any(axis=None) else 2
    shown = matrix.mean.map(lambda percent: float(f"{percent:.{digits}f}"))
    best = (shown.eq(shown.max()) & (shown.count() > 1)).to_numpy()
    rows = []
    for label, means, halves in zip(matrix.mean.index, matrix.mean.to_numpy(), around.to_numpy(), strict=True):
        cells = zip(means, halves, strict=True)
        texts = [number(mean, digits) + ("" if np.isnan(half) else f" ± {half:.{digits}f}") for mean, half in cells]
        rows.append([" ".join(str(label).split()), *texts])
    rows += _references(matrix, digits)
    header = ["Norm", *(arrow(*pair) for pair in matrix.pairs), AVERAGE]
    bold = frozenset((int(i), int(j) + 1) for i, j in zip(*best.nonzero(), strict=True))
    return Table("matrix", "Accuracy on the target (%)", header, rows, bold, notes(matrix, spread)).transposed_if_wide()


def _references(matrix: Matrix, digits: int) -> list[list[str]]:
    """What is right without any learning: guessing, and always predicting the target's largest class."""
    setting = matrix.setting
    if setting is None or not all(target in setting.majority for _, target in matrix.pairs):
        return []
    majority = [setting.majority[target] for _, target in matrix.pairs]
    rows = {"Chance": [setting.chance] * len(majority), "Majority": majority}
    return [[name, *(number(v, digits) for v in [*values, float(np.mean(values))])] for name, values in rows.items()]


def markdown(
    matrix: Matrix,
    missing: Sequence[Missing] = (),
    unreadable: Sequence[str] = (),
    mixed: str = "",
    spread: Spread = "interval",
) -> str:
    """The matrix as a GitHub table, its notes, and what is missing."""
    table = matrix_table(matrix, spread)
    holes = [*(_arrow(str(cell)) for cell in missing), *unreadable]
    noted = replace(table, notes=[*table.notes, *([mixed] if mixed else [])])
    parts = [
        table_markdown(noted).rstrip("\n"),
        "\n".join(["Missing:\n", *(f"- {_escape_md(hole)}" for hole in holes)]) if holes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_markdown(table: Table) -> str:
    """Any table as a GitHub table, and its notes as a list.

    >>> print(table_markdown(Table("t", "", ["Norm", "error"], [["BN", "4.3"]], notes=["One seed."])))
    | Norm | error |
    | :-- | --: |
    | BN | 4.3 |
    <BLANKLINE>
    - One seed.
    <BLANKLINE>
    """

    def cell(text: str, bold: bool) -> str:
        first, _, second = text.partition("\n")
        large = f"**{_escape_md(first)}**" if bold else _escape_md(first)
        return f"{large} <sub>{_escape_md(second)}</sub>" if second else large

    left = [column == 0 or table.has_words(column) for column in range(len(table.header))]
    rows = _pipe_table(table.header, _cells(table, cell, _escape_md), left)
    notes = "\n".join(f"- {_escape_md(note)}" for note in table.notes)
    return "\n\n".join(part for part in (rows, notes) if part) + "\n"


def plain(matrix: Matrix, missing: Sequence[str] = (), limit: int = 10, spread: Spread = "interval") -> str:
    """The matrix as text for a terminal, and the first ``limit`` of what is missing."""
    lines = [table_text(matrix_table(matrix, spread))]
    if missing:
        lines += [f"Missing: {len(missing)}", *(f"  {hole}" for hole in missing[:limit])]
    if len(missing) > limit:
        lines.append(f"  and {len(missing) - limit} more, see table.md")
    return "\n".join(printable(line) for line in "\n".join(lines).split("\n"))


def table_text(table: Table) -> str:
    """Any table as text for a terminal, without notes and the second lines of cells."""
    rows = _cells(table, lambda cell, bold: cell.partition("\n")[0], str)
    return f"{table.caption}\n{pd.DataFrame(rows, columns=['', *table.header[1:]]).to_string(index=False)}"


def pretraining_markdown(pretraining: pd.DataFrame) -> str:
    """The checkpoints as a GitHub table: dataset, epochs, top-1 error in percent."""
    header, rows = _pretraining_rows(pretraining)
    left = [k == 0 for k in range(len(header))]
    return _pipe_table(header, [[_escape_md(text) for text in row] for row in rows], left) + "\n"


def pretraining_latex(pretraining: pd.DataFrame) -> str:
    r"""The checkpoints as a ``table`` to ``\input``: dataset, epochs, top-1 error in percent."""
    header, rows = _pretraining_rows(pretraining)
    return table_latex(Table("pretraining", "Top-1 error of the pre-trained networks (%)", header, rows))


def notes(matrix: Matrix, spread: Spread = "interval") -> list[str]:
    """How to read the matrix: what was run, on how many images, with how many seeds; one sentence or two each."""
    lines = []
    most = matrix.most_seeds
    if setting := matrix.setting:
        trained = f", pre-trained on {setting.pretraining}" if setting.pretraining else ", not pre-trained"
        images = ", ".join(f"{domain} {n}" for domain, n in setting.images.items())
        lines += [
            f"{setting.dataset}: {setting.model}, {setting.size}×{setting.size} pixels{trained}.",
            f"Protocol: {setting.protocol}. Images evaluated per target: {images}. "
            f"Selection: {matrix.selection} ({SELECTIONS.get(matrix.selection, BY_SCORE)}).",
            _spread_note(matrix, spread),
        ]
    lines.append(f"Bold: the best of each pair. {AVERAGE}: unweighted mean of the pairs.")
    if _references(matrix, 1):
        lines.append("Chance: uniform guessing. Majority: always predicting the largest class of the target.")
    pairs = matrix.seeds.drop(columns=AVERAGE).set_axis([arrow(*pair) for pair in matrix.pairs], axis=1)
    if matrix.networks > 1:
        runs = matrix.runs[matrix.mean.columns.drop(AVERAGE)].set_axis(pairs.columns, axis=1)
        most_runs = int(runs.to_numpy().max(initial=0))
        if few := _named(runs, lambda n: 0 < n < most_runs, lambda n: f" ({n} of {most_runs})"):
            lines.append(f"Fewer runs, of fewer pre-trained networks or seeds: {few}.")
    elif few := _named(pairs, lambda n: 0 < n < most, lambda n: f" ({n} of {most})"):
        lines.append(f"Fewer seeds: {few}.")
    if holes := _named(pairs, lambda n: n == 0, lambda n: ""):
        lines.append(f"{holes}: no finished runs ({NONE}), so no {AVERAGE}.")
    return lines


def _spread_note(matrix: Matrix, spread: Spread) -> str:
    counts, spreads = matrix.runs.to_numpy(), spread_of(matrix, spread)
    several, known = bool((counts > 1).any()), spreads.notna().any(axis=None)
    runs = of_networks(counted(matrix.most_seeds, "seed"), matrix.networks)
    exact = " It is too short at 0 and 100 %, where it is ± 0.0." if (spreads == 0).any(axis=None) else ""
    if spread == "interval" and known and several:
        alone = ", over images alone for one seed" if (counts == 1).any() else ""
        levels = random_levels(matrix.networks > 1)
        one = matrix.networks > 1 and ((matrix.runs == matrix.seeds) & (matrix.runs > 0)).any(axis=None)
        lacks = " The ± of a row with one network lacks the variance over networks." if one else ""
        return f"Mean over {runs} ± half of the 95 % interval over {levels}{alone}.{lacks}{exact}"
    if spread == "interval" and known:
        return f"One seed: ± half of the 95 % interval over images; other seeds may differ by more.{exact}"
    if known:
        name = {"std": "standard deviation", "sem": "standard error of the mean"}[spread]
        return f"Mean over {runs} ± {name} over runs."
    return f"Mean over {runs}." if several else "One seed per cell, so no spread is known."


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


def _cells(table: Table, cell: Callable[[str, bool], str], name: Callable[[str], str]) -> list[list[str]]:
    """The rows as source text: ``cell(text, bold)`` writes a cell, ``name`` one of the first column."""
    return [
        [name(row[0]), *(cell(text, (i, j) in table.bold) for j, text in enumerate(row[1:], 1))]
        for i, row in enumerate(table.rows)
    ]


def _pretraining_rows(pretraining: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    seeds = "seed" in pretraining
    header = ["Norm", *(["Seed"] if seeds else []), "Dataset", "Epochs", "Correct", "Error"]
    rows = [
        [
            row.label,
            *([NONE if pd.isna(row.seed) else str(row.seed)] if seeds else []),
            NONE if pd.isna(row.dataset) else row.dataset,
            NONE if pd.isna(row.epochs) else str(row.epochs),
            NONE if pd.isna(row.correct) else f"{row.correct}/{row.n}",
            NONE if pd.isna(row.error) else f"{row.error:.2f}",
        ]
        for row in pretraining.itertuples()
    ]
    return header, rows


def csv(frame: pd.DataFrame, float_format: str) -> str:
    r"""Any frame as a CSV file without its index; bytes of names that are not valid text become ``\xNN``."""
    text = str(frame.to_csv(index=False, float_format=float_format, lineterminator="\n"))
    return re.sub("[\ud800-\udfff]", lambda match: printable(match[0]), text)


def _arrow(pair: str) -> str:
    return pair.replace("->", "→")


def _pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """A GitHub table; ``left``: the columns that are set to the left."""
    lines = [[_escape_md(name) for name in header], [":--" if each else "--:" for each in left], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape_md(text: str) -> str:
    """``text`` as source of a GitHub table."""
    plain = printable(" ".join(text.split()))
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~$&" else letter for letter in plain)
