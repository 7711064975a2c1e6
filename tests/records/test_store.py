from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from da_wa.errors import ConfigError, DataError, DiskFull, NewerVersion
from da_wa.records.files import locked, remove_abandoned, write_atomically, write_json
from da_wa.records.outputs import Outputs, pack
from da_wa.records.schema import Record, parse
from da_wa.records.store import RunDir, Store, claimed
from da_wa.runs.jobs import UnitJob

PLAN = {"lr": 1e-5, "note": "é 😀"}
Raw = Callable[..., dict[str, Any]]
MakeOutputs = Callable[..., Outputs]


def claim(run: RunDir) -> AbstractContextManager[bool]:
    return claimed(run.path / "lease", ".*.part")


def is_finished(run: RunDir) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run.finished


def rewrite(run: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit ``record.json`` in place."""
    path = run.path / "record.json"
    raw = json.loads(path.read_bytes())
    change(raw)
    path.write_text(json.dumps(raw))


def assert_equal(found: Outputs, expected: Outputs) -> None:
    np.testing.assert_array_equal(found.epochs, expected.epochs)
    assert list(found.domains) == list(expected.domains)
    for name, domain in expected.domains.items():
        for field, array in vars(domain).items():
            other = getattr(found.domains[name], field)
            assert (other is None) == (array is None)
            if array is not None:
                assert other.dtype == array.dtype
                np.testing.assert_array_equal(other, array)


# Plans


def test_a_plan_leaves_its_configuration(store: Store) -> None:
    run = store.run("bn-A-s0")
    run.plan(PLAN)
    assert run.path == store.path / "bn-A-s0"
    assert run.config() == PLAN
    assert [r.id for r in store.runs()] == ["bn-A-s0"]
    assert not run.finished
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


def test_an_equal_plan_writes_nothing(run: RunDir) -> None:
    before = (run.path / "config.yaml").stat()
    run.plan(run.config())
    after = (run.path / "config.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_plan_replaces_the_first_until_the_run_is_finished(
    run: RunDir, record: Record, outputs: Outputs
) -> None:
    run.plan(PLAN)
    assert run.config() == PLAN
    run.finish(record, outputs)
    run.plan({**PLAN, "lr": 0.2})
    assert run.config() == PLAN


def test_a_shared_part_is_written_twice_without_yaml_aliases(store: Store) -> None:
    shared = {"lr": 0.1}
    run = store.run("twice")
    run.plan({"first": shared, "second": shared})
    assert "&" not in (run.path / "config.yaml").read_text()


def test_undecodable_names_survive_in_a_plan(run: RunDir, odd: str) -> None:
    plan = run.planned()
    assert plan.domains == ["A", "W", odd]
    assert plan.targets == ["W", odd]
    assert plan.factors.dataset == f"Toy {odd}"
    before = (run.path / "config.yaml").stat().st_ino
    run.plan(run.config())
    assert (run.path / "config.yaml").stat().st_ino == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b"])
def test_a_run_is_one_folder(store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match="not a valid name of a run"):
        store.run(name)


def test_runs_are_ordered_and_folders_without_a_plan_are_ignored(store: Store) -> None:
    for name in ("b", "a", "ä b"):
        store.run(name).plan(PLAN)
    (store.path / "stray").mkdir()
    assert [run.id for run in store.runs()] == ["a", "b", "ä b"]


@pytest.mark.parametrize("text", ["label: [", "", "just words", "\x00", "[" * 100_000, "\udcff"])
def test_a_broken_plan_is_reported(run: RunDir, text: str) -> None:
    (run.path / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"config\.yaml"):
        run.config()


@pytest.mark.parametrize("config", [{}, {"unit": None}, {"unit": {"source": "A"}}, {"norm": "bn", "label": "BN"}])
def test_a_plan_that_says_too_little_is_reported(run: RunDir, config: dict[str, Any]) -> None:
    run.plan(config)
    with pytest.raises(DataError, match=r"config\.yaml"):
        run.planned()


# Finishing and reading


def test_a_finished_run_is_read_as_it_was_written(run: RunDir, record: Record, outputs: Outputs) -> None:
    (run.path / "last.ckpt").write_bytes(b"state")
    write_json(run.path / "failure.json", {"message": "an earlier attempt"})
    written = run.finish(record, outputs)
    assert run.finished
    assert run.record() == written
    assert written.model_copy(update={"outputs": None}) == record
    found = run.load()
    assert found is not None
    assert found[0] == written
    assert_equal(found[1], outputs)
    assert_equal(run.outputs(), outputs)
    assert_equal(run.outputs(written), outputs)
    assert {file.name for file in run.path.iterdir()} == {"config.yaml", "record.json", "outputs.npz"}


def test_a_record_of_a_later_version_is_neither_read_nor_replaced(
    run: RunDir, raw_record: Raw, make_outputs: MakeOutputs
) -> None:
    run.plan(PLAN)
    run.finish(parse(raw_record(), "toy"), make_outputs())
    rewrite(run, lambda raw: raw.update(schema=3))
    before = (run.path / "record.json").read_bytes()
    with pytest.raises(NewerVersion, match=r"record\.json has schema 3; .* reads 1 and 2\. Use the later version"):
        UnitJob(run.id, PLAN, 0.0, run, None).register()
    assert (run.path / "record.json").read_bytes() == before


def test_nothing_is_read_from_an_unfinished_run(run: RunDir) -> None:
    assert run.load() is None
    assert run.verified() is None
    with pytest.raises(DataError, match="no finished run"):
        run.outputs()


def test_each_file_is_read_once(run: RunDir, record: Record, outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    run.finish(record, outputs)
    read, names = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda self: (names.append(self.name), read(self))[1])
    run.load()
    assert sorted(names) == ["outputs.npz", "predictions.npz", "record.json"]  # the second is of schema 1, and absent


def test_a_run_that_diverged_is_finished(run: RunDir, raw_record: Raw) -> None:
    error = {"epoch": 3, "message": "the loss is nan"}
    curve = [{"epoch": 3, "loss": None}]
    record = parse(raw_record(status="diverged", error=error, evaluations=[], curve=curve), "toy")
    run.finish(record, Outputs(np.zeros(0, np.int32)))
    found = run.load()
    assert found is not None
    assert found[0].error is not None
    assert found[0].error.model_dump() == error
    assert found[0].results == []
    assert found[1].domains == {}


def test_costs_may_be_numpy_numbers_and_not_finite(run: RunDir, raw_record: Raw, outputs: Outputs) -> None:
    cost = {"a": [np.float32(0.5), np.int64(3), float("inf"), (np.float64("nan"),)]}
    run.finish(parse(raw_record(cost=cost), "toy"), outputs)
    text = (run.path / "record.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["cost"] == {"a": [0.5, 3, None, [None]]}
    assert run.finished


def test_the_record_of_another_run_cannot_be_written(store: Store, record: Record, outputs: Outputs) -> None:
    run = store.run("bn-W-s0")
    with pytest.raises(ValueError, match="does not belong"):
        run.finish(record, outputs)
    assert not run.finished


# Damage


@pytest.mark.parametrize("name", ["record.json", "outputs.npz"])
@pytest.mark.parametrize("kept", [0, 1, 0.3, 0.9, -1])
def test_a_truncated_file_is_detected_and_the_run_repeated(
    run: RunDir, record: Record, outputs: Outputs, name: str, kept: float
) -> None:
    run.finish(record, outputs)
    file = run.path / name
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.warns(UserWarning, match=name.replace(".", r"\.")):
        assert not run.finished
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        run.verified()
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        run.load()
    run.finish(record, outputs)
    assert run.finished


def test_every_changed_byte_of_the_outputs_is_detected(run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    file = run.path / "outputs.npz"
    content = file.read_bytes()
    for position in range(0, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        assert not is_finished(run)
        with pytest.raises(DataError, match="damaged"):
            run.outputs()


def test_missing_outputs_are_detected(run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    (run.path / "outputs.npz").unlink()
    assert not is_finished(run)
    with pytest.raises(DataError, match=r"outputs\.npz is missing"):
        run.load()


def test_a_record_without_a_checksum_is_refused(run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    rewrite(run, lambda raw: raw.update(outputs=None))
    with pytest.raises(DataError, match="no checksum"):
        run.verified()
    with pytest.raises(DataError, match="no checksum"):
        run.load()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": None}, "has schema None"),
        ({"id": "bn-W-s0"}, "belongs to the run 'bn-W-s0'"),
        ({"status": "running"}, "status"),
        ({"factors": {}}, r"factors\.norm"),
        ({"evaluations": []}, "no evaluation of 'W'"),
        ({"surprise": 1}, "surprise"),
        ({"images": {"A": 3}}, r"images\.A"),
    ],
)
def test_a_foreign_record_is_not_used(
    run: RunDir, record: Record, outputs: Outputs, change: dict[str, Any], reason: str
) -> None:
    run.finish(record, outputs)
    rewrite(run, lambda raw: raw.update(change))
    with pytest.raises(DataError, match=reason):
        run.verified()
    with pytest.warns(UserWarning, match=r"record\.json"):
        assert not run.finished


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"', "[" * 100_000, "\udcff", '{"schema": 1}'])
def test_another_json_file_is_not_used(run: RunDir, text: str) -> None:
    (run.path / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"record\.json"):
        run.verified()


def test_a_copied_folder_is_not_another_run(store: Store, run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    copy = store.run("bn-A-s1")
    copy.plan(PLAN)
    for name in ("record.json", "outputs.npz"):
        (copy.path / name).write_bytes((run.path / name).read_bytes())
    assert not is_finished(copy)


# Counts against outputs


def test_exchanged_outputs_of_two_runs_are_detected(
    store: Store, run: RunDir, record: Record, outputs: Outputs, make_outputs: MakeOutputs, odd: str, raw_record: Raw
) -> None:
    run.finish(record, outputs)
    other = store.run("bn-A-s1")
    other_outputs = make_outputs({"A": ([3, 2], 4), "W": ([1, 4], 6), odd: ([5, 2], 5)})
    moved = {n: replace(d, index=d.index + 1) for n, d in other_outputs.domains.items()}  # equal counts, other images
    other.finish(parse(raw_record(id="bn-A-s1"), "toy"), Outputs(outputs.epochs, moved))
    a, b = run.path / "outputs.npz", other.path / "outputs.npz"
    first, second = a.read_bytes(), b.read_bytes()
    assert first != second
    a.write_bytes(second)
    b.write_bytes(first)
    for exchanged in (run, other):
        with pytest.raises(DataError, match="not the one that"):
            exchanged.verified()


@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("row", range(6))
def test_a_count_that_is_off_by_one_is_refused(
    run: RunDir, record: Record, outputs: Outputs, row: int, step: int
) -> None:
    evaluation = record.evaluations[row]
    if not 0 <= evaluation.correct + step <= evaluation.n:
        step = -step
    run.finish(record, outputs)
    rewrite(run, lambda raw: raw["evaluations"][row].update(correct=evaluation.correct + step))
    reason = f"epoch {evaluation.epoch} .*{evaluation.correct + step} of .*have {evaluation.correct} of "
    for read in (run.load, run.outputs):
        with pytest.raises(DataError, match=reason):
            read()


def test_a_number_of_images_that_is_off_by_one_is_refused(run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    rewrite(run, lambda raw: raw["evaluations"][0].update(n=5))
    with pytest.raises(DataError, match="3 of 5 correct, the stored outputs have 3 of 4"):
        run.load()


@pytest.mark.parametrize("gone", [0, 2])
def test_a_dropped_evaluation_is_refused(run: RunDir, record: Record, outputs: Outputs, gone: int) -> None:
    run.finish(record, outputs)
    rewrite(run, lambda raw: raw["evaluations"].pop(gone))
    with pytest.raises(DataError, match="has nothing, the stored outputs have"):
        run.load()


def test_counts_without_outputs_are_refused(run: RunDir, record: Record, outputs: Outputs) -> None:
    run.finish(record, outputs)
    less = pack(Outputs(outputs.epochs, {"A": outputs.domains["A"]}))
    (run.path / "outputs.npz").write_bytes(less)
    rewrite(run, lambda raw: raw.update(outputs={"crc32": zlib.crc32(less), "bytes": len(less)}))
    with pytest.raises(DataError, match="the stored outputs have nothing"):
        run.load()


def test_wrong_counts_cannot_be_written(run: RunDir, raw_record: Raw, outputs: Outputs) -> None:
    raw = raw_record()
    raw["evaluations"][0]["correct"] -= 1
    with pytest.raises(ValueError, match="2 of 4 correct, the stored outputs have 3 of 4"):
        run.finish(parse(raw, "toy"), outputs)
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


# Interruptions


@pytest.mark.parametrize("dies_at", ["outputs.npz", "record.json"])
def test_an_interruption_while_finishing_leaves_a_run_to_repeat(
    run: RunDir, record: Record, outputs: Outputs, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "last.ckpt").write_bytes(b"state")
    move = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.name == dies_at:
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", die)
        run.finish(record, outputs)
    assert not run.finished
    assert (run.path / "last.ckpt").exists()
    assert not list(run.path.glob(".*"))
    run.finish(record, outputs)
    assert run.finished


KILLED_WHILE_WRITING = """
import os, pathlib, signal, sys
from da_wa.records.files import write_atomically

def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(pathlib.Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("name", ["outputs.npz", "record.json", "last.ckpt"])
def test_a_process_killed_while_writing_leaves_a_run_to_repeat(
    run: RunDir, record: Record, outputs: Outputs, name: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, run.path / name])
    assert done.returncode == -signal.SIGKILL
    assert not (run.path / name).exists()
    assert len(list(run.path.glob(".*.part"))) == 1
    assert not run.finished
    run.finish(record, outputs)
    assert run.finished
    assert {file.name for file in run.path.iterdir()} == {"config.yaml", "record.json", "outputs.npz"}


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(
    run: RunDir, record: Record, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"outputs\.npz: No space left on device.*out=DIR"):
        run.finish(record, outputs)
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


def refusing(number: int) -> Callable[..., None]:
    def acquire(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return acquire


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path / "folder" / "a.npy") as first, locked(tmp_path / "folder" / "a.npy", patience=0) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path / "folder" / "a.npy", patience=0) as again:
        assert again


