"""Jobs are run once each, in order of need, whoever runs them and whatever fails."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
import torch

from da_wa.data.folders import from_folders
from da_wa.errors import ConfigError, UserError
from da_wa.launchers import local
from da_wa.launchers.events import Event, Reader
from da_wa.launchers.local import Local
from da_wa.launchers.worker import Launch, _images_are_known, run_worker, work
from da_wa.runs.execute import execute
from tests.launchers.fakes import fake, ran

pytestmark = pytest.mark.timeout(600)


def launch(jobs, name: str | None = None) -> list[Event]:
    events: list[Event] = []
    work(jobs, execute, events.append, name or uuid.uuid4().hex)
    return events


def command(jobs, folder: Path, **options) -> list[Event]:
    """Run with the local launcher; returns all events."""
    Local(threads=1, **options)(Launch(uuid.uuid4().hex, jobs, folder))
    return Reader(folder).read()


def test_what_is_needed_comes_first(tmp_path):
    events = launch([fake("fine", tmp_path, needs="pre"), fake("pre", tmp_path)])
    assert ran(tmp_path) == ["pre", "fine"]
    assert [(e.kind, e.job) for e in events] == [
        ("start", "pre"), ("epoch", "pre"), ("done", "pre"), ("start", "fine"), ("epoch", "fine"), ("done", "fine"),
    ]  # fmt: skip


def test_what_is_done_is_not_run_again(tmp_path):
    jobs = [fake("a", tmp_path), fake("b", tmp_path)]
    launch(jobs)
    launch(jobs)
    assert ran(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(("trouble", "said"), [("user", "a mistake of the user's"), ("bug", "ZeroDivisionError")])
def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path, trouble, said):
    jobs = [fake("pre", tmp_path, trouble=trouble), fake("fine", tmp_path, needs="pre"), fake("other", tmp_path)]
    failed = {e.job: e.message for e in launch(jobs) if e.kind == "failed"}
    assert said in failed["pre"]
    assert failed["fine"].startswith("pre, which it starts from, failed: ")
    assert said in failed["fine"]
    assert ran(tmp_path) == ["pre", "other"]


def test_the_next_command_tries_again_what_failed(tmp_path):
    launch([fake("pre", tmp_path, trouble="user"), fake("fine", tmp_path, needs="pre")])
    (tmp_path / "pre.state").unlink()
    launch([fake("pre", tmp_path), fake("fine", tmp_path, needs="pre")])
    assert ran(tmp_path) == ["pre", "pre", "fine"]


def test_a_failure_is_tried_once_in_a_launch_and_by_every_launch(tmp_path):
    jobs = [fake("a", tmp_path, trouble="user")]
    for name in ("first", "first", "second", "first", "second"):
        launch(jobs, name)
        (tmp_path / "a.state").unlink(missing_ok=True)
    assert ran(tmp_path) == ["a", "a"]


def test_a_held_job_is_left_to_its_holder(tmp_path):
    job = fake("a", tmp_path)
    with job.claim() as mine:
        assert mine
        worker = threading.Thread(target=launch, args=([job],))
        worker.start()
        worker.join(timeout=0.2)
        assert ran(tmp_path) == []
        (tmp_path / "a.done").touch()  # its holder finishes it
    worker.join()
    assert ran(tmp_path) == []


def test_workers_share_the_jobs(tmp_path):
    jobs = [fake(str(i), tmp_path) for i in range(12)]
    threads = [threading.Thread(target=launch, args=(jobs, "one")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(ran(tmp_path)) == Counter({str(i): 1 for i in range(12)})


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves on by the events of a job alone."""
    now = [1000.0]
    monkeypatch.setattr("da_wa.launchers.worker.time.monotonic", lambda: now[0])
    return now


def test_nothing_is_begun_after_the_deadline(tmp_path, clock):
    work([fake("a", tmp_path)], execute, lambda e: None, "one", until=1000.0)
    assert ran(tmp_path) == []

    def last_moment(event: Event) -> None:
        clock[0] += event.kind == "done"

    jobs = [fake("a", tmp_path), fake("b", tmp_path)]
    work(jobs, execute, last_moment, "one", until=1000.5)
    assert ran(tmp_path) == ["a"]
    assert [job.done for job in jobs] == [True, False]


def test_a_deadline_ends_a_job_between_epochs_and_the_same_command_resumes(tmp_path, clock):
    jobs = [fake("a", tmp_path, epochs=3), fake("b", tmp_path, needs="a", epochs=3)]
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        clock[0] += event.kind == "epoch"

    work(jobs, execute, emit, "one", until=1000.5)
    assert ran(tmp_path) == ["a1"]
    assert [e.kind for e in events] == ["start", "epoch", "dropped"]
    assert not jobs[0].failure_file.exists()
    launch(jobs)
    assert ran(tmp_path) == ["a1", "a2", "a3", "b1", "b2", "b3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_deadline_leaves_is_no_error(tmp_path, workers):
    command([fake(str(k), tmp_path) for k in range(3)], tmp_path, workers=workers, deadline_s=0.0)
    assert ran(tmp_path) == []


def test_workers_that_all_die_are_reported(tmp_path):
    jobs = [fake("a", tmp_path, trouble="death"), fake("b", tmp_path, trouble="death")]
    with pytest.raises(UserError, match="all workers ended with 2 of 2 jobs unfinished"):
        command(jobs, tmp_path, workers=2)


def test_a_run_that_diverged_is_announced_as_failed(tmp_path):
    ended = [e for e in launch([fake("a", tmp_path, trouble="divergence")]) if e.kind in ("done", "failed")]
    assert [(e.kind, e.message) for e in ended] == [("failed", "not finite")]


def test_what_stops_a_worker_reaches_the_command(tmp_path):
    with pytest.raises(UserError, match="the disk is full"):
        command([fake(name, tmp_path, trouble="disk") for name in "ab"], tmp_path, workers=2)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0}, {"workers": "two"}, {"workers": True}, {"threads": -1}, {"threads": False},
        {"deadline_s": -1}, {"deadline_s": "soon"}, {"deadline_s": True}, {"deadline_s": float("nan")},
        {"lease_s": 0}, {"lease_s": True}, {"gpus": []}, {"gpus": [-1]}, {"gpus": "all"}, {"gpus": 1},
        {"units_per_gpu": 0},
    ],
)  # fmt: skip
def test_senseless_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"launcher.{next(iter(options))}"):
        Local(**options)


