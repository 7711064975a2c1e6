"""How accuracy went while training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from da_wa.report.content import Plot, Section
from da_wa.report.figures import learning_curves
from da_wa.runs.ledger import Record

TITLE = "How did training go?"


def section(records: Sequence[Record]) -> Section:
    """Learning curves: the source's training images, its held-out ones, and every target."""
    rows = history(records)
    if rows.empty:
        return Section(TITLE, ["The runs saved no accuracies on the way, so there are no curves."])
    rows["accuracy"] *= 100
    spread = (
        rows.groupby(["label", "source", "images", "epoch"], sort=False)["accuracy"]
        .agg(mean="mean", low="min", high="max", seeds="count")
        .reset_index()
    )
    targets = [f"target {domain}" for domain in records[0]["domains"]]
    names = ["source, training", "source, held out", *targets]
    parts: list[str | Plot] = []
    for number, source in enumerate(dict.fromkeys(spread["source"]), 1):
        here = spread[spread["source"] == source]
        lines = {
            label: {name: line for name, line in of_label.groupby("images", sort=False)}
            for label, of_label in here.groupby("label", sort=False)
        }
        caption = f"Trained on {source}: accuracy over the epochs. Lines are means over seeds, bands span them."
        parts.append(Plot(f"curves_{number:02d}", learning_curves(lines, names), caption))
    return Section(TITLE, parts, {"curves": spread.sort_values(["source", "label", "images", "epoch"], kind="stable")})


def history(records: Sequence[Record]) -> pd.DataFrame:
    """Every accuracy of every epoch as a row: label, source, seed, images, epoch, accuracy (a fraction)."""
    rows = []
    for record in records:
        run = (record["label"], record["source"], record["seed"])
        for epoch in record.get("curve") or []:
            if epoch.get("accuracy") is not None:
                rows.append((*run, "source, training", epoch["epoch"], epoch["accuracy"]))
        for result in record.get("evaluations") or []:
            name = "source, held out" if result["role"] == "source" else f"target {result['domain']}"
            rows.append((*run, name, result["epoch"], result["correct"] / result["n"]))
    return pd.DataFrame(rows, columns=["label", "source", "seed", "images", "epoch", "accuracy"])
