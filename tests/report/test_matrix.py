from __future__ import annotations

import math
import os
import statistics
from typing import Any

import pytest

from da_wa.errors import DataError
from da_wa.report import write_report
from da_wa.report.matrix import accuracy, collect, pretraining, transfer_matrix
from da_wa.runs.ledger import Ledger

PAIRS = [("A", "W"), ("W", "A"), ("A", "D"), ("D", "A"), ("W", "D"), ("D", "W")]
COLUMNS = [f"{source}->{target}" for source, target in PAIRS]


def matrix_of(experiment: Any) -> Any:
    return transfer_matrix(collect(Ledger(experiment.out)))


def test_rows_and_columns_stand_as_in_the_paper(experiment: Any) -> None:
    experiment.fill()
    experiment.fill(["zero", "frn"])
    m = matrix_of(experiment)
    assert list(m.mean.columns) == [*COLUMNS, "Avg"]
    paper = ["Baseline", "WA", "BN", "BN + WA", "GN", "GN + WA", "IN", "IN + WA", "LN", "LN + WA"]
    assert list(m.mean.index) == [*paper, "frn", "zero"]


def test_every_cell_is_the_mean_over_seeds_and_avg_the_mean_of_the_pairs(experiment: Any) -> None:
    experiment.fill(["bn", "ln_wa"], seeds=[0, 1, 2])
    m = matrix_of(experiment)
    for norm, label in [("bn", "BN"), ("ln_wa", "LN + WA")]:
        percent = {
            seed: {f"{s}->{t}": 100 * experiment.correct(norm, s, t, seed) / experiment.images[t] for s, t in PAIRS}
            for seed in (0, 1, 2)
        }
        for column in COLUMNS:
            values = [percent[seed][column] for seed in (0, 1, 2)]
            assert m.mean.at[label, column] == pytest.approx(statistics.mean(values), abs=1e-9)
            assert m.std.at[label, column] == pytest.approx(statistics.stdev(values), abs=1e-9)
        averages = [statistics.mean(percent[seed].values()) for seed in (0, 1, 2)]
        assert m.mean.at[label, "Avg"] == pytest.approx(statistics.mean(averages), abs=1e-9)
        assert m.std.at[label, "Avg"] == pytest.approx(statistics.stdev(averages), abs=1e-9)
    assert (m.seeds == 3).all(axis=None)


@pytest.mark.parametrize(("selection", "right"), [("last", 100), ("source_val", 200), ("target_oracle", 300)])
def test_the_matrix_shows_the_selection_it_is_asked_for(experiment: Any, selection: str, right: int) -> None:
    correct = {"last": 100, "source_val": 200, "target_oracle": 300}
    for source in "AWD":
        rows = experiment.record("bn", source)["results"]
        experiment.add("bn", source, results=[{**row, "correct": correct[row["selection"]]} for row in rows])
    mean = transfer_matrix(collect(Ledger(experiment.out)), selection).mean
    assert mean.at["BN", "A->W"] == pytest.approx(100 * right / 795)


def test_the_source_itself_is_a_row_but_no_pair(experiment: Any) -> None:
    experiment.fill(["bn"])
    rows = accuracy(collect(Ledger(experiment.out)).records)
    on_itself = rows[rows["source"] == rows["target"]]
    assert set(on_itself["selection"]) == {"last", "source_val"}
    assert len(on_itself) == 6
    assert not any(column in ("A->A", "W->W", "D->D") for column in matrix_of(experiment).mean.columns)


