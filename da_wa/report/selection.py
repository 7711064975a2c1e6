"""Effect of the epoch selection rule, and the gain from using target labels."""

from __future__ import annotations

import pandas as pd

from da_wa.report.candidates import ORACLE
from da_wa.report.content import Part, Plot, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.figures import Panel, dots
from da_wa.report.matrix import AVERAGE, HEADLINE, Matrix
from da_wa.report.statistics import Interval
from da_wa.report.tables import SELECTIONS
from da_wa.report.wording import arrow, counted, number, signed

TITLE = "How much does the selection of the epoch matter?"


def section(facts: Facts) -> Section:
    """The table under every selection rule, and how much selecting by target labels would have raised it."""
    matrices = {rule: facts.matrix if rule == HEADLINE else facts.selected(rule) for rule in SELECTIONS}
    matrices = {rule: matrix for rule, matrix in matrices.items() if matrix.mean.notna().any(axis=None)}
    headline = matrices.get(HEADLINE)
    if headline is None or len(matrices) < 2:
        return Section(TITLE, ["The runs have results under one selection rule only, so there is nothing to compare."])
    others = {rule: matrix for rule, matrix in matrices.items() if rule != HEADLINE}
    most = max(len({row.epoch for row in record.evaluations}) for record in facts.records)
    if most < 2:
        return Section(TITLE, ["Every run was evaluated after one epoch only, so there is nothing to compare."])
    labels = list(headline.mean.index)
    details: list[Part] = [_table(rule, matrix, headline) for rule, matrix in others.items()]
    summary = _optimism(others[ORACLE].mean - headline.mean, headline, most) if ORACLE in others else ""
    parts: list[Part] = [summary] if summary else []
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
    return Section(TITLE, parts, {"selection": data[order]}, summary, details)


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
    notes = [f"{rule}: {SELECTIONS[rule]}. Means over runs; small: difference to {HEADLINE}, the headline."]
    if rule == ORACLE:
        notes.append("Uses target labels, so it is not a result of unsupervised adaptation.")
    caption = f"Accuracy in percent on the target, selection {rule}"
    header = ["Norm", *(arrow(*pair) for pair in matrix.pairs), AVERAGE]
    return Table(f"selection_{rule}", caption, header, rows, notes=notes).transposed_if_wide()


def _optimism(gain: pd.DataFrame, headline: Matrix, epochs: int) -> str:
    cells = gain.drop(columns=AVERAGE).stack()
    if cells.empty:
        return ""
    among = f"Selecting among up to {counted(epochs, 'evaluated epoch')}"
    if cells.max() < 0.05:
        return f"{among} by the target's own labels would have raised no number by even 0.1 points."
    label, column = cells.idxmax()
    source, target = headline.pairs[list(headline.mean.columns).index(column)]
    averages = gain[AVERAGE].dropna()
    mean = f"by {number(averages.mean())} points on average over the rows and " if len(averages) else ""
    best = headline.mean[AVERAGE].dropna()
    change = ""
    if len(best) > 1:
        chosen = (best + averages).idxmax()
        change = f" The best row on average {'stays' if chosen == best.idxmax() else 'becomes'} {chosen}."
    return (
        f"{among} by the target's own labels would have raised accuracies {mean}by up to "
        f"{number(cells.max())} ({label}, {arrow(source, target)}).{change}"
    )
