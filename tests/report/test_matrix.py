from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from typing import Any

import numpy as np
import pytest

from da_wa.errors import ConfigError, DataError
from da_wa.records.store import Store
from da_wa.report import write_report
from da_wa.report.checkpoints import checkpoints
from da_wa.report.facts import load_facts
from da_wa.report.pivot import pivot

PAIRS = [("A", "W"), ("W", "A"), ("A", "D"), ("D", "A"), ("W", "D"), ("D", "W")]
COLUMNS = [f"{source}->{target}" for source, target in PAIRS]


def matrix_of(experiment: Any) -> Any:
    return load_facts(experiment.out).matrix


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
    truth = {domain: np.zeros(n, int) for domain, n in experiment.images.items()}
    on_source, on_target = (50, 200, 100, 100), (50, 200, 300, 100)
    for source in "AWD":
        predicted = {
            domain: (zeros, [np.arange(len(zeros)) >= k for k in (on_source if domain == source else on_target)])
            for domain, zeros in truth.items()
        }
        experiment.finish(experiment.record("bn", source), [5, 10, 15, 20], predicted)
    mean = load_facts(experiment.out).selected(selection).mean
    assert mean.at["BN", "A->W"] == pytest.approx(100 * right / 795)


def test_the_source_itself_is_a_row_but_no_pair(experiment: Any) -> None:
    experiment.fill(["bn"])
    rows = load_facts(experiment.out).frame
    on_itself = rows[rows["source"] == rows["target"]]
    assert set(on_itself["selection"]) == {"last", "source_val"}
    assert set(on_itself["role"]) == {"source"}
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


def test_planned_runs_of_another_network_are_missing_from_the_start(experiment: Any) -> None:
    experiment.add("bn", "A")
    experiment.plan("bn", "A", pretraining_seed=1)
    missing = [str(m) for m in load_facts(experiment.out).missing]
    assert missing == [f"BN  A->{t}  seed 0: not finished (pre-training seed 1)" for t in "WD"]


def test_what_is_missing_is_named_with_its_reason(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.plan("wa", "A", seed=1)
    experiment.fail("wa", "W", "Traceback (most recent call last):\n  File ...\nValueError: boom")
    experiment.fail("wa", "D", "No room on the disk.\nMake some.")
    experiment.diverge("bn_wa", "A")
    torn = experiment.add("ln", "D").path / "record.json"
    torn.write_bytes(torn.read_bytes()[:-40])
    missing = [str(m) for m in load_facts(experiment.out).missing]
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
    experiment.plan("bn", "A", id="bn-A-s0-0000aaaa", lr=0.5)
    assert load_facts(experiment.out).missing == []


def test_of_attempts_with_other_options_the_latest_is_named(experiment: Any) -> None:
    experiment.fill(["bn"])
    for number, name in enumerate(["ln-A-s0-bbbb", "ln-A-s0-cccc", "ln-A-s0-aaaa"]):
        run = experiment.fail("ln", "A", f"attempt {number}", id=name)
        for file in run.path.iterdir():
            os.utime(file, (number + 1, number + 1))
    assert [m.reason for m in load_facts(experiment.out).missing] == ["failed: attempt 2"] * 2


def test_networks_of_one_name_and_several_results_are_told(experiment: Any) -> None:
    experiment.fill(["bn"])
    network = experiment.record("bn", "A", 1)["pretraining"]
    experiment.add("bn", "A", 1, network=network | {"correct": network["correct"] - 1})
    told = f"Trained more than once with different results, and counted as one network: {network['name']}."
    assert load_facts(experiment.out).mixed == told


def test_runs_that_were_computed_differently_are_told(experiment: Any) -> None:
    experiment.fill(["bn"])
    assert load_facts(experiment.out).mixed == ""
    provenance = experiment.record("ln", "A")["provenance"] | {"precision": "bf16-mixed"}
    experiment.add("ln", "A", provenance=provenance)
    mixed = load_facts(experiment.out).mixed
    assert mixed.startswith("Runs differ in precision (32-true 3 and bf16-mixed 1)")
    written = write_report(experiment.out)
    assert mixed in written.summary()
    assert mixed in (experiment.out / "table.md").read_text()
    assert "bf16-mixed 1" in (experiment.out / "page.html").read_text()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([{"commit": "f" * 40}], "commit (0123456 1 and fffffff 1)"),
        ([{"dirty": True}], "commit (0123456 1 and 0123456 with changes 1)"),
        ([{"commit": None, "dirty": None}], "commit (0123456 1 and unknown 1)"),
        ([{"torch": "2.14.0"}, {"torch": "2.13.1"}], "torch (2.13.1 1, 2.14.0 1 and 2.15.0 1)"),
        ([{"commit": 40 * digit} for digit in "abc"], "commit (4 of them)"),
        ([{"commit": 40 * "f", "device": "cuda"}], "commit (0123456 1 and fffffff 1) and device (cpu 1 and cuda 1)"),
        ([{"cores": 64, "command": "another"}], ""),
    ],
)
def test_the_code_that_computed_runs_is_compared(experiment: Any, changes: list[dict[str, Any]], told: str) -> None:
    experiment.add("bn", "A")
    for seed, change in enumerate(changes, start=1):
        experiment.add("bn", "A", seed, provenance=experiment.record("bn", "A")["provenance"] | change)
    sentence = f"Runs differ in {told}, which can change results." if told else ""
    assert load_facts(experiment.out).mixed == sentence


