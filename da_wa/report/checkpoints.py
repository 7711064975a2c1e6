"""The pre-trained networks that runs started from."""

from __future__ import annotations

import pandas as pd

from da_wa.report.facts import Facts


def checkpoints(facts: Facts) -> pd.DataFrame:
    """One row per row of the table and network: label, dataset, epochs, correct, n, error (percent), checkpoint.

    Its seed is the second column where rows have several networks.
    """
    found = {
        (facts.label(record), p.name): (seed, p.dataset, p.epochs, p.correct, p.n, p.name)
        for record in facts.records
        if (p := record.pretraining)
        for seed in [record.factors.pretraining_seed]
    }
    place = {label: k for k, label in enumerate(facts.matrix.mean.index)}
    order = sorted(found, key=lambda key: (place[key[0]], -1 if found[key][0] is None else found[key][0], key[1]))
    columns = ["label", "seed", "dataset", "epochs", "correct", "n", "checkpoint"]
    rows = pd.DataFrame([(key[0], *found[key]) for key in order], columns=columns)
    whole = ["seed", "epochs", "correct", "n"]
    rows[whole] = rows[whole].astype("Int64")
    rows.insert(6, "error", 100 * (1 - rows["correct"] / rows["n"]).astype(float))
    return rows if rows["label"].duplicated().any() else rows.drop(columns="seed")
