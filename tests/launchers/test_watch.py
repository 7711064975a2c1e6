"""Status and watch show what is on disk and what workers told."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from da_wa.errors import DataError
from da_wa.launchers.events import Event, Reader, following, writer
from da_wa.launchers.watch import Watch, watch
from da_wa.records.design import Design, write_design
from da_wa.records.store import Store
from da_wa.runs.jobs import PretrainJob, UnitJob


def unit(out: Path, name: str, start: Path | None = None) -> UnitJob:
    run = Store(out).run(name)
    run.plan({"start": None if start is None else str(start)})
    return UnitJob(name, {}, 1.0, run, start)


@pytest.fixture
def at(monkeypatch):
    """Sets the clock of events."""

    def at(seconds: float) -> None:
        monkeypatch.setattr("da_wa.launchers.events.time.time", lambda: seconds)

    return at


def finish(job: UnitJob) -> None:
    """A record that only its reader's verdict matters of."""
    (job.directory.path / "record.json").write_text("{}")


def test_the_folder_of_a_study_stands_for_those_of_its_experiments(tmp_path):
    design = {"study": "s", "scope": "full", "title": "T", "factors": {"norm": ["bn"]}, "rows": ["norm"]}
    write_design(tmp_path, Design(**design, columns=[], folders=["64", "1"]))
    unit(tmp_path / "64", "a")
    with unit(tmp_path / "1", "b").claim():
        emit = writer(tmp_path / "1", "one")
        emit(Event("start", "b"))
        emit(Event("epoch", "b", 1, 4))
        summary, line = Watch(tmp_path).lines()
    assert summary == "2 runs: 1 running, 1 ready"
    assert line.startswith("running  b, on ") and "epoch 1 of 4" in line


def test_a_network_that_cannot_be_read_is_named_and_hides_nothing_else(tmp_path):
    unit(tmp_path, "a", tmp_path / "net.safetensors")
    (tmp_path / "net.diverged.json").mkdir()
    summary, told = Watch(tmp_path).lines()
    assert summary == "1 run: 1 waiting"
    assert told.startswith("failed  net: ") and "cannot be read" in told


def test_what_runs_where_how_fast_and_the_time_left(tmp_path, at, monkeypatch):
    done, running, ready = (unit(tmp_path, name) for name in "abc")
    monkeypatch.setattr(UnitJob, "outcome", UnitJob.peek)
    emit = writer(tmp_path, "one", "out/slurm/7_0_log.err")
    at(1000.0)
    emit(Event("start", "a"))
    at(1040.0)
    emit(Event("done", "a"))
    finish(done)
    emit(Event("start", "b"))
    at(1043.0)
    emit(Event("epoch", "b", 1, 4))
    at(1063.0)
    emit(Event("epoch", "b", 2, 4))
    with running.claim():
        summary, line = Watch(tmp_path).lines()
    # a took 40 s; half of b and all of c are left, for one worker
    assert summary == "3 runs: 1 done, 1 running, 1 ready; about 60 s left"
    assert line.startswith("running  b, on ")
    assert line.endswith("epoch 2 of 4, 20.0 s per epoch, output in out/slurm/7_0_log.err")
    assert Watch(tmp_path).lines() == ["3 runs: 1 done, 2 ready"]
    assert ready.state() == running.state()


def test_a_pretraining_that_units_wait_for_is_shown(tmp_path):
    network = PretrainJob("net", {}, 1.0, tmp_path / "networks" / "net.safetensors")
    network.register()
    for name in "ab":
        unit(tmp_path, name, network.path)
    with network.claim():
        summary, line = Watch(tmp_path).lines()
    assert summary == "2 runs: 2 waiting"
    assert line.startswith("running  net, on ")
    network.fail("no memory")
    assert Watch(tmp_path).lines() == ["2 runs: 2 waiting", "failed  net: no memory"]


def test_a_unit_whose_plan_cannot_be_read_is_shown_beside_the_others(tmp_path):
    unit(tmp_path, "a")
    (unit(tmp_path, "b").directory.path / "config.yaml").write_text("start: [")
    summary, line = Watch(tmp_path).lines()
    assert summary == "2 runs: 1 ready, 1 failed"
    assert line.startswith("failed  b: ") and "config.yaml is not valid YAML" in line
    assert line.endswith("Restore it, or move its folder away to run the unit again.")


def test_watch_ends_with_the_last_unit_and_leaves_the_final_state(tmp_path):
    job = unit(tmp_path, "a")
    console = Console(file=io.StringIO(), width=200)
    watcher = threading.Thread(target=watch, args=(tmp_path, console, 0.01))
    with job.claim():
        watcher.start()
        time.sleep(0.1)
        assert watcher.is_alive()
        job.fail("no memory")
    watcher.join(timeout=60)
    assert not watcher.is_alive()
    assert console.file.getvalue().splitlines()[-2:] == ["1 run: 1 failed", "failed  a: no memory"]


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no runs"):
        watch(tmp_path, Console(file=io.StringIO()))


def test_events_are_read_once_and_torn_lines_later(tmp_path):
    writer(tmp_path, "one")(Event("start", "a"))
    reader, fresh = Reader(tmp_path), Reader(tmp_path, new=True)
    assert [event.job for event in reader.read()] == ["a"]
    assert reader.read() == fresh.read() == []
    other = tmp_path / "events" / "host-1.jsonl"
    other.write_bytes(b'{"kind": "done", "job": "b", "unknown": 1}\nnot json\n[]\n{"kind": "sta')
    assert [event.job for event in reader.read()] == ["b"]
    with other.open("ab") as file:
        file.write(b'rt", "job": "c"}\n')
    assert [(event.kind, event.job) for event in reader.read()] == [("start", "c")]
    assert [event.job for event in fresh.read()] == ["b", "c"]


def test_events_of_all_workers_are_followed_to_the_last(tmp_path):
    found: list[Event] = []
    with following(tmp_path, found.append):
        for worker in ("x-1", "y-2"):
            folder = tmp_path / "events"
            folder.mkdir(exist_ok=True)
            (folder / f"{worker}.jsonl").write_text(json.dumps({"kind": "done", "job": worker}) + "\n")
    assert sorted(event.job for event in found) == ["x-1", "y-2"]


def test_a_disk_that_is_full_does_not_stop_a_worker_when_it_tells(tmp_path):
    (tmp_path / "events").write_text("a file where the folder should be")
    writer(tmp_path, "one")(Event("start", "a"))
    assert Reader(tmp_path).read() == []
