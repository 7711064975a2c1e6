"""Shift, learning curves and cost: numbers against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from da_wa.report import cost, curves, methods, shift
from da_wa.report.content import Section, Table
from da_wa.report.facts import load_facts


def table(section: Section, name: str) -> Table:
    return next(part for part in section.everything if isinstance(part, Table) and part.name == name)


def test_mmd_by_its_definition() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(6, 3)), draw.normal(size=(5, 3)) + 1
    x = np.concatenate([a, b])
    squared = np.array([[np.sum((p - q) ** 2) for q in x] for p in x])
    width = np.median([squared[i, j] for i in range(11) for j in range(i)])
    k = np.exp(-squared / width)
    within_a = sum(k[i, j] for i in range(6) for j in range(6) if i != j) / 30
    within_b = sum(k[i, j] for i in range(6, 11) for j in range(6, 11) if i != j) / 20
    across = sum(k[i, j] for i in range(6) for j in range(6, 11)) / 30
    assert shift.mmd(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_equal_domains_are_near_and_distant_ones_far() -> None:
    draw = np.random.default_rng(1)
    a, b, c = draw.normal(size=(200, 64)), draw.normal(size=(200, 64)), draw.normal(size=(200, 64)) + 3
    assert shift.a_distance(*shift.scaled(a, b)) < 0.35
    assert shift.a_distance(*shift.scaled(a, c)) == pytest.approx(2.0, abs=0.02)
    assert abs(shift.mmd(*shift.scaled(a, b))) < 0.005
    assert shift.mmd(*shift.scaled(a, c)) > 0.1


@pytest.mark.filterwarnings("error")
def test_equal_features_are_no_distance_apart_and_are_not_drawn(experiment: Any) -> None:
    """A network that collapsed gives every image the same features, whose computed deviation is not exactly 0."""
    a, b = (np.full((n, 256), 0.1) for n in (301, 200))
    assert np.concatenate([a, b]).std(axis=0).any()
    assert not np.concatenate(shift.scaled(a, b)).any()
    assert shift.a_distance(*shift.scaled(a, b)) == 0.0
    assert abs(shift.mmd(*shift.scaled(a, b))) < 1e-12
    experiment.images = {"A": 140, "W": 90, "D": 70}
    experiment.simulate(["bn"], [0])
    matrix = load_facts(experiment.out).matrix
    assert shift._embeddings(matrix, {"BN": {"A": a, "W": b}}, "A") == []


def test_shift_without_features(experiment: Any) -> None:
    experiment.images = {"A": 140, "W": 90, "D": 70}
    experiment.simulate(["bn"], [0])
    section = shift.section(load_facts(experiment.out))
    assert section.data == {}
    assert len(section.everything) == 1


def test_the_fewest_images_behind_a_distance_are_those_of_all_runs(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30, "D": 24}
    experiment.simulate(["bn"], [0], features=20, classes=3)
    experiment.simulate(["bn"], [1], features=12, classes=3)
    section = shift.section(load_facts(experiment.out))
    assert (
        table(section, "shift").notes[0].startswith("From 6 runs: features after the last epoch of 12 images or more")
    )


def test_curves_hold_every_accuracy(experiment: Any) -> None:
    experiment.images = {"A": 140, "W": 90, "D": 70}
    experiment.simulate(["bn"], [0, 1])
    facts = load_facts(experiment.out)
    data = curves.section(facts).data["curves"]
    first = data[(data["source"] == "A") & (data["images"] == "target W") & (data["epoch"] == 30)].iloc[0]
    assert first["mean"] == pytest.approx(facts.matrix.mean.at["BN", "A->W"])
    lowest = min(100 * o.right.mean() for o in facts.outcomes if (o.source, o.target) == ("A", "W"))
    assert first["low"] == pytest.approx(lowest)
    assert len(set(data["images"])) == 5


def test_the_last_epoch_is_that_of_each_row_and_seeds_are_no_runs(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 40}
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn"])
    for p in (0, 1):
        experiment.add("bn", "A", method="dann", target="W", pretraining_seed=p)
    truth = np.arange(40) % 3
    fields = experiment.record("bn", "A", method="tent", target="W", epochs=1)
    experiment.finish(fields, [1], {domain: (truth, np.where(np.arange(40) < 10, truth, 9)[None]) for domain in "AW"})
    section = curves.section(load_facts(experiment.out))
    assert "is between 25.0 % (BN · tent, A) and 50.0 % (BN, A)." in section.parts[0]
    data = section.data["curves"].query("images == 'target W' and source == 'A'").set_index("label")
    assert data["seeds"].to_dict() == {"BN": 1, "BN · DANN": 1, "BN · tent": 1}


def test_costs_and_what_repeats_them(experiment: Any) -> None:
    experiment.fill(["bn"], [0, 1])
    section = cost.section(load_facts(experiment.out))
    assert section.data["cost"]["total_s"].tolist() == [41.2] * 6
    assert section.data["cost"]["mfu"].tolist() == [0.3141] * 6
    values = dict((row[0], row[1]) for row in table(section, "environment").rows)
    assert values["Command"] == "run_office31.py experiment=quick"
    assert values["Commit"] == "0123456789abcdef0123456789abcdef01234567"
    assert table(section, "data").rows[0] == ["A", "2817", "digest of A"]


@pytest.mark.filterwarnings("error")
def test_one_saved_image_a_domain_tells_no_shift(experiment: Any) -> None:
    assert np.isnan(shift.mmd(np.zeros((1, 3)), np.ones((5, 3))))
    experiment.images = {"A": 40, "W": 30, "D": 24}
    experiment.simulate(["bn"], [0], features=1, classes=3)
    section = shift.section(load_facts(experiment.out))
    assert section.everything == ["The runs saved too few features of each domain to tell a shift."]


def test_costs_are_medians_of_percents_and_hours_of_whole_runs(experiment: Any) -> None:
    for seed, (total, mfu) in enumerate([(3600.0, 0.25), (1800.0, 0.5), (5400.0, 0.125)]):
        experiment.add("bn", "A", seed, cost={"total_s": total, "train_s": 1.0, "mfu": mfu})
    section = cost.section(load_facts(experiment.out))
    assert "3 runs took 3.0 hours in all on cpu" in str(section.parts[0])
    row = dict(zip(table(section, "cost").header, table(section, "cost").rows[0], strict=True))
    assert row["Total (s)"] == "3600\n1800 to 5400"
    assert row["MFU (%)"] == "25\n12 to 50"


def test_streams_and_what_methods_logged(experiment: Any) -> None:
    """Accuracy on arrival is not that after the pass; means are over runs."""
    experiment.images = {"A": 40, "W": 30}
    experiment.correct = lambda norm, source, target, seed: 15 + 6 * seed
    experiment.fill(["bn"])
    for seed, (arrived, used, first, last) in enumerate([(6, 0.25, 4.0, 1.0), (12, 0.75, 2.0, 0.5)]):
        online = {"domain": "W", "role": "target", "epoch": 1, "correct": arrived, "n": 30}
        curve = [
            {"epoch": e, "terms": {"domain_accuracy": value, "used": used, "reset": used / 2}}
            for e, value in ((1, first), (2, last))
        ]
        experiment.add("bn", "A", seed, target="W", method="dann", online=online, curve=curve)
    section = methods.section(load_facts(experiment.out))
    streams = section.data["online"].set_index("label").loc["BN · DANN"]
    assert (streams["runs"], streams["online"]) == (2, pytest.approx((6 + 12) / 60))
    assert streams["after"] == pytest.approx((15 + 21) / 60)
    assert streams["used"] == pytest.approx(0.5)
    assert table(section, "online").header[2:] == ["Online", "After", "Used (%)", "Reset (%)"]
    assert table(section, "online").rows == [["BN · DANN", "A→W", "30.0", "60.0", "50", "25"]]
    logged = section.data["logged"].set_index("quantity").loc["domain_accuracy"]
    assert (logged["runs"], logged["first"], logged["last"]) == (2, 3.0, 0.75)
