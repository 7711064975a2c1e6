"""Accuracy after pre-training and after transfer."""

from __future__ import annotations

import math

import pandas as pd

from da_wa.report.checkpoints import checkpoints
from da_wa.report.content import Plot, Section
from da_wa.report.facts import Facts
from da_wa.report.figures import relation
from da_wa.report.matrix import AVERAGE
from da_wa.report.statistics import p_equation, rank_correlation
from da_wa.report.wording import counted, signed

TITLE = "Do better pre-trained networks transfer better?"
X, Y = "accuracy where pre-trained (%)", "average accuracy on targets (%)"


def section(facts: Facts) -> Section:
    """A norm may transfer well because it pre-trains well: one point for each norm."""
    points = start_points(facts)
    if len(points) < 3:
        few = "Fewer than three norms were trained on the source alone from pre-trained networks: nothing to compare."
        return Section(TITLE, [few])
    reading = (
        "Norms that pre-train better may transfer better for that reason alone. A norm above others with the same "
        "accuracy in pre-training transfers better than that accuracy predicts."
    )
    plot = start_plot("start", points)
    return Section(TITLE, [reading, plot], {"start": points}, plot.caption)


def start_points(facts: Facts) -> pd.DataFrame:
    """One row for each norm that has both numbers: norm, epochs of pre-training, both accuracies in percent.

    Of training on the source alone: methods start from the same networks.
    """
    alone = {facts.label(record) for record in facts.records if record.factors.method == "none"}
    networks = checkpoints(facts)
    started = networks[networks["label"].isin(alone)].groupby("label", sort=False)[["error", "epochs"]].mean()
    rows = [
        {"norm": label, "epochs": int(epochs), X: 100 - error, Y: facts.matrix.mean.at[label, AVERAGE]}
        for label, error, epochs in started.itertuples()
    ]
    return pd.DataFrame(rows, columns=["norm", "epochs", X, Y]).dropna()


def start_plot(name: str, points: pd.DataFrame, *, tested: bool = True) -> Plot:
    """The points, named by norm, and by epochs of pre-training where those differ.

    Args:
        name: of the figure.
        points: see :func:`start_points`.
        tested: print the p-value, which takes the points as independent.
    """
    named = points["norm"]
    if points["epochs"].nunique() > 1:
        named = named + [f", {counted(epochs, 'epoch')}" for epochs in points["epochs"]]
    tau, p = rank_correlation(points[X], points[Y])
    chance = f" ({p_equation(p)})" if tested and p is not None and not math.isnan(p) else ""
    caption = (
        f"Rank correlation of accuracies in pre-training and on the targets over {counted(len(points), 'point')}: "
        f"Kendall's τ {signed(tau, 2)}{chance}."
    )
    return Plot(name, relation(points.assign(norm=named), X, Y, "norm"), caption, wide=False)
