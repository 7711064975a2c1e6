"""Jobs are run once each, in order of need, whoever runs them and whatever fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from da_wa.runs.launch import Event, Local, work
from da_wa.runs.ledger import RunDir

from da_wa.errors import ConfigError, UserError
from da_wa.runs.jobs import Job


@dataclass(frozen=True)
class Fake(Job):
    """Appends its name to a log and leaves a file."""

    folder: Path
    needs: str | None = None
    trouble: str | None = None
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        return 1.0

    @property
    def note(self) -> Path:
        return self.folder / f"{self.id}.failure.json"

    def register(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def diverged(self) -> str | None:
        return "not finite" if self.trouble == "divergence" else None

    def done(self) -> bool:
        return (self.folder / f"{self.id}.done").exists()

    def waits_for(self) -> str | None:
        return self.needs if self.needs and not (self.folder / f"{self.needs}.done").exists() else None

    def claim(self):
        directory = self.folder / self.id
        directory.mkdir(exist_ok=True)
        return RunDir(directory).claim()

    def fail(self, message: str) -> None:
        if self.trouble == "disk":
            raise UserError("the disk is full")
        super().fail(message)

    def run(self, notify) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{self.id}\n")
        time.sleep(self.seconds)
        notify(1, 1)
        if self.trouble == "user":
            raise UserError("a mistake of the user's")
        if self.trouble == "bug":
            raise ZeroDivisionError("a mistake of ours")
        if self.trouble == "disk":
            raise UserError("the disk is full")
        if self.trouble == "death":
            os._exit(9)
        (self.folder / f"{self.id}.done").touch()


def ran(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().split() if log.exists() else []


def launch(jobs, since=None) -> list[Event]:
    events: list[Event] = []
    work(jobs, events.append, time.time() if since is None else since)
    return events


def test_what_is_needed_comes_first(tmp_path):
    jobs = [Fake("fine", {}, tmp_path, needs="pre"), Fake("pre", {}, tmp_path)]
    events = launch(jobs)
    assert ran(tmp_path) == ["pre", "fine"]
    assert [(e.kind, e.job) for e in events] == [
        ("start", "pre"), ("epoch", "pre"), ("done", "pre"), ("start", "fine"), ("epoch", "fine"), ("done", "fine"),
    ]  # fmt: skip


def test_what_is_done_is_not_run_again(tmp_path):
    jobs = [Fake("a", {}, tmp_path), Fake("b", {}, tmp_path)]
    launch(jobs)
    launch(jobs)
    assert ran(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(("trouble", "said"), [("user", "a mistake of the user's"), ("bug", "ZeroDivisionError")])
def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path, trouble, said):
    jobs = [
        Fake("pre", {}, tmp_path, trouble=trouble),
        Fake("fine", {}, tmp_path, needs="pre"),
        Fake("other", {}, tmp_path),
    ]
    failed = {e.job: e.message for e in launch(jobs) if e.kind == "failed"}
    assert said in failed["pre"]
    assert failed["fine"].startswith("pre, which it starts from, failed: ")
    assert said in failed["fine"]
    assert ran(tmp_path) == ["pre", "other"]
    # The next command tries again.
    time.sleep(0.01)
    launch([Fake("pre", {}, tmp_path), Fake("fine", {}, tmp_path, needs="pre")], since=time.time())
    assert ran(tmp_path) == ["pre", "other", "pre", "fine"]


def test_two_workers_share_the_jobs(tmp_path):
    jobs = [Fake(str(i), {}, tmp_path, seconds=0.02) for i in range(12)]
    since = time.time()
    threads = [threading.Thread(target=work, args=(jobs, lambda e: None, since)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert Counter(ran(tmp_path)) == Counter({str(i): 1 for i in range(12)})


@dataclass(frozen=True)
class Epochs(Fake):
    """Three epochs of a twentieth of a second, kept on disk as a training state is."""

    def fail(self, message: str) -> None:
        if self.trouble == "disk":
            raise UserError("the disk is full")
        super().fail(message)

    def run(self, notify) -> None:
        state = self.folder / f"{self.id}.state"
        for epoch in range(int(state.read_text()) if state.exists() else 0, 3):
            time.sleep(0.05)
            state.write_text(str(epoch + 1))
            with (self.folder / "log").open("a") as log:
                log.write(f"{self.id}{epoch + 1}\n")
            notify(epoch + 1, 3)
        (self.folder / f"{self.id}.done").touch()


def test_no_job_is_begun_after_the_deadline(tmp_path):
    work([Fake("a", {}, tmp_path)], lambda e: None, time.time(), until=time.time())
    assert ran(tmp_path) == []
    jobs = [Fake("a", {}, tmp_path, seconds=0.1), Fake("b", {}, tmp_path)]
    work(jobs, lambda e: None, time.time(), until=time.time() + 0.05)
    assert ran(tmp_path) == ["a"]
    assert [job.done() for job in jobs] == [True, False]


def test_a_deadline_ends_a_job_between_epochs_and_the_same_command_goes_on(tmp_path):
    jobs = [Epochs("a", {}, tmp_path), Epochs("b", {}, tmp_path, needs="a")]
    events: list[Event] = []
    work(jobs, events.append, time.time(), until=time.time() + 0.02)
    assert ran(tmp_path) == ["a1"]
    assert [e.kind for e in events] == ["start", "epoch"]
    assert not jobs[0].note.exists()
    launch(jobs)
    assert ran(tmp_path) == ["a1", "a2", "a3", "b1", "b2", "b3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_deadline_leaves_is_no_error(tmp_path, workers):
    jobs = [Epochs(str(k), {}, tmp_path) for k in range(3)]
    Local(workers=workers, threads=1, deadline_s=0.0)(jobs, lambda event: None)
    assert ran(tmp_path) == []


def test_workers_that_all_die_are_told(tmp_path):
    jobs = [Fake("a", {}, tmp_path, trouble="death"), Fake("b", {}, tmp_path, trouble="death")]
    with pytest.raises(UserError, match="every worker process ended before 2 of 2 jobs"):
        Local(workers=2, threads=1)(jobs, lambda event: None)


def test_a_run_without_numbers_is_announced_as_failed(tmp_path):
    ended = [e for e in launch([Fake("a", {}, tmp_path, trouble="divergence")]) if e.kind in ("done", "failed")]
    assert [(e.kind, e.message) for e in ended] == [("failed", "not finite")]


def test_what_stops_a_worker_reaches_the_command(tmp_path):
    jobs = [Fake(name, {}, tmp_path, trouble="disk") for name in "ab"]
    with pytest.raises(UserError, match="the disk is full"):
        Local(workers=2, threads=1)(jobs, lambda event: None)


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": "two"}, {"threads": -1}, {"deadline_s": -1}, {"deadline_s": "soon"}]
)
def test_senseless_options_are_told(options):
    with pytest.raises(ConfigError, match=f"launcher.{next(iter(options))}"):
        Local(**options)


def test_the_threads_of_a_worker_do_not_depend_on_how_many_there_are(tmp_path, monkeypatch):
    import torch

    counts = []
    monkeypatch.setattr("da_wa.runs.launch._work_here", lambda *args: counts.append(args[-1]))
    monkeypatch.setattr("da_wa.runs.launch._work_in_processes", lambda *args: counts.append(args[-2]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for workers in (1, 2, "auto"):
        Local(workers=workers)([Fake(name, {}, tmp_path) for name in "ab"], lambda event: None)
    assert len(set(counts)) == 1


@pytest.mark.parametrize(("visible", "chosen"), [("", ["0", "1", "2", "0"]), ("4,5,7", ["4", "5", "7", "4"])])
def test_every_worker_has_a_gpu_of_its_own(visible, chosen, monkeypatch):
    import torch
    from da_wa.runs.launch import _choose_gpu

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    found = []
    for number in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        _choose_gpu(number)
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == chosen


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_command_that_is_killed(how, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from da_wa.runs.launch import Local
from tests.runs.test_launch import Fake
if __name__ == "__main__":
    jobs = [Fake(name, {{}}, Path({str(tmp_path)!r}), seconds=300.0) for name in "ab"]
    Local(workers=2, threads=1)(jobs, lambda event: None)
"""
    )
    command = subprocess.Popen([sys.executable, script])
    deadline = time.monotonic() + 60
    while len(ran(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sorted(ran(tmp_path)) == ["a", "b"]
    command.send_signal(how)
    command.wait()
    held = {"a", "b"}
    while held and time.monotonic() < deadline:
        for name in sorted(held):
            with Fake(name, {}, tmp_path).claim() as mine:
                if mine:
                    held.discard(name)
        time.sleep(0.1)
    assert not held
