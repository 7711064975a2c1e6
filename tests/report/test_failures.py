"""Confusions: against scikit-learn, with many classes, and with names that no format likes."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from da_wa.report import failures, page, tables
from da_wa.report.content import Plot, Table
from da_wa.report.figures import rendered
from da_wa.report.latex import table_latex
from da_wa.report.outcomes import Outcome


def facts(classes: list[str], n: int = 400, images: bool = False) -> Any:
    """One norm, one pair, two seeds, predictions at random."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, len(classes), n)
    outcomes = [
        Outcome(
            "BN",
            "A",
            "W",
            seed,
            np.arange(n),
            truth,
            draw.integers(0, len(classes), n),
            draw.random(n).astype(np.float32),
        )
        for seed in (0, 1)
    ]
    mean = pd.DataFrame({"A->W": [50.0], "Avg": [50.0]}, ["BN"])
    pixels = {"W": draw.integers(0, 255, (n, 3, 4, 4), dtype=np.uint8)} if images else None
    return SimpleNamespace(
        matrix=SimpleNamespace(pairs=[("A", "W")], mean=mean), outcomes=outcomes, classes=classes, images=pixels
    )


def test_confusions_are_those_of_scikit_learn() -> None:
    given = facts(list("vwxyz"))
    counts = failures.confusion(given.outcomes)
    truth, predicted = (np.concatenate([getattr(o, name) for o in given.outcomes]) for name in ("truth", "predicted"))
    dense = np.zeros((5, 5), int)
    dense[counts["truth"], counts["predicted"]] = counts["count"]
    assert (dense == confusion_matrix(truth, predicted)).all()
    data = failures.section(given).data
    mine = data["confusion"].pivot(index="true", columns="predicted", values="count").fillna(0)
    assert (mine.to_numpy() == dense).all()
    recall = data["class_accuracy"].set_index("class")["A->W"]
    assert recall.to_numpy() == pytest.approx(100 * np.diag(dense) / dense.sum(axis=1))


def test_ten_thousand_classes_need_no_dense_matrix() -> None:
    given = facts([f"class {k}" for k in range(10_000)], n=3000)
    tracemalloc.start()
    section = failures.section(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # 10,000 × 10,000 numbers are 800 MB
    text = "\n".join(part for part in section.everything if isinstance(part, str))
    assert "With 10000 classes, confusions are not drawn" in text
    assert not any(isinstance(part, Plot) for part in section.everything)


NAMES = ["caf\udce9", "a -> b", "<b>&'\"", "$x_1$ {y}", "50% #|`*", "写真"]


def test_names_in_every_format() -> None:
    section = failures.section(facts(NAMES, images=True))
    pictures = {}
    for part in section.everything:
        if isinstance(part, Plot):
            pictures[part.name] = rendered(part.figure, "png")
            assert rendered(part.figure, "pdf").startswith(b"%PDF")
        elif isinstance(part, Table):
            assert r"caf\textbackslash{}xe9" in table_latex(part).encode().decode()
    assert set(pictures) == {"class_accuracy", "confusion_01", "most_confidently_wrong_01"}
    text = page.html("t", "l", [], [section], pictures).encode().decode()
    assert "caf\\xe9" in text and "&lt;b&gt;&amp;" in text
    for frame in section.data.values():
        assert "caf\\xe9" in tables.csv(frame, "%.3g").encode().decode()


def test_confusions_are_shares_of_their_class() -> None:
    """Of the first class one image of four is wrong, of the second two of two."""
    truth, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2, 2])
    outcome = Outcome("BN", "A", "W", 0, np.arange(6), truth, predicted, None)
    found = failures._confusions({("A", "W"): [outcome]}, list("abc"), "BN")
    assert found.rows == [["A→W", "b as c (100 %) and a as b (25 %)"]]


def test_the_most_confident_errors_are_those_of_most_runs() -> None:
    """Image 0 is wrong in one run of two with 0.9, image 1 in both with 0.6; image 2 is right."""
    truth = np.array([0, 1, 2])
    answers = [(np.array([1, 2, 2]), [0.9, 0.6, 0.99]), (np.array([0, 2, 2]), [0.9, 0.6, 0.99])]
    runs = [
        Outcome("BN", "A", "W", seed, np.arange(3), truth, predicted, np.array(sure))
        for seed, (predicted, sure) in enumerate(answers)
    ]
    assert failures.most_confidently_wrong(runs) == [(1, 1, 2, 2, pytest.approx(0.6)), (0, 0, 1, 1, pytest.approx(0.9))]
