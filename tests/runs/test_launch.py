"""Jobs are run once each, in order of need, whoever runs them and whatever fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from da_wa.errors import UserError
from da_wa.runs.jobs import Job
from da_wa.runs.launch import Event, Local, work
from da_wa.runs.ledger import RunDir


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

    def done(self) -> bool:
        return (self.folder / f"{self.id}.done").exists()

    def waits_for(self) -> str | None:
        return self.needs if self.needs and not (self.folder / f"{self.needs}.done").exists() else None

    def claim(self):
        directory = self.folder / self.id
        directory.mkdir(exist_ok=True)
        return RunDir(directory).claim()

    def run(self, notify) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{self.id}\n")
        time.sleep(self.seconds)
        notify(1, 1)
        if self.trouble == "user":
            raise UserError("a mistake of the user's")
        if self.trouble == "bug":
            raise ZeroDivisionError("a mistake of ours")
        if self.trouble == "death":
            import os

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
    assert failed["fine"] == "pre, which it starts from, failed"
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


def test_workers_that_all_die_are_told(tmp_path):
    jobs = [Fake("a", {}, tmp_path, trouble="death"), Fake("b", {}, tmp_path, trouble="death")]
    with pytest.raises(UserError, match="every worker process ended before 2 of 2 jobs"):
        Local(workers=2, threads=1)(jobs, lambda event: None)
