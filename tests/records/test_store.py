from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from da_wa.runs.ledger import Ledger, RunDir, write_atomically

from da_wa.errors import ConfigError, DataError

CONFIG = {"norm": "bn", "label": "BN + WA", "source": "A", "targets": ["W"], "seed": 0, "lr": 1e-5, "note": "é 😀"}
PREDICTIONS: dict[str, np.ndarray] = {
    "epochs": np.array([1, 2], np.int32),
    "index_1": np.array([4, 5, 6], np.int32),
    "label_1": np.array([0, 1, 1], np.int16),
    "predicted_1": np.array([[0, 0, 0], [0, 1, 0]], np.int16),
}


def make_record(**changes: Any) -> dict[str, Any]:
    return {
        "status": "finished",
        "norm": "bn",
        "label": "BN",
        "model": "resnet20",
        "seed": 0,
        "protocol": "full",
        "dataset": "Toy",
        "size": 32,
        "source": "A",
        "domains": ["A", "W"],
        "targets": ["W"],
        "classes": ["x", "y"],
        "recipe": "12ab",
        "data": {"A": {"digest": "a", "n": 9}, "W": {"digest": "w", "n": 3}},
        "results": [{"domain": "W", "role": "target", "selection": "last", "epoch": 2, "correct": 2, "n": 3}],
        "curve": [{"epoch": 1, "loss": 0.5}],
    } | changes


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "out")


@pytest.fixture
def run(ledger: Ledger) -> RunDir:
    return ledger.plan("bn-A-s0", CONFIG)


def is_finished(run: RunDir) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run.finished


def test_a_plan_leaves_its_configuration(ledger: Ledger, run: RunDir) -> None:
    assert run.path == ledger.path / "bn-A-s0"
    assert run.config() == CONFIG
    assert [r.id for r in ledger.runs()] == ["bn-A-s0"]
    assert not run.finished
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


