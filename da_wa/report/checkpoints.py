"""The pre-trained networks that runs started from."""

from __future__ import annotations

import pandas as pd

from da_wa.report.facts import Facts


def checkpoints(facts: Facts) -> pd.DataFrame:
    """One row per row of the table and network: label, dataset, epochs, correct, n, error (percent), checkpoint."""
    found = {
        (facts.label(record), p.name): (facts.label(record), p.dataset, p.epochs, p.correct, p.n, p.name)
        for record in facts.records
        if (p := record.pretraining)
    }
    place = {label: k for k, label in enumerate(facts.matrix.mean.index)}
    order = sorted(found, key=lambda key: (place[key[0]], key[1]))
    columns = ["label", "dataset", "epochs", "correct", "n", "checkpoint"]
    rows = pd.DataFrame([found[key] for key in order], columns=columns)
    rows[["epochs", "correct", "n"]] = rows[["epochs", "correct", "n"]].astype("Int64")
    rows.insert(5, "error", 100 * (1 - rows["correct"] / rows["n"]).astype(float))
    return rows
