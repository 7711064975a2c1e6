"""What the choice of the epoch does to the numbers, and how far the target's labels would have flattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from da_wa.report.content import Plot, Section, Table
from da_wa.report.figures import Panel, dots
from da_wa.report.matrix import AVERAGE, HEADLINE, Matrix
from da_wa.report.statistics import Interval
from da_wa.report.tables import SELECTIONS
from da_wa.report.wording import arrow, counted, listed, number, signed
from da_wa.runs.ledger import Record

TITLE = "What does the choice of the epoch change?"
ORACLE = "target_oracle"


def section(matrices: Mapping[str, Matrix], records: Sequence[Record]) -> Section:
    """The table under every selection rule, and what the oracle would have flattered.

    Args:
        matrices: by selection rule; the headline's among them.
        records: tell the epochs that could be chosen.
    """
    matrices = {rule: matrix for rule, matrix in matrices.items() if matrix.mean.notna().any(axis=None)}
    headline = matrices.get(HEADLINE)
    if headline is None or len(matrices) < 2:
        return Section(
            TITLE, ["The runs have results under one selection rule at most, so there is nothing to compare."]
        )
    others = {rule: matrix for rule, matrix in matrices.items() if rule != HEADLINE}
    epochs = sorted({result["epoch"] for record in records for result in record.get("evaluations") or []})
    labels = list(headline.mean.index)
    parts: list[str | Table | Plot] = [_table(rule, matrix, headline) for rule, matrix in others.items()]
    summary = ""
    if ORACLE in others:
        summary = _flattery(others[ORACLE].mean - headline.mean, headline, epochs)
        parts.insert(0, summary)
    averaged = [label for label in labels if pd.notna(headline.mean.at[label, AVERAGE])]
    if averaged:
        series = {
            rule: [
                Interval(float(value)) if pd.notna(value := matrix.mean.at[label, AVERAGE]) else None
                for label in averaged
            ]
            for rule, matrix in matrices.items()
        }
        figure = dots(averaged, [Panel("Mean over the pairs", series)], "accuracy on the target (%)", width=5.2)
        parts.append(Plot("selection", figure, "The averages under the selection rules.", wide=False))
    data = pd.concat(
        [
            matrix.mean.rename_axis("label")
            .reset_index()
            .melt(id_vars="label", var_name="pair", value_name="mean")
            .assign(selection=rule)
            for rule, matrix in matrices.items()
        ]
    )
    data["less_last"] = (
        data["mean"]
        - data[["label", "pair"]]
        .merge(data[data["selection"] == HEADLINE], on=["label", "pair"], how="left")["mean"]
        .to_numpy()
    )
    order = ["label", "pair", "selection", "mean", "less_last"]
    return Section(TITLE, parts, {"selection": data[order]}, summary)


def _table(rule: str, matrix: Matrix, headline: Matrix) -> Table:
    gain = matrix.mean - headline.mean
    rows = [
        [
            label,
            *(
                number(percent) + ("" if pd.isna(more) else f"\n{signed(more)}")
                for percent, more in zip(matrix.mean.loc[label], gain.loc[label], strict=True)
            ),
        ]
        for label in matrix.mean.index
    ]
    notes = [f"{rule}: {SELECTIONS[rule]}. Means over seeds; small: what is gained over {HEADLINE}, the headline."]
    if rule == ORACLE:
        notes.append("It is no result of a method that is given no target labels.")
    caption = f"Accuracy in percent on the target, selection {rule}"
    header = ["Norm", *(arrow(*pair) for pair in matrix.pairs), AVERAGE]
    return Table(f"selection_{rule}", caption, header, rows, notes=notes).transposed_if_wide()


def _flattery(flattery: pd.DataFrame, headline: Matrix, epochs: Sequence[int]) -> str:
    cells = flattery.drop(columns=AVERAGE).stack()
    if cells.empty:
        return ""
    told = f"Among the {counted(len(epochs), 'evaluated epoch')} ({listed([str(epoch) for epoch in epochs])}), choosing"
    if cells.max() < 0.05:
        return f"{told} by the target's own labels would have raised no number by even 0.1 points."
    label, pair = cells.idxmax()
    source, target = headline.pairs[list(headline.mean.columns).index(pair)]
    averages = flattery[AVERAGE].dropna()
    mean = f"by {number(averages.mean())} points on average over the norms and " if len(averages) else ""
    best = headline.mean[AVERAGE].dropna()
    moved = ""
    if len(best) > 1:
        chosen = (best + averages).idxmax()
        stays = chosen == best.idxmax()
        moved = f" The best norm on average {'stays' if stays else 'becomes'} {chosen}."
    return (
        f"{told} by the target's own labels would have raised the numbers {mean}by up to "
        f"{number(cells.max())} ({label}, {arrow(source, target)}).{moved}"
    )
