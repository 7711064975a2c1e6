"""The loop of a worker. Workers share only the disk: each takes the next job that no other process has locked.

Therefore several workers, or the same command started twice on a shared folder, divide the work.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from da_wa.errors import UserError
from da_wa.runs.jobs import Diverged, Job

POLL_S = 0.5


@dataclass(frozen=True)
class Event:
    """Something a worker did.

    Attributes:
        kind: ``start`` of a job, end of an ``epoch``, ``done``, ``failed``; ``lost``: the worker cannot continue.
        job: the job's id.
        epoch: epochs done, of ``epochs``.
        message: why it failed.
    """

    kind: Literal["start", "epoch", "done", "failed", "lost"]
    job: str
    epoch: int = 0
    epochs: int = 0
    message: str = ""


Emit = Callable[[Event], None]


class OutOfTime(Exception):
    """Ends a job between two epochs; rerunning the command resumes it."""


Execute = Callable[[Job, Callable[[int, int], None]], None]
"""Runs a job, calling the function after every epoch; see :func:`da_wa.runs.execute.execute`."""


def work(jobs: Sequence[Job], execute: Execute, emit: Emit, since: float, until: float = math.inf) -> None:
    """Run every job that is neither done nor locked by another process, until the deadline.

    Args:
        jobs: in the order to try them.
        execute: runs one of them.
        emit: called with every event.
        since: start of this launch, in seconds since 1970; jobs that failed after it are not tried again.
        until: the deadline in seconds since 1970; no job or epoch starts after it.
    """
    pending = {job.id: job for job in jobs}
    failed: dict[str, str] = {}  # id -> reason
    while pending and time.time() < until:
        progress = False
        for job in list(pending.values()):
            unfinished = pending.keys() | failed.keys()
            ending = _ending(job, failed, since) or _attempt(job, execute, unfinished, failed, emit, since, until)
            if ending is not None:
                progress = True
                del pending[job.id]
                if ending.kind == "failed":
                    failed[job.id] = ending.message
                emit(ending)
        if pending and not progress:
            time.sleep(POLL_S)


def _ending(job: Job, failed: Mapping[str, str], since: float) -> Event | None:
    """How ``job`` ended, if it did."""
    match job.outcome():
        case Diverged(reason):
            return Event("failed", job.id, message=reason)
        case None:
            pass
        case _:
            return Event("done", job.id)
    attempt = job.failed(since)
    why = None if attempt is None else attempt.reason
    if why is None and (needed := job.waits_for()) is not None and needed in failed:
        why = f"{needed}, which it starts from, failed: {failed[needed].strip().splitlines()[-1]}"
        job.fail(why)
    return None if why is None else Event("failed", job.id, message=why)


def _attempt(
    job: Job,
    execute: Execute,
    unfinished: Set[str],
    failed: Mapping[str, str],
    emit: Emit,
    since: float,
    until: float,
) -> Event | None:
    """Run ``job`` if it can start, time is left, and no other process holds it."""
    if job.waits_for() in unfinished or time.time() >= until:
        return None

    def notify(done: int, epochs: int) -> None:
        emit(Event("epoch", job.id, done, epochs))
        if done < epochs and time.time() >= until:
            raise OutOfTime

    with job.claim() as mine:
        if not mine or (ending := _ending(job, failed, since)):  # another process has it, or had it a moment ago
            return ending if mine else None
        emit(Event("start", job.id))
        try:
            execute(job, notify)
        except OutOfTime:
            return None
        except UserError as error:
            job.fail(str(error))
        except Exception:
            job.fail(traceback.format_exc())
        return _ending(job, failed, since)


def work_here(jobs: Sequence[Job], emit: Emit, since: float, until: float, threads: int) -> None:
    """Run the loop in this process with ``threads`` threads of torch."""
    import torch

    from da_wa.runs.execute import execute

    torch.set_num_threads(threads)
    for name in ("domains", "cache"):  # warnings about the images were given when the work was planned
        logging.getLogger(f"da_wa.data.{name}").setLevel(logging.ERROR)
    work(jobs, execute, emit, since, until)