def test_the_threads_of_a_worker_do_not_depend_on_how_many_there_are(tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(local, "run_worker", lambda launch, threads, deadline_s: counts.append(threads))
    monkeypatch.setattr(local, "_work_in_processes", lambda launch, threads, *args: counts.append(threads))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for workers in (1, 2, "auto"):
        Local(workers=workers)(Launch("one", [fake(name, tmp_path) for name in "ab"], tmp_path))
    assert len(counts) == 3
    assert len(set(counts)) == 1


@pytest.mark.parametrize(
    ("visible", "options", "chosen"),
    [
        ("", {}, ["0", "1", "2"]),
        ("4,5,7", {}, ["4", "5", "7"]),
        ("4,5,7", {"workers": 4}, ["4", "5", "7", "4"]),
        ("", {"gpus": [2, 0]}, ["2", "0"]),
        ("4,5,7", {"gpus": [2, 0]}, ["7", "4"]),
        ("", {"gpus": [1]}, ["1"]),
        ("", {"gpus": [1], "units_per_gpu": 3}, ["1", "1", "1"]),
        ("", {"gpus": [0, 2], "units_per_gpu": 2}, ["0", "2", "0", "2"]),
    ],
)
def test_workers_share_the_chosen_gpus(visible, options, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = []
    monkeypatch.setattr(local, "_work_in_processes", lambda launch, threads, deadline_s, gpus: found.extend(gpus))
    Local(**options)(Launch("one", [fake(str(k), tmp_path) for k in range(9)], tmp_path))
    assert found == chosen


@pytest.mark.parametrize("options", [{"units_per_gpu": 2}, {"workers": 2}, {"gpus": [0], "units_per_gpu": 2}])
def test_workers_share_the_only_gpu(options, tmp_path, monkeypatch):
    """An empty CUDA_VISIBLE_DEVICES would hide it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = []
    monkeypatch.setattr(local, "_work_in_processes", lambda launch, threads, deadline_s, gpus: found.extend(gpus))
    Local(**options)(Launch("one", [fake(str(k), tmp_path) for k in range(9)], tmp_path))
    assert found == ["0", "0"]


def test_warnings_about_images_are_heard_again_after_the_work(tmp_path):
    loggers = [logging.getLogger(f"da_wa.data.{name}") for name in ("domains", "cache")]
    before = [each.level for each in loggers]
    run_worker(Launch("one", [], tmp_path), threads=torch.get_num_threads())
    assert [each.level for each in loggers] == before
    assert logging.ERROR not in before


def test_a_gpu_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"gpus=\[0, 2\].*2 GPUs.*no 2"):
        Local(gpus=[0, 2])(Launch("one", [fake("a", tmp_path)], tmp_path))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_command_that_is_killed(how, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from da_wa.launchers.local import Local
from da_wa.launchers.worker import Launch
from tests.launchers.fakes import fake
if __name__ == "__main__":
    jobs = [fake(name, Path({str(tmp_path)!r}), stays=True) for name in "ab"]
    Local(workers=2, threads=1)(Launch("one", jobs, Path({str(tmp_path)!r})))
"""
    )
    with subprocess.Popen([sys.executable, script]) as command:
        while len(ran(tmp_path)) < 2:
            assert command.poll() is None
            time.sleep(0.05)
        assert sorted(ran(tmp_path)) == ["a", "b"]
        command.send_signal(how)
    held = {"a", "b"}
    while held:  # a worker that stayed would hold its job until the test's time limit
        for name in sorted(held):
            with fake(name, tmp_path).claim() as mine:
                if mine:
                    held.discard(name)
        time.sleep(0.05)


def test_a_worker_in_this_process_leaves_the_garbage_collector_as_it_was(tmp_path):
    gc.unfreeze()
    run_worker(Launch("one", [], tmp_path), threads=torch.get_num_threads())
    assert gc.get_freeze_count() == 0
    gc.freeze()
    run_worker(Launch("two", [], tmp_path), threads=torch.get_num_threads())
    assert gc.get_freeze_count() > 0


def test_a_worker_does_not_repeat_what_was_said_of_the_images(tmp_path, draw_tree, caplog):
    root = draw_tree(tmp_path / "images", per_class=1)
    (root / "paper" / "notes.txt").touch()
    with _images_are_known():
        from_folders(root)
    assert not caplog.records
    from_folders(root)
    assert [record.name for record in caplog.records] == ["da_wa.data.folders"]