def test_no_average_over_fewer_pairs(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.add("wa", "A")
    experiment.add("wa", "W")
    experiment.plan("wa", "D")
    m = matrix_of(experiment)
    assert math.isnan(m.mean.at["WA", "D->A"])
    assert math.isnan(m.mean.at["WA", "Avg"])
    assert not math.isnan(m.mean.at["BN", "Avg"])
    assert m.seeds.at["WA", "Avg"] == 0


def test_seeds_are_counted_cell_by_cell(experiment: Any) -> None:
    experiment.fill(["bn"], seeds=[0, 1, 2])
    experiment.fill(["wa"], seeds=[0])
    experiment.add("wa", "A", seed=1)
    m = matrix_of(experiment)
    assert m.seeds.loc["WA"].to_dict() == {**dict.fromkeys(COLUMNS, 1), "A->W": 2, "A->D": 2, "Avg": 1}
    assert m.mean.at["WA", "Avg"] == pytest.approx(m.mean.loc["WA", COLUMNS].mean())
    assert math.isnan(m.std.at["WA", "Avg"])


def test_averages_of_seeds_are_of_those_with_every_pair(experiment: Any) -> None:
    experiment.fill(["bn"], seeds=[0, 1])
    experiment.add("bn", "A", seed=2)
    m = matrix_of(experiment)
    per_seed = [
        statistics.mean(100 * experiment.correct("bn", s, t, seed) / experiment.images[t] for s, t in PAIRS)
        for seed in (0, 1)
    ]
    assert m.std.at["BN", "Avg"] == pytest.approx(statistics.stdev(per_seed))


def test_only_planned_pairs_are_columns(experiment: Any) -> None:
    experiment.add("bn", "A")
    experiment.plan("wa", "A")
    assert list(matrix_of(experiment).mean.columns) == ["A->W", "A->D", "Avg"]


@pytest.mark.parametrize("names", [["B", "A"], ["Art", "Clipart", "Product", "Real World", "Sketch", "Quick|draw"]])
def test_any_number_of_domains(experiment: Any, names: list[str]) -> None:
    experiment.images = dict.fromkeys(names, 500)
    experiment.fill(["bn"])
    m = matrix_of(experiment)
    assert len(m.mean.columns) == len(names) * (len(names) - 1) + 1
    assert list(m.mean.columns[:2]) == [f"{names[0]}->{names[1]}", f"{names[1]}->{names[0]}"]
    assert m.mean.notna().all(axis=None)


def test_what_is_missing_is_named_with_its_reason(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.plan("wa", "A", seed=1)
    experiment.plan("wa", "W").fail("Traceback (most recent call last):\n  File ...\nValueError: boom")
    experiment.plan("wa", "D").fail("No room on the disk.\nMake some.")
    experiment.diverge("bn_wa", "A")
    torn = experiment.add("ln", "D").path / "record.json"
    torn.write_bytes(torn.read_bytes()[:-40])
    missing = [str(m) for m in collect(Ledger(experiment.out)).missing]
    assert [m for m in missing if "LN" not in m] == [
        "WA  A->W  seed 1: not finished",
        "WA  A->D  seed 1: not finished",
        "WA  W->A  seed 0: failed: ValueError: boom",
        "WA  W->D  seed 0: failed: ValueError: boom",
        "WA  D->A  seed 0: failed: No room on the disk.",
        "WA  D->W  seed 0: failed: No room on the disk.",
        "BN + WA  A->W  seed 0: diverged at epoch 3: the loss is nan",
        "BN + WA  A->D  seed 0: diverged at epoch 3: the loss is nan",
    ]
    of_torn = [m for m in missing if "LN" in m]
    assert len(of_torn) == 2
    assert all(str(torn) in m for m in of_torn)
    assert math.isnan(matrix_of(experiment).mean.at["LN", "D->A"])


def test_a_plan_is_no_longer_missing_when_another_run_filled_its_cells(experiment: Any) -> None:
    experiment.fill(["bn"])
    record = experiment.record("bn", "A")
    config = {key: record[key] for key in ("label", "source", "targets", "seed")}
    Ledger(experiment.out).plan("bn-A-s0-0000aaaa", config)
    assert collect(Ledger(experiment.out)).missing == []


def test_of_attempts_with_other_options_the_latest_is_told(experiment: Any) -> None:
    experiment.fill(["bn"])
    record = experiment.record("ln", "A")
    config = {key: record[key] for key in ("label", "source", "targets", "seed")}
    ledger = Ledger(experiment.out)
    for number, name in enumerate(["ln-A-s0-bbbb", "ln-A-s0-cccc", "ln-A-s0-aaaa"]):
        run = ledger.plan(name, config)
        run.fail(f"attempt {number}")
        for file in run.path.iterdir():
            os.utime(file, (number + 1, number + 1))
    assert [m.reason for m in collect(ledger).missing] == ["failed: attempt 2"] * 2


def test_runs_that_were_computed_differently_are_told(experiment: Any) -> None:
    experiment.fill(["bn"])
    assert collect(Ledger(experiment.out)).mixed == ""
    environment = experiment.record("ln", "A")["environment"] | {"precision": "bf16-mixed"}
    experiment.add("ln", "A", environment=environment)
    mixed = collect(Ledger(experiment.out)).mixed
    assert mixed.startswith("Runs differ in precision (32-true 3 and bf16-mixed 1)")
    written = write_report(experiment.out)
    assert mixed in written.summary()
    assert mixed in (experiment.out / "table.md").read_text()
    assert "bf16-mixed 1" in (experiment.out / "page.html").read_text()


def test_the_order_of_domains_is_known_before_anything_is_finished(experiment: Any) -> None:
    for source in "AWD":
        experiment.plan("bn", source)
    assert list(matrix_of(experiment).mean.columns) == [*COLUMNS, "Avg"]


def test_a_plan_that_cannot_be_read_is_named(experiment: Any) -> None:
    experiment.fill(["bn"])
    (experiment.plan("wa", "A").path / "config.yaml").write_text("label: [torn")
    (experiment.plan("wa", "W").path / "config.yaml").write_text("label: WA")
    first, second = collect(Ledger(experiment.out)).unreadable
    assert "wa-A-s0-1a2b3c4d/config.yaml" in first
    assert second.startswith("wa-W-s0-1a2b3c4d: config.yaml does not tell")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": "other"}, "recipe: 5e6f7a8b in"),
        ({"protocol": "paper"}, "protocol: full in"),
        ({"size": 64}, "size: 32 in"),
        ({"model": "resnet50"}, "model: resnet20 in"),
        ({"dataset": "Other-31"}, "dataset: Office-31 in"),
        ({"classes": ["bike"]}, "classes:"),
        ({"data": {"A": {"digest": "other", "n": 2817}}}, "images of A: digest of A in"),
    ],
)
@pytest.mark.parametrize(("norm", "seed"), [("bn", 1), ("bn_wa", 0)])
def test_numbers_that_cannot_be_compared_are_refused(
    experiment: Any, change: dict[str, Any], named: str, norm: str, seed: int
) -> None:
    experiment.fill(["bn"])
    other = experiment.add(norm, "A", seed, **change)
    with pytest.raises(DataError) as caught:
        collect(Ledger(experiment.out))
    assert named in str(caught.value)
    assert other.id in str(caught.value)
    assert "bn-A-s0-1a2b3c4d" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3  # head, the one field, what to do


