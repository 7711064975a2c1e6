"""``da-wa status`` and ``da-wa watch``: states on disk, and events of workers on any machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from da_wa.launchers.events import Event, Reader
from da_wa.launchers.progress import duration
from da_wa.records import lease
from da_wa.records.design import folders_of
from da_wa.runs.jobs import Running
from da_wa.runs.status import Status, status

REFRESH_S = 2.0


@dataclass
class _Activity:
    """What events tell of one job. Times are differences of one worker's clock."""

    start: Event
    first: Event | None = None  # the first epoch of this worker
    last: Event | None = None

    def update(self, event: Event) -> None:
        """Take in the end of an epoch."""
        self.first, self.last = self.first or event, event

    @property
    def epoch_s(self) -> float | None:
        """Seconds per epoch, where it is known."""
        if self.first is None or self.last is None:
            return None
        if self.last.epoch > self.first.epoch:
            return (self.last.time - self.first.time) / (self.last.epoch - self.first.epoch)
        return self.first.time - self.start.time if self.first.epoch == 1 else None

    @property
    def share(self) -> float:
        """How much of the job is done, 0 to 1."""
        return self.last.epoch / self.last.epochs if self.last is not None else 0.0


@dataclass
class Watch:
    """Follows one ``out`` folder.

    Attributes:
        out: the folder of the experiment or study.
    """

    out: Path
    _jobs: dict[str, _Activity] = field(default_factory=dict)
    _took: dict[str, float] = field(default_factory=dict)  # seconds of finished jobs

    def __post_init__(self) -> None:
        self._readers = [Reader(folder) for folder in folders_of(self.out)]
        self.status: Status | None = None

    def lines(self) -> list[str]:
        """The state of the experiment now: a summary, then what runs, then what failed.

        Raises:
            DataError: there are no runs.
        """
        self.status = status(self.out, self.status)
        for reader in self._readers:
            self._update(reader.read())
        running = [self._running(name, state) for name, state in self.status.running.items()]
        return [self.status.summary() + self._left(self.status), *running, *self.status.failures()]

    def _update(self, events: Iterable[Event]) -> None:
        for event in events:
            known = self._jobs.get(event.job)
            if event.kind == "start":
                self._jobs[event.job] = _Activity(event)
            elif known is None or known.start.worker != event.worker:
                continue  # of a worker that lost the job
            elif event.kind == "epoch":
                known.update(event)
            elif event.kind == "done":
                self._took[event.job] = event.time - known.start.time

    def _running(self, name: str, state: Running) -> str:
        found, by = self._jobs.get(name), state.holder
        parts = [f"running  {name}"]
        if by is not None:
            since = lease.now(self.out) - by.since
            parts.append(f"on {by.host} (process {by.pid}) for {duration(max(0.0, since))}")
        if found is not None and found.last is not None:
            parts.append(f"epoch {found.last.epoch} of {found.last.epochs}")
        if found is not None and found.epoch_s is not None:
            parts.append(f"{found.epoch_s:.1f} s per epoch")
        if found is not None and found.start.log:
            parts.append(f"output in {found.start.log}")
        return ", ".join(parts)

    def _left(self, of: Status) -> str:
        """The remaining time: unfinished units at the mean time of finished ones, divided among running workers."""
        took = [seconds for name, seconds in self._took.items() if name in of.states]
        running = [name for name in of.states if name in of.running]
        if not running or not took:
            return ""
        begun = sum(self._jobs[name].share for name in running if name in self._jobs)
        seconds = sum(took) / len(took) * (of.unfinished - begun) / len(running)
        return f"; about {duration(max(0.0, seconds))} left"


def watch(out: Path, console: Console, refresh_s: float = REFRESH_S) -> None:
    """Show the state of an experiment until all of its units are finished or failed.

    Raises:
        DataError: there are no runs.
    """
    found = Watch(out)
    lines = found.lines()
    with Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext() as live:
        while found.status is not None and found.status.unfinished:
            if live is not None:
                live.update(Text("\n".join(lines), overflow="ellipsis", no_wrap=True), refresh=True)
            time.sleep(refresh_s)
            before, lines = found.status.counts, found.lines()
            if live is None and before != found.status.counts and found.status.unfinished:
                console.print(lines[0])
    for line in lines:
        console.print(line)
