"""Schema 1, on the results that are committed and on the networks that are shipped."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import da_wa
from da_wa.errors import DataError
from da_wa.records import migrate
from da_wa.records.identity import network_name
from da_wa.records.networks import rename_networks
from da_wa.records.schema import Record
from da_wa.records.store import RunDir, Store

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_1 = [
    path.parent
    for path in sorted(ROOT.glob("results/**/runs/*/record.json"))
    if (path.parent / migrate.OUTPUTS).exists()
]
ONE = ROOT / "results/office31_resnet20_6_epochs/runs/gn-D-s0-feb914f3"
NETWORKS = sorted((Path(da_wa.__file__).parent / "checkpoints").glob("*.safetensors"))
needs_results = pytest.mark.skipif(not SCHEMA_1, reason="results/ is not part of the installed package")


def raw(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "record.json").read_bytes())
    return found


@needs_results
def test_every_committed_record_is_readable_and_agrees_with_its_predictions() -> None:
    for folder in SCHEMA_1:
        old, run = raw(folder), RunDir(folder)
        found = run.load()
        assert found is not None
        record, outputs = found
        assert [row.model_dump() for row in record.results] == old["results"], folder
        assert record.targets == old["targets"]
        assert record.labels["norm"] == old["label"]
        assert record.experiment == old["recipe"]
        assert [row.model_dump(exclude_none=True, exclude_defaults=True) for row in record.curve] == old["curve"]
        assert run.planned().factors == record.factors
        assert run.planned().targets == record.targets
        with np.load(folder / migrate.OUTPUTS) as arrays:
            for k, name in enumerate(old["domains"]):
                domain = outputs.domains[name]
                for new, before in (
                    ("index", "index"),
                    ("labels", "label"),
                    ("predicted", "predicted"),
                    ("confidence", "confidence"),
                    ("feature_index", "feature_index"),
                ):
                    np.testing.assert_array_equal(getattr(domain, new), arrays.get(f"{before}_{k}"))
                features = None if domain.features is None else domain.features[-1]  # by epoch since then
                np.testing.assert_array_equal(features, arrays.get(f"feature_{k}"))
            for row in old["evaluations"]:  # counted from the arrays themselves
                k = old["domains"].index(row["domain"])
                epoch = list(arrays["epochs"]).index(row["epoch"])
                right = arrays[f"predicted_{k}"][epoch] == arrays[f"label_{k}"]
                assert (right.sum(), len(right)) == (row["correct"], row["n"])


@needs_results
def test_factors_of_committed_records() -> None:
    levels = {
        record.factors.norm: (record.factors.weight, record.factors.activation)
        for record in map(Record.model_validate, (RunDir(folder).verified() for folder in SCHEMA_1))
    }
    assert levels == {
        "bn": ("plain", "bn"),
        "bn_wa": ("align", "bn"),
        "gn": ("plain", "gn"),
        "gn_wa": ("align", "gn"),
        "ln": ("plain", "ln"),
        "ln_wa": ("align", "ln"),
        "in": ("plain", "in"),
        "in_wa": ("align", "in"),
        "wa": ("align", "none"),
        "none": ("plain", "none"),
    }


@pytest.fixture
def unit(tmp_path: Path) -> RunDir:
    """A copy of one committed run."""
    if ONE not in SCHEMA_1:
        pytest.skip(f"{ONE} is not there, or no longer of schema 1")
    folder = tmp_path / "out" / "runs" / ONE.name
    shutil.copytree(ONE, folder)
    return RunDir(folder)


def test_the_factors_of_one_record(unit: RunDir) -> None:
    assert unit.id == "gn-D-s0-feb914f3"
    record = unit.verified()
    assert record is not None
    assert record.factors.model_dump() == {
        "norm": "gn",
        "weight": "plain",
        "activation": "gn",
        "method": "none",
        "method_weight": None,
        "model": "resnet20",
        "dataset": "Office-31",
        "protocol": "full",
        "size": 32,
        "batch_size": 64,
        "epochs": 12,
        "lr": 0.05,
        "seed": 0,
        "pretraining": "cifar100",
        "pretraining_epochs": 6,
        "pretraining_seed": 0,
    }
    assert record.provenance["commit"] == raw(unit.path)["environment"]["commit"]
    assert record.provenance["started"] == raw(unit.path)["started"]
    assert record.cost["train_s"] == 10.31
    assert record.cost["peak_memory_mb"] == 1174.7


def rewrite(unit: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    record = raw(unit.path)
    change(record)
    (unit.path / "record.json").write_text(json.dumps(record))


def add_one(rows: list[dict[str, Any]], **where: Any) -> None:
    for row in rows:
        row["correct"] += all(row[key] == value for key, value in where.items())


@pytest.mark.parametrize("number", range(8))
def test_a_changed_result_is_detected(unit: RunDir, number: int) -> None:
    rewrite(unit, lambda record: add_one(record["results"][number : number + 1]))
    with pytest.raises(DataError, match="do not follow from its evaluations"):
        unit.verified()


def test_a_count_changed_in_results_and_evaluations_is_detected(unit: RunDir) -> None:
    def change(record: dict[str, Any]) -> None:
        add_one(record["evaluations"], epoch=12, domain="A")
        add_one(record["results"], epoch=12, domain="A")

    rewrite(unit, change)
    assert unit.verified() is not None  # consistent in itself
    with pytest.raises(DataError, match="167 of 2817 correct, the stored outputs have 166 of 2817 correct"):
        unit.load()


def test_predictions_of_another_run_are_detected(unit: RunDir) -> None:
    (unit.path / migrate.OUTPUTS).write_bytes((SCHEMA_1[0] / migrate.OUTPUTS).read_bytes())
    with pytest.raises(DataError, match=r"predictions\.npz is damaged or not the one"):
        unit.verified()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("results"),
        lambda record: record.pop("predictions"),
        lambda record: record.pop("seed"),
        lambda record: record.update(results=3),
        lambda record: record.update(results=[[]]),
        lambda record: record.update(data=[1]),
        lambda record: record.update(data={"A": 3}),
        lambda record: record.update(pretrain=3),
        lambda record: record.update(environment=[1]),
        lambda record: record.update(timing=[1]),
        lambda record: record.update(evaluations=[{"domain": "A"}]),
        lambda record: record.update(domains="AWD"),
        lambda record: record.update(status="running"),
    ],
)
def test_a_broken_record_of_schema_1_is_reported(unit: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(unit, change)
    with pytest.raises(DataError, match=r"record\.json"):
        unit.verified()


@pytest.mark.parametrize(
    "details", [3, [], {"finetune": 3}, {"finetune": {"optimizer": 3}}, {"pretrain": {"recipe": 3}}]
)
def test_a_broken_plan_of_schema_1_is_reported(unit: RunDir, details: Any) -> None:
    (unit.path / "record.json").unlink()
    unit.plan(unit.config() | {"details": details})
    if details == []:
        assert unit.planned().factors.epochs is None
        return
    with pytest.raises(DataError, match=r"config\.yaml"):
        unit.planned()


def test_a_diverged_run_of_schema_1(unit: RunDir) -> None:
    error = {"epoch": 2, "message": "the loss is nan"}
    with (unit.path / migrate.OUTPUTS).open("wb") as file:
        np.savez_compressed(file)
    content = (unit.path / migrate.OUTPUTS).read_bytes()
    checksum = {"crc32": zlib.crc32(content), "bytes": len(content)}
    rewrite(
        unit,
        lambda record: record.update(status="diverged", error=error, results=[], evaluations=[], predictions=checksum),
    )
    found = unit.load()
    assert found is not None
    assert found[0].error is not None
    assert found[0].error.epoch == 2
    assert found[0].results == []
    assert found[1].domains == {}


def test_an_unfinished_run_has_a_plan(unit: RunDir) -> None:
    (unit.path / "record.json").unlink()
    plan = unit.planned()
    assert (plan.source, plan.target, plan.targets, plan.labels["norm"]) == ("D", None, ["A", "W"], "GN")
    assert (plan.factors.lr, plan.factors.pretraining_epochs) == (0.05, 6)
    assert [run.id for run in Store(unit.path.parents[1]).runs()] == [unit.id]


def test_a_norm_of_the_users_own_has_its_own_levels() -> None:
    config = {"norm": "mine", "label": "M", "model": "m", "dataset": "D", "protocol": "full", "size": 8, "seed": 0}
    plan = migrate.plan({**config, "source": "A", "targets": ["W"]}, "toy")
    assert (plan.factors.weight, plan.factors.activation) == ("mine", "mine")
    assert plan.domains == ["A", "W"]


# Networks


OLD_HEADER = {
    "dataset": "CIFAR-100",
    "dtype": "float16",
    "model": {
        "name": "resnet20",
        "gain_init": "one",
        "build": {
            "_partial_": True,
            "_target_": "da_wa.models.resnet.ResNet",
            "block": {"_target_": "hydra.utils.get_class", "path": "da_wa.models.resnet.BasicBlock"},
            "depths": [3, 3, 3],
            "gain_init": "one",
            "widths": [16, 32, 64],
        },
    },
    "norm": {
        "_target_": "da_wa.norm.spec.Norm",
        "activation": {"_partial_": True, "_target_": "da_wa.norm.spec.group_norm", "groups": 32},
        "conv": {"_partial_": True, "_target_": "da_wa.norm.weight_align.WeightAlignConv2d"},
        "label": "GN + WA",
    },
    "normalise": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "recipe": {
        "augment": {"_target_": "da_wa.data.augment.Augment", "crop": 0.125, "erase": 0.0, "flip": True},
        "batch_size": 128,
        "epochs": 6,
        "label_smoothing": 0.0,
        "optimizer": {"_partial_": True, "_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
        "schedule": {"_partial_": True, "_target_": "da_wa.train.schedule.one_cycle"},
    },
    "seed": 0,
    "size": 32,
}

FACTS = {
    "norm": {"name": "gn_wa", "version": 1, "activation": {"groups": 32}},
    "model": {
        "version": 1,
        "name": "resnet20",
        "gain_init": "one",
        "build": {"block": "basic", "depths": [3, 3, 3], "gain_init": "one", "widths": [16, 32, 64]},
    },
    "dataset": "CIFAR-100",
    "size": 32,
    "recipe": {
        "augment": {"crop": 0.125, "erase": 0.0, "flip": True},
        "batch_size": 128,
        "epochs": 6,
        "label_smoothing": 0.0,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "schedule": {"name": "one_cycle"},
    },
    "normalize": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "dtype": "float16",
    "seed": 0,
}


def test_the_facts_in_a_header_of_schema_1() -> None:
    assert migrate.network(OLD_HEADER, "gn_wa") == FACTS
    assert migrate.network({**OLD_HEADER, "images": {"train": "1"}}, "gn_wa") == FACTS | {"images": {"train": "1"}}


def written(folder: Path, name: str, recipe: dict[str, Any]) -> Path:
    """A small network whose file has a header of schema 1."""
    path = folder / f"{name}.safetensors"
    result = {"correct": 3, "n": 4, "epochs": 6, "timing": {"floor_s": 1.5}, "environment": {"torch": "2.15.0"}}
    weights = {"stem.weight": np.arange(5, dtype=np.float16), "head.bias": np.ones((2, 3), np.float32)}
    save_file(weights, path, {"recipe": json.dumps(recipe), "result": json.dumps(result)})
    return path


def test_networks_are_renamed_once_and_keep_their_weights(tmp_path: Path) -> None:
    old = written(tmp_path, "resnet20-cifar100-gn_wa-f339226c", OLD_HEADER)
    weights = load_file(old)
    new = tmp_path / f"{network_name('cifar100', FACTS)}.safetensors"
    assert rename_networks(tmp_path) == {old: new}
    assert [path.name for path in tmp_path.iterdir()] == [new.name]
    with safe_open(new, "np") as file:
        assert json.loads(file.metadata()["facts"]) == FACTS
        result = json.loads(file.metadata()["result"])
    assert (result["correct"], result["cost"], result["provenance"]) == (
        3,
        {"compute_bound_s": 1.5},
        {"torch": "2.15.0"},
    )
    for name, array in load_file(new).items():
        assert array.dtype == weights[name].dtype
        np.testing.assert_array_equal(array, weights[name])
    assert rename_networks(tmp_path) == {}


def test_a_header_of_schema_1_becomes_that_of_a_shipped_network() -> None:
    """Apart from epochs and learning rate, the recipe that shipped in schema 1 is what every file now says."""
    assert len(NETWORKS) == 10
    rates = yaml.safe_load((ROOT / "conf" / "pretrain" / "cifar100_short.yaml").read_text())["rates"]
    for path in NETWORKS:
        with safe_open(path, "np") as file:
            facts = json.loads(file.metadata()["facts"])
        norm = facts["norm"]["name"]
        old = deepcopy(OLD_HEADER)
        old["recipe"]["epochs"] = 20  # type: ignore[index]
        old["recipe"]["optimizer"] |= {"weight_decay": 5e-4, "lr": rates[norm]}  # type: ignore[index]
        groups = {"groups": 32} if norm.startswith("gn") else {}
        assert facts == migrate.network({**old, "norm": {"activation": groups}}, norm)
        assert path.stem == network_name("cifar100", facts)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.safetensors").write_bytes(b"not a network")
    save_file({"a": np.zeros(1)}, tmp_path / "mine.safetensors", {"facts": "{}", "result": "{}"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert rename_networks(tmp_path) == {}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_network_whose_name_does_not_say_its_norm(tmp_path: Path) -> None:
    written(tmp_path, "network", OLD_HEADER)
    with pytest.raises(DataError, match="MODEL-DATASET-NORM"):
        rename_networks(tmp_path)


def test_a_users_own_callables_keep_their_path() -> None:
    own = {
        "optimizer": {"_target_": "my.AdamW", "_partial_": True, "lr": 0.1},
        "schedule": {"_target_": "my.cosine"},
        "augment": {"_target_": "my.Augment", "crop": 0.1},
    }
    assert migrate.recipe(own) == {
        "optimizer": {"name": "my.AdamW", "lr": 0.1},
        "schedule": {"name": "my.cosine"},
        "augment": {"name": "my.Augment", "crop": 0.1},
    }
    block = {"_target_": "hydra.utils.get_class", "path": "my.BasicBlock"}
    model = {**OLD_HEADER["model"], "build": {"block": block}}
    assert migrate.network({**OLD_HEADER, "model": model}, "gn")["model"]["build"] == {"block": "my.BasicBlock"}


@pytest.mark.parametrize(
    "change", [{"norm": 3}, {"model": {}}, {"recipe": {"optimizer": {"lr": 1}}}, {"recipe": 3}, {"normalise": 3}]
)
def test_a_broken_header_is_reported(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="header"):
        migrate.network({**OLD_HEADER, **change}, "gn")
    for gone in change:
        with pytest.raises(DataError, match=f"header.*{gone}"):
            migrate.network({key: value for key, value in OLD_HEADER.items() if key != gone}, "gn")