def test_without_locks_everybody_may_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock.acquire", refusing(errno.ENOLCK))
    with locked(tmp_path / "a.npy") as mine:
        assert mine


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_without_locks_a_machine_that_failed_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file stands for the lock, which nobody would delete."""
    monkeypatch.setattr("fcntl.flock", refusing(errno.ENOSYS))
    with locked(tmp_path / "a.npy") as failed, locked(tmp_path / "a.npy", patience=0) as other:
        assert failed and other


def test_a_full_disk_where_a_lock_should_be_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock.acquire", refusing(errno.ENOSPC))
    with (
        pytest.raises(DiskFull, match=r"Cannot write .*a\.npy: No space left on device\. Buy a disk"),
        locked(tmp_path / "a.npy", advice="Buy a disk"),
    ):
        pass


def test_an_out_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    run = Store(tmp_path / "out").run("a")
    with pytest.raises(DataError, match=r"config\.yaml.*Not a directory"):
        run.plan(PLAN)
    with pytest.raises(DataError, match="Cannot write"), claim(run):
        pass
    assert Store(tmp_path / "out").runs() == []


def test_the_old_content_stays_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, lambda f: f.write(b"old"))

    def half(f: Any) -> None:
        f.write(b"ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(file, half)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_is_read(run: RunDir) -> None:
    assert run.failure() is None
    write_json(run.path / "failure.json", {"message": "a reason\nof two lines \udcff"})
    assert run.failure() == "a reason\nof two lines \udcff"
    assert not run.finished
    for text in ("{", "[]", "{}", "3"):
        (run.path / "failure.json").write_text(text)
        assert "cannot be read" in str(run.failure())
    write_json(run.path / "failure.json", {"message": ""})
    assert run.failure() == "it failed without a message"


# Claims


def test_a_run_is_held_by_one_at_a_time(run: RunDir) -> None:
    with claim(run) as first:
        assert first
        with claim(run) as second:
            assert not second
        with claim(run) as third:  # the refused claim has not freed the first
            assert not third
    with claim(run) as again:
        assert again


def test_an_error_frees_the_run(run: RunDir) -> None:
    with pytest.raises(RuntimeError), claim(run):
        raise RuntimeError
    with claim(run) as mine:
        assert mine


HOLD = """
import pathlib, sys
from da_wa.records.store import claimed

