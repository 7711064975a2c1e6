"""The loop of a worker. Workers share only the disk: each takes the next job that no other process holds.

Therefore workers of several commands, launchers and machines divide the work of one folder.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from da_wa.config.make import make
from da_wa.errors import ConfigError, DiskFull, UserError
from da_wa.launchers.events import Emit, Event, Kind, Reader, writer
from da_wa.records.lease import STALE_S, LeaseLost, confirm
from da_wa.runs.jobs import Diverged, Done, Failed, Job

POLL_S = 0.5


class OutOfTime(Exception):
    """Ends a job between two epochs; rerunning the command resumes it."""


Execute = Callable[[Job, Callable[[int, int], None]], None]
"""Runs a job, calling the function after every epoch; see :func:`da_wa.runs.execute.execute`."""


@dataclass(frozen=True)
class Launch:
    """What the workers of one command share. It can be pickled, and holds no class of the user's.

    Attributes:
        id: names the command in events and notes of failures.
        jobs: the unfinished ones, in the order to try them.
        out: the folder of the experiment.
        trainer: the ``trainer`` options; None: the device is not checked.
        lease_s: seconds without a sign of life after which a worker loses its job to another.
        argv: the command line, for records.
        path: where Python looks for modules.
        cwd: the folder that relative paths start from.
    """

    id: str
    jobs: Sequence[Job]
    out: Path
    trainer: Mapping[str, Any] | None = None
    lease_s: float = STALE_S
    argv: Sequence[str] = field(default_factory=lambda: list(sys.argv))
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))
    cwd: Path = field(default_factory=Path.cwd)


def run_worker(launch: Launch, threads: int, deadline_s: float | None = None, log: str = "") -> None:
    """Run jobs in this process until all are finished or the deadline is reached.

    Args:
        launch: see :class:`Launch`.
        threads: of torch.
        deadline_s: seconds from now after which no job or epoch starts.
        log: file with the output of this process.

    Raises:
        UserError: this worker cannot continue, for example because its disk is full.
    """
    until = math.inf if deadline_s is None else time.monotonic() + deadline_s
    sys.argv = list(launch.argv)
    sys.path += [folder for folder in launch.path if folder not in sys.path]
    try:
        os.chdir(launch.cwd)
    except OSError as error:
        raise ConfigError(
            f"{launch.cwd} cannot be opened on {socket.gethostname()} ({error.strerror}); "
            "start the command in a folder that all machines share."
        ) from error
    emit = writer(launch.out, launch.id, log)
    from da_wa.runs.execute import execute  # imports torch

    try:
        if launch.trainer is not None:
            make(launch.trainer).check_device()
        with _torch_set(threads), _images_are_known(), _imports_are_no_garbage():
            work(launch.jobs, execute, emit, launch.id, until, launch.lease_s)
    except UserError as error:
        emit(Event("lost", "", message=str(error)))
        raise
    emit(Event("end", ""))


@contextmanager
def _torch_set(threads: int) -> Iterator[None]:
    """Sets torch's threads. What trainings set for the whole process is as before afterwards: it may be a notebook."""
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)


@contextmanager
def _images_are_known() -> Iterator[None]:
    """Warnings about the images were given when the work was planned."""
    loggers = [logging.getLogger(f"da_wa.data.{name}") for name in ("domains", "folders", "cache")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


@contextmanager
def _imports_are_no_garbage() -> Iterator[None]:
    """The collection before each training need not look at what was imported. A caller may have frozen it already."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def stopped(launch: Launch) -> UserError:
    """The error for workers that all ended before the jobs were done."""
    left = [job.id for job in launch.jobs if not (job.peek() or job.failed(launch.id))]
    told = [e.message for e in Reader(launch.out).read() if e.kind == "lost" and e.launch == launch.id]
    why = (
        told[-1]
        if told
        else (
            "Out of memory, or killed? Rerun the command to resume; if this happens again, use fewer workers or set "
            "launcher.workers=1."
        )
    )
    first = f", the first {left[0]}" if left else ""
    return UserError(f"all workers ended with {len(left)} of {len(launch.jobs)} jobs unfinished{first}. {why}")


def work(
    jobs: Sequence[Job],
    execute: Execute,
    emit: Emit,
    launch: str,
    until: float = math.inf,
    lease_s: float = STALE_S,
) -> None:
    """Run every job that is neither finished nor held by another process, until the deadline.

    Args:
        jobs: in the order to try them.
        execute: runs one of them.
        emit: called with every event.
        launch: id of the command; jobs that failed in it are not tried again.
        until: the deadline, a value of ``time.monotonic()``; no job or epoch starts after it.
        lease_s: seconds without a sign of life after which another process takes over a job.
    """
    pending = {job.id: job for job in jobs}
    failed: dict[str, str] = {}  # id -> reason
    while pending and time.monotonic() < until:
        progress = False
        for job in list(pending.values()):
            attempt = _Attempt(job, pending, failed, emit, launch, until, lease_s)
            if (ended := attempt.ended() or attempt.run(execute)) is not None:
                progress = True
                del pending[job.id]
                if isinstance(ended, Diverged | Failed):
                    failed[job.id] = ended.reason
        if pending and not progress:
            time.sleep(POLL_S)


@dataclass(frozen=True)
class _Attempt:
    """One look at a job."""

    job: Job
    pending: Collection[str]
    failed: Mapping[str, str]
    emit: Emit
    launch: str
    until: float
    lease_s: float

    def ended(self) -> Done | Diverged | Failed | None:
        """How the job ended, if it did. Where another worker ran it, that one has told so."""
        job = self.job
        if (found := job.peek() or job.failed(self.launch)) is not None:
            if isinstance(found, Diverged):
                self._tell("failed", found.reason)
            return found
        needed = job.waits_for()
        if needed is None or needed not in self.failed:
            return None
        return self._fail(f"{needed}, which it starts from, failed: {self.failed[needed].strip().splitlines()[-1]}")

    def run(self, execute: Execute) -> Done | Diverged | Failed | None:
        """Run the job if it can start, time is left, and no other process holds it."""
        job, needed = self.job, self.job.waits_for()
        if needed in self.pending or needed in self.failed or time.monotonic() >= self.until:
            return None
        try:
            with job.claim(self.lease_s) as mine:
                return self._run(execute) if mine else None
        except (OutOfTime, LeaseLost):
            self._tell("dropped")
            return None

    def _run(self, execute: Execute) -> Done | Diverged | Failed | None:
        """Run the job, which this process holds."""
        if (ended := self.ended()) is not None:  # another process had it a moment ago
            return ended
        self._tell("start")
        try:
            execute(self.job, self._notify)
        except (OutOfTime, LeaseLost):
            raise
        except DiskFull:
            self._tell("dropped")
            raise
        except UserError as error:
            return self._fail(str(error))
        except Exception:
            return self._fail(traceback.format_exc())
        if isinstance(ended := self.ended(), Done):
            self._tell("done")
        return ended

    def _fail(self, reason: str) -> Failed:
        self.job.fail(reason, self.launch)
        self._tell("failed", reason)
        return Failed(reason)

    def _notify(self, done: int, epochs: int) -> None:
        confirm()
        self.emit(Event("epoch", self.job.id, done, epochs))
        if done < epochs and time.monotonic() >= self.until:
            raise OutOfTime

    def _tell(self, kind: Kind, message: str = "") -> None:
        self.emit(Event(kind, self.job.id, message=message))