def test_the_order_of_domains_is_known_before_anything_is_finished(experiment: Any) -> None:
    for source in "AWD":
        experiment.plan("bn", source)
    assert list(matrix_of(experiment).mean.columns) == [*COLUMNS, "Avg"]


def test_a_plan_that_cannot_be_read_is_named(experiment: Any) -> None:
    experiment.fill(["bn"])
    (experiment.plan("wa", "A").path / "config.yaml").write_text("label: [torn")
    (experiment.plan("wa", "W").path / "config.yaml").write_text("label: WA")
    first, second = load_facts(experiment.out).unreadable
    assert "wa-A-s0p0-resnet20/config.yaml" in first
    assert second.startswith("wa-W-s0p0-resnet20: ")


def test_a_record_of_a_later_version_does_not_ask_to_run_it_again(experiment: Any) -> None:
    experiment.fill(["bn"])
    path = experiment.out / "runs" / "bn-A-s0p0-resnet20" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    (reason,) = {hole.reason for hole in load_facts(experiment.out).missing}
    assert "has schema 99" in reason and "Rerun" not in reason
    path.write_text("torn")
    (reason,) = {hole.reason for hole in load_facts(experiment.out).missing}
    assert "is damaged" in reason and reason.endswith("Rerun the command.")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"experiment": "other", "epochs": 2}, "epochs: 30 in"),
        ({"protocol": "paper"}, "protocol: full in"),
        ({"size": 64}, "size: 32 in"),
        ({"classes": ["bike", "mug", "pen"]}, "classes:"),
        ({"images": {"A": {"digest": "other", "n": 2817}}}, "images of A: digest of A in"),
    ],
)
@pytest.mark.parametrize(("norm", "seed"), [("bn", 1), ("bn_wa", 0)])
def test_numbers_that_cannot_be_compared_are_refused(
    experiment: Any, change: dict[str, Any], named: str, norm: str, seed: int
) -> None:
    experiment.fill(["bn"])
    other = experiment.add(norm, "A", seed, **change)
    with pytest.raises(DataError, match=r"contains runs with different settings; results are not comparable") as caught:
        load_facts(experiment.out)
    assert named in str(caught.value)
    assert other.id in str(caught.value)
    assert "bn-A-s0p0-resnet20" in str(caught.value)


