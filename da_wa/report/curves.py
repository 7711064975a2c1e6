"""Accuracy over the epochs of training."""

from __future__ import annotations

import pandas as pd

from da_wa.report.content import Part, Plot, Section
from da_wa.report.facts import Facts
from da_wa.report.figures import learning_curves

TITLE = "How did training go?"


def section(facts: Facts) -> Section:
    """Learning curves: the source's training images, its held-out ones, and every target."""
    rows = history(facts)
    if rows.empty:
        return Section(TITLE, ["The runs saved no accuracies during training, so there are no curves."])
    rows["accuracy"] *= 100
    spread = (
        rows.groupby(["label", "source", "images", "epoch"], sort=False)
        .agg(mean=("accuracy", "mean"), low=("accuracy", "min"), high=("accuracy", "max"), seeds=("seed", "nunique"))
        .reset_index()
    )
    targets = [f"target {domain}" for domain in facts.domains]
    names = ["source, training", "source, held out", *targets]
    plots: list[Part] = []
    for number, source in enumerate(dict.fromkeys(spread["source"]), 1):
        here = spread[spread["source"] == source]
        lines = {
            label: {name: line for name, line in of_label.groupby("images", sort=False)}
            for label, of_label in here.groupby("label", sort=False)
        }
        caption = f"Trained on {source}: accuracy by epoch. Lines: means over runs, bands: their range."
        plots.append(Plot(f"curves_{number:02d}", learning_curves(lines, names), caption))
    data = {"curves": spread.sort_values(["source", "label", "images", "epoch"], kind="stable")}
    return Section(TITLE, [_held_out(spread)], data, details=plots)


def _held_out(spread: pd.DataFrame) -> str:
    """The accuracy on held-out source images after the last epoch, in words."""
    rows = spread[spread["images"] == "source, held out"]
    if rows.empty:
        return "No source images were held out."
    last = rows[rows["epoch"] == rows.groupby(["label", "source"])["epoch"].transform("max")]
    low, high = (last.loc[f()] for f in (last["mean"].idxmin, last["mean"].idxmax))
    return (
        f"After the last epoch, accuracy on held-out source images is between {low['mean']:.1f} % ({low['label']}, "
        f"{low['source']}) and {high['mean']:.1f} % ({high['label']}, {high['source']})."
    )


def history(facts: Facts) -> pd.DataFrame:
    """Every accuracy of every epoch as a row: label, source, seed, images, epoch, accuracy (a fraction)."""
    rows = []
    for record in facts.records:
        run = (facts.label(record), record.source, record.factors.seed)
        for epoch in record.curve:
            if epoch.accuracy is not None:
                rows.append((*run, "source, training", epoch.epoch, epoch.accuracy))
        for row in record.evaluations:
            name = "source, held out" if row.role == "source" else f"target {row.domain}"
            rows.append((*run, name, row.epoch, row.accuracy))
    return pd.DataFrame(rows, columns=["label", "source", "seed", "images", "epoch", "accuracy"])
