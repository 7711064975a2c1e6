"""What the choice of the epoch does to the numbers, and how far the target's labels would have flattered."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from da_wa.report.content import Plot, Section, Table
from da_wa.report.figures import Panel, dots
from da_wa.report.matrix import AVERAGE, HEADLINE, Matrix
from da_wa.report.statistics import Interval
from da_wa.report.tables import SELECTIONS
from da_wa.report.wording import arrow, number

TITLE = "What does the choice of the epoch change?"
ORACLE = "target_oracle"


def section(matrices: Mapping[str, Matrix]) -> Section:
    """The table under every selection rule, and what the oracle would have flattered.

    Args:
        matrices: by selection rule; the headline's among them.
    """
    matrices = {rule: matrix for rule, matrix in matrices.items() if matrix.mean.notna().any(axis=None)}
    headline = matrices.get(HEADLINE)
    if headline is None or len(matrices) < 2:
        return Section(
            TITLE, ["The runs have results under one selection rule at most, so there is nothing to compare."]
        )
    others = {rule: matrix.mean - headline.mean for rule, matrix in matrices.items() if rule != HEADLINE}
    columns = [*(arrow(*pair) for pair in headline.pairs), AVERAGE]
    labels = list(headline.mean.index)
    rows = [
        [label if k == 0 else "", rule, *(number(v) for v in matrix.mean.loc[label])]
        for label in labels
        for k, (rule, matrix) in enumerate(matrices.items())
    ]
    rules = [f"{rule}: {SELECTIONS[rule]}" for rule in matrices if rule in SELECTIONS]
    parts: list[str | Table | Plot] = [
        Table(
            "selection",
            "Accuracy in percent on the target under every selection rule",
            ["Norm", "Selection", *columns],
            rows,
            notes=[
                f"{'; '.join(rules)}. Means over seeds. {HEADLINE} is the headline; {ORACLE} is no result of a "
                "method that is given no target labels."
            ],
        )
    ]
    gist = ""
    if ORACLE in others:
        flattery = others[ORACLE]
        gist = _flattery(flattery, headline)
        parts.insert(0, gist)
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
    return Section(TITLE, parts, {"selection": data[order]}, gist)


def _flattery(flattery: pd.DataFrame, headline: Matrix) -> str:
    cells = flattery.drop(columns=AVERAGE).stack()
    if cells.empty:
        return ""
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
        f"Choosing the epoch by the target's own labels would have raised the numbers {mean}by up to "
        f"{number(cells.max())} ({label}, {arrow(source, target)}).{moved}"
    )