def test_another_order_of_the_domains_and_another_name_of_the_dataset_are_the_same_experiment(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 30, "D": 20}
    experiment.correct = lambda norm, source, target, seed: 10
    experiment.fill(["bn", "wa"])
    expected = load_facts(experiment.out)
    for run in Store(experiment.out).runs():
        if run.id.startswith("wa"):
            shutil.rmtree(run.path)
    experiment.images = dict(reversed(experiment.images.items()))
    experiment.fill(["wa"], dataset="My images")
    found = load_facts(experiment.out)
    assert (found.matrix.pairs, found.domains) == (expected.matrix.pairs, ["A", "W", "D"])
    assert found.frame.equals(expected.frame)
    text = write_report(experiment.out).summary() + (experiment.out / "page.html").read_text()
    assert "Office-31" in text and "My images" not in text


def test_two_runs_of_one_cell_are_refused(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.add("bn", "A", id="bn-A-s0-ffffffff")
    with pytest.raises(
        DataError, match=r"two runs of BN, A to W, with seed 0: bn-A-s0-ffffffff and bn-A-s0p0-resnet20"
    ):
        load_facts(experiment.out)


def test_two_norms_with_one_label_are_told_apart_by_their_names(experiment: Any) -> None:
    experiment.fill(["bn"])
    experiment.fill(["bn_again"], labels={"norm": "BN"})
    assert list(load_facts(experiment.out).matrix.mean.index) == ["BN (bn)", "BN (bn_again)"]


def test_a_norm_that_was_relabelled_is_one_row(experiment: Any) -> None:
    experiment.fill(["bn"], seeds=[0, 1])
    experiment.fill(["bn"], seeds=[2], labels={"norm": "Batch norm"})
    matrix = load_facts(experiment.out).matrix
    assert list(matrix.mean.index) == ["BN"]
    assert (matrix.seeds == 3).all(axis=None)


def test_no_runs_at_all(experiment: Any) -> None:
    with pytest.raises(DataError, match="There are no runs to report in"):
        load_facts(experiment.out)


def test_runs_of_which_nothing_can_be_read(experiment: Any) -> None:
    (experiment.plan("wa", "A").path / "config.yaml").write_text("label: [torn")
    with pytest.raises(DataError, match=r"no runs to report in .*\n.*wa-A-s0p0-resnet20/config\.yaml"):
        load_facts(experiment.out)


def test_results_without_a_level_share_a_row(experiment: Any) -> None:
    experiment.images = {"A": 40, "W": 40}
    experiment.correct = lambda norm, source, target, seed: 20
    experiment.fill(["bn"])
    experiment.fill(["bn"], method="dann", method_weight=0.5)
    matrix = pivot(load_facts(experiment.out).frame, ["norm", "method_weight"])
    assert len(matrix.mean) == 2
    assert (matrix.mean == 50.0).all(axis=None)


def test_checkpoints_are_listed_once(experiment: Any) -> None:
    experiment.fill(["bn", "wa"], seeds=[0, 1])
    experiment.add("ln", "A", **{"pretraining": None, "pretraining_seed": None, "network": None})
    rows = checkpoints(load_facts(experiment.out))
    assert rows["label"].tolist() == ["WA", "BN"]
    assert rows["error"].tolist() == pytest.approx([100 * (1 - 6002 / 10_000)] * 2)
    assert rows["checkpoint"].tolist() == ["resnet20-cifar100-wa-ab12cd34", "resnet20-cifar100-bn-ab12cd34"]


@pytest.mark.parametrize("factor", ["seed", "run_id"])
def test_what_a_cell_averages_over_is_no_factor_of_a_table(experiment, factor):
    experiment.fill(["bn", "bn_wa"], seeds=[0, 1])
    facts = load_facts(experiment.out)
    with pytest.raises(ConfigError, match=f"'{factor}' differs within a cell"):
        pivot(facts.frame, ["norm"], [factor])
