"""Whatever happens to one worker, every job is done, recorded once, and nothing finished is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from da_wa.cli import main
from da_wa.errors import UserError
from da_wa.launchers.events import Event, Reader
from da_wa.launchers.worker import Launch, work
from da_wa.records.lease import Holder, holder
from da_wa.runs.execute import execute
from tests.launchers.fakes import Fake, fake, ran, recorded

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Starts a worker with a fault on jobs."""
    processes: list[subprocess.Popen] = []

    def start(jobs: list[Fake], fault: str = "none", lease_s: float = 120.0) -> subprocess.Popen:
        file = tmp_path / f"{len(processes)}.launch"
        file.write_bytes(pickle.dumps(Launch("one", jobs, jobs[0].folder, lease_s=lease_s)))
        words = [sys.executable, Path(__file__).with_name("process.py"), file, fault]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        processes.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait; pytest's timeout ends a wait without end."""
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def work_here(jobs: list[Fake], lease_s: float = 120.0) -> None:
    work(jobs, execute, lambda event: None, "one", lease_s=lease_s)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_killed_worker_leaves_its_job_to_another_at_once(start, folder):
    job = fake("a", folder, epochs=4, pace=0.3)
    killed = start([job])
    until(lambda: len(ran(folder)) == 2, killed)
    killed.kill()
    killed.wait()
    work_here([job], lease_s=1e6)
    assert ran(folder) in (["a1", "a2", "a2", "a3", "a4"], ["a1", "a2", "a3", "a4"])  # it resumed
    assert recorded(folder) == ["a"]


def test_the_job_of_a_lost_node_is_taken_over_when_its_lease_is_stale(start, folder):
    job = fake("a", folder, epochs=4, pace=0.3)
    lost = start([job], "elsewhere", lease_s=2.0)
    until(lambda: len(ran(folder)) == 2, lost)
    lost.kill()
    lost.wait()
    assert job.lease_file.exists()
    work_here([job])
    assert recorded(folder) == ["a"]


def test_a_worker_that_wakes_up_after_its_lease_was_taken_drops_its_work(start, folder):
    job = fake("a", folder, epochs=4, pace=0.3)
    paused = start([job], lease_s=1.0)
    until(lambda: len(ran(folder)) == 2, paused)
    paused.send_signal(signal.SIGSTOP)
    work_here([job], lease_s=60.0)
    assert recorded(folder) == ["a"]
    content = (folder / "a.done").read_bytes()
    paused.send_signal(signal.SIGCONT)
    assert paused.wait() == 0
    assert recorded(folder) == ["a"]
    assert (folder / "a.done").read_bytes() == content == str(os.getpid()).encode()
    told = [event.kind for event in Reader(folder).read() if event.worker.endswith(f"-{paused.pid}")]
    assert told[-2:] == ["dropped", "end"]


def test_a_worker_that_wakes_up_while_another_has_its_job_leaves_it_alone(start, folder):
    job = fake("a", folder, epochs=6, pace=0.5)
    paused = start([job], lease_s=1.0)
    until(lambda: len(ran(folder)) == 1, paused)
    paused.send_signal(signal.SIGSTOP)
    other = start([job])
    until(lambda: len(ran(folder)) >= 3, other)
    paused.send_signal(signal.SIGCONT)
    assert (paused.wait(), other.wait()) == (0, 0)
    assert recorded(folder) == ["a"]
    assert (folder / "a.done").read_text() == str(other.pid)


@pytest.mark.parametrize("error", [UserError("a mistake"), ZeroDivisionError("a bug")])
def test_a_job_that_fails_after_its_lease_was_taken_is_dropped_and_the_next_one_runs(error, folder):
    taken, following = fake("a", folder), fake("b", folder)
    events: list[Event] = []

    def run(job: Fake, notify: object) -> None:
        if job is taken:
            job.lease_file.write_text(json.dumps(asdict(Holder(token="theirs", host="elsewhere"))))
            raise error
        (folder / "b.done").touch()
        (folder / "a.done").touch()  # by the process that took it

    work([taken, following], run, events.append, "one")
    told = [(event.kind, event.job) for event in events]
    assert told == [("start", "a"), ("dropped", "a"), ("start", "b"), ("done", "b")]
    assert taken.failed() is None
    assert holder(taken.lease_file).token == "theirs"


def test_clocks_that_are_an_hour_off_change_nothing(start, folder):
    jobs = [fake("a", folder, epochs=6, pace=0.5), fake("b", folder, trouble="user"), fake("c", folder, needs="a")]
    early, late = start(jobs, "early", lease_s=2.0), start(jobs, "late", lease_s=2.0)
    until(lambda: len(ran(folder)) >= 1, early)
    work_here(jobs, lease_s=2.0)
    assert (early.wait(), late.wait()) == (0, 0)
    assert sorted(ran(folder)) == ["a1", "a2", "a3", "a4", "a5", "a6", "b", "c"]
    assert recorded(folder) == ["a", "c"]


def test_a_worker_whose_disk_is_full_stops_and_the_others_go_on(start, folder):
    jobs = [fake(name, folder, pace=0.1) for name in "abcd"]
    full = start(jobs, "disk")
    assert full.wait() != 0
    assert "No space left on device" in full.stderr.read()
    assert recorded(folder) == []
    assert not any(job.failed() for job in jobs)
    work_here(jobs)
    assert recorded(folder) == ["a", "b", "c", "d"]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_in_the_middle_of_a_job(start, small_disk):
    """The kernel refuses to write: lease, training state, events, the note of a failure."""
    jobs = [fake(name, small_disk, epochs=30, pace=0.2) for name in "ab"]
    worker = start(jobs)
    until(lambda: len(ran(small_disk)) >= 2, worker)
    with pytest.raises(OSError, match="No space"), (small_disk / "film").open("wb", buffering=0) as film:
        while True:
            film.write(bytes(4096))
    assert worker.wait() != 0
    assert "No space left on device" in worker.stderr.read()
    before = len(ran(small_disk))
    assert recorded(small_disk) == []
    assert not any(job.lease_file.exists() for job in jobs)
    with pytest.raises(UserError, match="No space left on device"):
        work_here(jobs)
    (small_disk / "film").unlink()
    work_here(jobs)
    assert recorded(small_disk) == ["a", "b"]
    assert ran(small_disk)[before] != "a1"  # it resumed
    assert not any(job.failed() for job in jobs)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_enough(code, tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse)
    options = [
        "experiment=demo", "norms=[bn]", "sources=[P]", "finetune.epochs=1", "trainer.accelerator=cpu",
        "report.images=false", "launcher.workers=1", "launcher.threads=1",
    ]  # fmt: skip
    assert main([*options, f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}"]) == 0
    assert (tmp_path / "out" / "accuracy.csv").exists()
