from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.errors import ConfigError, DataError
from da_wa.records import migrate
from da_wa.records.design import Design, read_design, write_design
from da_wa.records.export import export
from da_wa.records.outputs import Outputs
from da_wa.records.schema import Record, parse
from da_wa.records.store import RunDir, Store

RESULTS = Path(__file__).resolve().parents[2] / "results"


def frame(store: Store) -> list[dict[str, Any]]:
    """One row a result, as a report makes them."""
    records = [record for run in store.runs() if (record := run.record()) is not None]
    return [
        {"id": record.id, "labels": record.labels} | record.factors.model_dump() | row.model_dump()
        for record in records
        for row in record.results
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(store: Store, run: RunDir, record: Record, outputs: Outputs) -> Path:
    """An ``out`` folder with a finished unit, one that diverged, and a planned one."""
    run.finish(record, outputs)
    (run.path / "weights.safetensors").write_bytes(b"weights")
    (run.path / "lock").touch()
    diverged = store.run("bn-A-s1")
    diverged.plan(run.config())
    error = {"epoch": 1, "message": "the loss is nan"}
    changes = {"id": "bn-A-s1", "status": "diverged", "evaluations": [], "error": error, "outputs": None}
    diverged.finish(parse(record.model_dump(by_alias=True) | changes, "toy"), Outputs(np.zeros(0, np.int32)))
    store.run("bn-A-s2").plan(run.config())
    return store.path.parent


def test_an_export_of_a_study_has_all_its_folders(out: Path, tmp_path: Path) -> None:
    design = {"study": "s", "scope": "full", "title": "T", "factors": {"norm": ["bn"]}, "rows": ["norm"]}
    whole, to = tmp_path / "whole", tmp_path / "to"
    for folder in ("64", "1"):
        shutil.copytree(out, whole / folder)
    write_design(whole, Design(**design, columns=[], folders=["64", "1"]))
    assert [copy.id for copy in export(whole, to)] == ["bn-A-s0", "bn-A-s1"] * 2
    assert read_design(to) == read_design(whole)
    for folder in ("64", "1"):
        assert frame(Store(to / folder)) == frame(Store(out))


def test_an_export_gives_the_same_results_without_what_is_large(out: Path, tmp_path: Path, odd: str) -> None:
    to = tmp_path / "to"
    assert [copy.id for copy in export(out, to)] == ["bn-A-s0", "bn-A-s1"]
    assert frame(Store(to)) == frame(Store(out))
    assert frame(Store(to)) != []
    assert set(files(to)) == {
        f"runs/{run}/{name}" for run in ("bn-A-s0", "bn-A-s1") for name in ("config.yaml", "record.json", "outputs.npz")
    }
    before, after = Store(out).run("bn-A-s0"), Store(to).run("bn-A-s0")
    assert after.planned() == before.planned()
    for name, domain in before.outputs().domains.items():
        copy = after.outputs().domains[name]
        np.testing.assert_array_equal(copy.predicted, domain.predicted)
        np.testing.assert_array_equal(copy.confidence, domain.confidence)
        assert copy.logits is None
        assert copy.features is None
    one, other = (run.verified() for run in (before, after))
    assert one is not None
    assert other is not None
    assert other.model_copy(update={"outputs": None}) == one.model_copy(update={"outputs": None})


def test_no_folder_of_the_machine_is_exported(out: Path, tmp_path: Path, run: RunDir) -> None:
    path = run.path / "config.yaml"
    path.write_text(path.read_text() + "start: /home/me/networks/bn.safetensors\n")
    record = run.path / "record.json"
    assert '"command"' not in record.read_text()
    raw = json.loads(record.read_text())
    raw["provenance"]["command"] = "run_office31.py data.root=/home/me/office31 'out=/home/me/out/a'"
    record.write_text(json.dumps(raw))
    export(out, tmp_path / "to")
    copy = Store(tmp_path / "to").run(run.id)
    assert not any(b"home" in content for content in files(copy.path).values())
    assert copy.config()["start"] == "bn.safetensors"
    assert copy.record().provenance["command"] == "run_office31.py data.root=office31 'out=a'"


def test_exporting_again_gives_the_same_files_and_adds_new_ones(
    out: Path, tmp_path: Path, record: Record, outputs: Outputs
) -> None:
    to = tmp_path / "to"
    export(out, to)
    before = files(to)
    export(out, to)
    assert files(to) == before
    Store(out).run("bn-A-s2").finish(record.model_copy(update={"id": "bn-A-s2"}), outputs)
    export(out, to)
    after = files(to)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3


def test_an_export_changes_nothing_in_its_source(out: Path, tmp_path: Path) -> None:
    before = files(out)
    export(out, tmp_path / "to")
    assert files(out) == before


def test_an_export_can_be_exported(out: Path, tmp_path: Path) -> None:
    export(out, tmp_path / "one")
    export(tmp_path / "one", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("to", ["out", "out/", "out/runs", "out/published", "out/../out", "link"])
def test_a_folder_is_not_exported_into_itself(out: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "link").symlink_to(out)
    before = files(out)
    with pytest.raises(ConfigError, match="outside"):
        export(out, tmp_path / to)
    assert files(out) == before


def test_a_file_in_place_of_the_folder_is_named(out: Path, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("mine")
    with pytest.raises(ConfigError, match=r"to is a file\. Choose a folder"):
        export(out, tmp_path / "to")
    assert (tmp_path / "to").read_text() == "mine"


def test_a_folder_without_finished_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished runs"):
        export(tmp_path / "nowhere", tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_two_experiments_are_not_exported_to_one_folder(
    out: Path, tmp_path: Path, record: Record, outputs: Outputs
) -> None:
    export(out, tmp_path / "to")
    other = Store(tmp_path / "other").run("bn-A-s7")
    other.plan(Store(out).run("bn-A-s0").config())
    other.finish(record.model_copy(update={"id": "bn-A-s7", "experiment": "0" * 8}), outputs)
    before = files(tmp_path / "to")
    with pytest.raises(ConfigError, match="has runs of another experiment"):
        export(tmp_path / "other", tmp_path / "to")
    assert files(tmp_path / "to") == before
    (tmp_path / "to" / "runs" / "bn-A-s1" / "record.json").write_text("{")  # of an interrupted export
    export(out, tmp_path / "to")
    assert files(tmp_path / "to") == before


def test_a_unit_that_cannot_be_trusted_is_not_exported(out: Path, tmp_path: Path) -> None:
    path = Store(out).run("bn-A-s0").path / "record.json"
    path.write_text(path.read_text().replace('"correct": 3', '"correct": 2'))
    with pytest.raises(DataError, match="2 of 4 correct, the stored outputs have 3 of 4"):
        export(out, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_target_that_cannot_be_written_is_reported(out: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "runs").write_text("a file")
    with pytest.raises(DataError, match="Not a directory"):
        export(out, tmp_path / "to")


def test_units_of_schema_1_become_schema_2(tmp_path: Path) -> None:
    old = sorted(path.parent for path in RESULTS.glob("*/runs/*/" + migrate.OUTPUTS))[:3]
    if not old:
        pytest.skip("results/ has no records of schema 1")
    for folder in old:
        shutil.copytree(folder, tmp_path / "out" / "runs" / folder.name)
    copies = export(tmp_path / "out", tmp_path / "to")
    assert [copy.id for copy in copies] == [folder.name for folder in old]
    assert frame(Store(tmp_path / "to")) == frame(Store(tmp_path / "out"))
    for folder, copy in zip(old, copies, strict=True):
        assert '"schema": 2' in (copy.path / "record.json").read_text()
        assert not (copy.path / migrate.OUTPUTS).exists()
        assert copy.planned() == RunDir(folder).planned()
        assert (copy.path / "outputs.npz").stat().st_size < (folder / migrate.OUTPUTS).stat().st_size / 2
    export(tmp_path / "to", tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "to")