def test_two_runs_of_one_cell_are_refused(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.add("bn", "A", id="bn-A-s0-ffffffff")
    with pytest.raises(DataError, match=r"two runs of BN from A with seed 0: bn-A-s0-1a2b3c4d and bn-A-s0-ffffffff"):
        collect(Ledger(experiment.out))


def test_two_norms_with_one_label_are_refused(experiment: Any) -> None:
    experiment.add("bn", "A")
    experiment.add("bn_again", "W", label="BN")
    with pytest.raises(DataError, match=r"the norm called BN: bn in .*; bn_again in"):
        collect(Ledger(experiment.out))


def test_no_runs_at_all(experiment: Any) -> None:
    with pytest.raises(DataError, match="There are no runs to report in"):
        collect(Ledger(experiment.out))


def test_runs_of_which_nothing_can_be_read(experiment: Any) -> None:
    (experiment.plan("wa", "A").path / "config.yaml").write_text("label: [torn")
    with pytest.raises(DataError, match=r"no runs to report in .*\n.*wa-A-s0-1a2b3c4d/config\.yaml"):
        collect(Ledger(experiment.out))


def test_checkpoints_are_listed_once(experiment: Any) -> None:
    experiment.fill(["bn", "wa"], seeds=[0, 1])
    experiment.add("ln", "A", pretrain=None)
    rows = pretraining(collect(Ledger(experiment.out)).records)
    assert rows["label"].tolist() == ["WA", "BN"]
    assert rows["error"].tolist() == pytest.approx([100 * (1 - 6002 / 10_000)] * 2)
    assert rows["checkpoint"].tolist() == ["resnet20-cifar100-wa-ab12cd34", "resnet20-cifar100-bn-ab12cd34"]