def test_an_equal_plan_writes_nothing(ledger: Ledger, run: RunDir) -> None:
    before = (run.path / "config.yaml").stat()
    ledger.plan("bn-A-s0", dict(CONFIG))
    after = (run.path / "config.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_plan_replaces_the_first_until_the_run_is_finished(ledger: Ledger, run: RunDir) -> None:
    ledger.plan("bn-A-s0", {**CONFIG, "lr": 0.1})
    assert run.config()["lr"] == 0.1
    run.finish(make_record(), PREDICTIONS)
    ledger.plan("bn-A-s0", {**CONFIG, "lr": 0.2})
    assert run.config()["lr"] == 0.1


def test_a_part_that_appears_twice_is_written_twice(ledger: Ledger) -> None:
    shared = {"lr": 0.1}
    run = ledger.plan("twice", {"first": shared, "second": shared})
    assert "&" not in (run.path / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b"])
def test_a_run_is_one_folder(ledger: Ledger, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        ledger.plan(name, CONFIG)


def test_runs_are_ordered_and_folders_without_a_plan_are_none(ledger: Ledger) -> None:
    for name in ("b", "a", "ä b"):
        ledger.plan(name, CONFIG)
    (ledger.path / "stray").mkdir()
    assert [run.id for run in ledger.runs()] == ["a", "b", "ä b"]


def test_what_is_finished_comes_back(run: RunDir) -> None:
    (run.path / "last.ckpt").write_bytes(b"state")
    run.fail("an earlier attempt")
    run.finish(make_record(), PREDICTIONS)
    assert run.finished
    record = run.record()
    assert record is not None
    assert {key: record[key] for key in make_record()} == make_record()
    assert (record["schema"], record["id"]) == (1, "bn-A-s0")
    arrays = run.predictions()
    assert set(arrays) == set(PREDICTIONS)
    for name, array in PREDICTIONS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert {file.name for file in run.path.iterdir()} == {"config.yaml", "record.json", "predictions.npz"}


def test_a_run_that_diverged_is_finished(run: RunDir) -> None:
    error = {"epoch": 3, "message": "the loss is nan"}
    run.finish(make_record(status="diverged", error=error, results=[], curve=[{"loss": float("nan")}]), {})
    record = run.record()
    assert record is not None
    assert record["error"] == error
    assert record["curve"] == [{"loss": None}]
    assert run.predictions() == {}


def test_numbers_of_numpy_are_numbers(run: RunDir) -> None:
    run.finish(make_record(extra=[np.float32(0.5), np.int64(3), float("inf"), (np.float64("nan"),)]), {})
    text = (run.path / "record.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["extra"] == [0.5, 3, None, [None]]


def test_a_record_that_lacks_something_is_a_mistake_of_the_program(run: RunDir) -> None:
    record = make_record()
    del record["recipe"]
    with pytest.raises(ValueError, match="recipe"):
        run.finish(record, PREDICTIONS)
    assert not run.finished


@pytest.mark.parametrize("name", ["record.json", "predictions.npz"])
@pytest.mark.parametrize("kept", [0, 1, 0.3, 0.9, -1])
def test_a_torn_file_is_noticed_and_run_again(run: RunDir, name: str, kept: float) -> None:
    run.finish(make_record(), PREDICTIONS)
    file = run.path / name
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.warns(UserWarning, match=name.replace(".", r"\.")):
        assert not run.finished
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        run.verified()
    run.finish(make_record(), PREDICTIONS)
    assert run.finished


def test_every_changed_byte_of_the_predictions_is_noticed(run: RunDir) -> None:
    run.finish(make_record(), PREDICTIONS)
    file = run.path / "predictions.npz"
    content = file.read_bytes()
    for position in range(0, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        assert not is_finished(run)
        with pytest.raises(DataError, match="torn"):
            run.predictions()


def test_predictions_that_are_gone_are_noticed(run: RunDir) -> None:
    run.finish(make_record(), PREDICTIONS)
    (run.path / "predictions.npz").unlink()
    assert not is_finished(run)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "its schema is 2"),
        ({"schema": None}, "its schema is None"),
        ({"id": "bn-W-s0"}, "it belongs to the run 'bn-W-s0'"),
        ({"status": "running"}, "its status is 'running'"),
        ({"seed": "0"}, "seed"),
        ({"results": []}, "no result for W"),
        ({"source": "C"}, "C not among its domains"),
        ({"data": {"A": 3}}, "no digest"),
        ({"results": [{"domain": "W", "role": "target", "selection": "last", "correct": 4, "n": 3}]}, "4 of 3"),
        ({"results": [{"domain": "W", "role": "target", "selection": "last", "correct": 0, "n": 0}]}, "0 of 0"),
        ({"results": [{"domain": "W"}]}, "a result reads"),
    ],
)
def test_a_record_that_is_not_ours_is_not_used(run: RunDir, change: dict[str, Any], reason: str) -> None:
    run.finish(make_record(), PREDICTIONS)
    path = run.path / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=reason):
        run.verified()
    with pytest.warns(UserWarning, match=r"record\.json"):
        assert not run.finished


def test_a_copied_folder_is_not_another_run(ledger: Ledger, run: RunDir) -> None:
    run.finish(make_record(), PREDICTIONS)
    copy = ledger.plan("bn-A-s1", CONFIG)
    for name in ("record.json", "predictions.npz"):
        (copy.path / name).write_bytes((run.path / name).read_bytes())
    assert not is_finished(copy)


@pytest.mark.parametrize("dies_at", ["predictions.npz", "record.json"])
def test_a_death_while_finishing_leaves_a_run_to_repeat(
    run: RunDir, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "last.ckpt").write_bytes(b"state")
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.name == dies_at:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run.finish(make_record(), PREDICTIONS)
    monkeypatch.undo()
    assert not run.finished
    assert (run.path / "last.ckpt").exists()
    assert not list(run.path.glob(".*"))
    run.finish(make_record(), PREDICTIONS)
    assert run.finished


def test_a_full_disk_is_told_and_leaves_nothing_half_written(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"predictions\.npz: No space left on device.*out=DIR"):
        run.finish(make_record(), PREDICTIONS)
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match=r"config\.yaml.*Not a directory"):
        Ledger(tmp_path / "out").plan("a", CONFIG)


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, lambda f: f.write(b"old"))

    def half(f: Any) -> None:
        f.write(b"ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(file, half)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_is_noted_and_read(run: RunDir) -> None:
    assert run.failure() is None
    run.fail("a reason\nof two lines")
    assert run.failure() == "a reason\nof two lines"
    assert not run.finished
    (run.path / "failure.json").write_text("{")
    assert "cannot be read" in str(run.failure())


@pytest.mark.parametrize("text", ["label: [", "", "just words", "\x00"])
def test_a_broken_plan_is_told(run: RunDir, text: str) -> None:
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        run.config()


def test_a_run_is_held_by_one_at_a_time(run: RunDir) -> None:
    with run.claim() as first:
        assert first
        with RunDir(run.path).claim() as second:
            assert not second
        with RunDir(run.path).claim() as third:  # the refused claim has not freed the first
            assert not third
    with run.claim() as again:
        assert again


def test_an_error_frees_the_run(run: RunDir) -> None:
    with pytest.raises(RuntimeError), run.claim():
        raise RuntimeError
    with run.claim() as mine:
        assert mine


def test_a_killed_process_frees_the_run(run: RunDir) -> None:
    code = (
        "import pathlib, sys, time; from da_wa.runs.ledger import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).claim() as mine: print(mine, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, run.path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with run.claim() as mine:
            assert not mine
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline, mine = time.monotonic() + 5, False
        while not mine and time.monotonic() < deadline:
            with run.claim() as mine:
                pass
        assert mine
    finally:
        process.kill()
        process.wait()


def test_the_ledger_does_not_load_torch() -> None:
    code = "import sys, da_wa.runs.ledger; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
