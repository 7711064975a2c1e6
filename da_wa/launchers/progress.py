"""Progress: job, epoch and remaining time; a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from da_wa.launchers.events import Emit, Event
from da_wa.runs.jobs import Job, PretrainJob

LINE_EVERY_S = 60.0
"""Seconds between lines about epochs when output is not a terminal."""


class Tally:
    """What is done and what is left, in image passes."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.cost = {job.id: job.cost for job in jobs if not job.done}
        self.total = len(jobs)
        self.finished = self.total - len(self.cost)
        self.ended: set[str] = set()
        self._share = dict.fromkeys(self.cost, 0.0)
        self._first: dict[str, float] = {}  # the share at which a resumed job began
        self._started = time.monotonic()

    def update(self, event: Event) -> None:
        """Update the counts with an event."""
        if event.job not in self._share or event.job in self.ended:
            return
        if event.kind == "epoch":
            share = event.epoch / event.epochs
            self._first.setdefault(event.job, share - 1 / event.epochs)
            self._share[event.job] = share
        elif event.kind in ("done", "failed"):
            if event.kind == "failed":
                self.cost[event.job] = self.cost[event.job] * self._share[event.job]
            self._share[event.job] = 1.0
            self.ended.add(event.job)
            self.finished += 1

    def left(self) -> str:
        """The remaining time in words."""
        done = sum(self.cost[j] * (share - self._first.get(j, 0.0)) for j, share in self._share.items())
        ahead = sum(self.cost[j] * (1 - share) for j, share in self._share.items())
        if not ahead:
            return "nothing left"
        if not done:
            return "time left not known yet"
        return f"about {duration((time.monotonic() - self._started) * ahead / done)} left"


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def shown(jobs: Sequence[Job], console: Console) -> Iterator[Emit]:
    """Yields the callback for worker events."""
    tally = Tally(jobs)
    if tally.finished:
        networks = sum(isinstance(job, PretrainJob) and job.done for job in jobs)
        which = f", {networks} of them pre-trained networks" if networks else ""
        console.print(f"{tally.finished} of {tally.total} jobs are finished already{which}")
    if console.is_terminal:
        with _live(tally, console) as emit:
            yield emit
    else:
        yield _lines(tally, console)


def _lines(tally: Tally, console: Console) -> Emit:
    last: dict[str, float] = {}

    def emit(event: Event) -> None:
        if event.kind == "end":
            return
        if event.kind == "lost":
            console.print(f"a worker stopped: {event.message}")
            return
        known = event.job in tally.cost and event.job not in tally.ended
        tally.update(event)
        now = time.monotonic()
        if event.kind == "epoch" and now - last.get(event.job, 0.0) < LINE_EVERY_S and event.epoch < event.epochs:
            return
        last[event.job] = now
        text = {
            "start": "started",
            "epoch": f"epoch {event.epoch} of {event.epochs}",
            "dropped": "interrupted",
            "done": "done",
            "failed": f"FAILED: {event.message.strip().splitlines()[-1] if event.message else ''}",
        }[event.kind]
        if known and not (event.kind == "epoch" and event.epoch == event.epochs):
            position = f"[{tally.finished}/{tally.total}]"
            console.print(f"{position} {event.job}: {text}, {tally.left()}")

    return emit


@contextmanager
def _live(tally: Tally, console: Console) -> Iterator[Emit]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        overall = progress.add_task("all jobs", total=tally.total, completed=tally.finished, note="")
        rows: dict[str, TaskID] = {}

        def emit(event: Event) -> None:
            known = event.job in tally.cost and event.job not in tally.ended
            tally.update(event)
            if event.kind == "lost":
                progress.console.print(f"a worker stopped: {event.message}")
            elif event.kind == "start" and known and event.job not in rows:
                rows[event.job] = progress.add_task(event.job, total=None, note="starting")
            elif event.kind == "epoch" and event.job in rows:
                note = f"epoch {event.epoch} of {event.epochs}"
                progress.update(rows[event.job], completed=event.epoch, total=event.epochs, note=note)
            elif event.kind in ("done", "failed", "dropped"):
                if event.job in rows:
                    progress.remove_task(rows.pop(event.job))
                if event.kind == "failed" and known:
                    progress.console.print(f"FAILED {event.job}: {event.message}")
            note = f"{tally.finished} of {tally.total}, {tally.left()}"
            progress.update(overall, completed=tally.finished, note=note)

        yield emit


@contextmanager
def phase(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Shows a phase of unknown length: a spinner on a terminal, a line elsewhere; yields a function for its steps."""
    if not console.is_terminal:
        console.print(text)
        yield lambda step: None
        return
    with console.status(text) as line:
        yield lambda step: line.update(f"{text}: {step}")


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yields the callback for steps that come before the first job, such as ``Decoding A``: (step, done, total)."""
    rows: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def show(step: str, done: int, total: int) -> None:
            if step not in rows:
                rows[step] = progress.add_task(step, total=total)
                if not console.is_terminal:
                    console.print(f"{step}: {total} images")
            progress.update(rows[step], completed=done)

        yield show