with claimed(pathlib.Path(sys.argv[1]), ".*.part") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_claim_a_run_and_a_killed_one_frees_it(run: RunDir) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path / "lease"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        other = subprocess.run(
            [sys.executable, "-c", HOLD, run.path / "lease"], input="", capture_output=True, text=True
        )
        assert other.stdout == "False\n"
        with claim(run) as mine:
            assert not mine
        process.send_signal(signal.SIGKILL)
        process.wait()
        mine = False
        while not mine:  # pytest's timeout ends a wait without end
            with claim(run) as mine:
                time.sleep(0 if mine else 0.01)
    finally:
        process.kill()
        process.wait()


def test_records_load_neither_torch_nor_pandas() -> None:
    modules = "da_wa.records.store, da_wa.records.export, da_wa.records.identity"
    code = f"import sys, {modules}; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_drafts_of_killed_processes_are_deleted_and_those_of_others_stay(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    host = socket.gethostname()
    gone = tmp_path / f".a.png.{host}.{killed.pid}.0123abcd.part"
    stay = [
        tmp_path / f".a.png.{host}.{os.getpid()}.0123abcd.part",  # still running
        tmp_path / f".a.png.elsewhere.{killed.pid}.0123abcd.part",  # on another machine
        tmp_path / ".a.part",
        tmp_path / "a.png",
    ]
    for path in [gone, *stay]:
        path.touch()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stay)
