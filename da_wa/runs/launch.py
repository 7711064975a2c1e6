"""Where jobs run. Workers share nothing but the disk: each takes the next job that nobody holds.

So one process, several, or the same command started twice on a shared folder all do the same work once.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from da_wa.errors import ConfigError, UserError
from da_wa.runs.jobs import Job

POLL_S = 0.5


@dataclass(frozen=True)
class Event:
    """Something a worker did.

    Attributes:
        kind: ``start`` of a job, ``epoch`` ended, ``done``, ``failed``; ``lost``: the worker had to give up.
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
    """Ends a job between two epochs; the same command resumes it."""


def work(jobs: Sequence[Job], emit: Emit, since: float, until: float = math.inf) -> None:
    """Run every job that is neither done nor held by another process, until none or no time is left.

    Args:
        jobs: in the order to try them.
        emit: told what happens.
        since: when this launch began, in seconds of the epoch; what failed later is not tried again.
        until: when no further job and no further epoch is begun, in seconds of the epoch.
    """
    pending = {job.id: job for job in jobs}
    failed: dict[str, str] = {}  # and why
    while pending and time.time() < until:
        progress = False
        for job in list(pending.values()):
            unfinished = pending.keys() | failed.keys()
            ending = _ending(job, failed, since) or _attempt(job, unfinished, failed, emit, since, until)
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
    if job.done():
        why = job.diverged()
        return Event("done", job.id) if why is None else Event("failed", job.id, message=why)
    why = job.failed_since(since)
    if why is None and (needed := job.waits_for()) is not None and needed in failed:
        why = f"{needed}, which it starts from, failed: {failed[needed].strip().splitlines()[-1]}"
        job.fail(why)
    return None if why is None else Event("failed", job.id, message=why)


def _attempt(
    job: Job, unfinished: Set[str], failed: Mapping[str, str], emit: Emit, since: float, until: float
) -> Event | None:
    """Run ``job`` if its time has come, and is not over, and no other process holds it."""
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
            job.run(notify)
        except OutOfTime:
            return None
        except UserError as error:
            job.fail(str(error))
        except Exception:
            job.fail(traceback.format_exc())
        return _ending(job, failed, since)


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
        workers: how many; ``auto`` is one per core, or one per GPU where there is one. One worker is this
            process itself.
        threads: of each worker; ``auto`` is the share of the cores of one of ``auto`` workers, however many
            there are: the last digits of a sum depend on how many threads add it up.
        deadline_s: seconds after which no further job and no further epoch is begun. The same command goes
            on from there; a run that is cut off loses at most ``trainer.save_every_s``.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value != "auto" and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"launcher.{name} is {value!r}; it must be `auto` or a whole number, 1 or more")
        if self.deadline_s is not None and not (isinstance(self.deadline_s, int | float) and self.deadline_s >= 0):
            raise ConfigError(f"launcher.deadline_s is {self.deadline_s!r}; it must be null or a number of seconds")

    def __call__(self, jobs: Sequence[Job], emit: Emit) -> None:
        """Run all jobs, or those that there is time for.

        Raises:
            UserError: every worker died before the jobs were done.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        parallel = _parallel(cores)
        workers = max(1, min(parallel if self.workers == "auto" else self.workers, len(jobs)))
        threads = max(1, cores // parallel) if self.threads == "auto" else self.threads
        since = time.time()
        until = math.inf if self.deadline_s is None else since + self.deadline_s
        if workers == 1:
            _work_here(jobs, emit, since, until, threads)
        else:
            _work_in_processes(jobs, emit, since, until, threads, workers)


def _parallel(cores: int) -> int:
    import torch

    return torch.cuda.device_count() or cores


def _work_here(jobs: Sequence[Job], emit: Emit, since: float, until: float, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    for name in ("domains", "cache"):  # what the images are like was told when the work was planned
        logging.getLogger(f"da_wa.data.{name}").setLevel(logging.ERROR)
    work(jobs, emit, since, until)


def _work_in_processes(jobs: Sequence[Job], emit: Emit, since: float, until: float, threads: int, workers: int) -> None:
    context = _context()
    events: Any = context.Queue()
    processes = [
        context.Process(target=_worker, args=(number, jobs, events, since, until, threads, sys.argv))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        finished: set[str] = set()
        while any(process.is_alive() for process in processes) or not events.empty():
            try:
                event: Event = events.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if event.kind == "lost":
                raise UserError(event.message)
            if event.kind in ("done", "failed"):
                if event.job in finished:
                    continue  # every worker finds out
                finished.add(event.job)
            emit(event)
    except BaseException:  # Ctrl-C, or a terminal that is gone: what the workers lose is at most an epoch or two
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()
    lost = [job.id for job in jobs if job.id not in finished]
    if lost and time.time() < until:
        raise UserError(
            f"every worker process ended before {len(lost)} of {len(jobs)} jobs, the first {lost[0]} "
            "(out of memory, or killed?). Start the same command again to go on, with launcher.workers=1 if it recurs."
        )


def _context() -> Any:
    """How processes start: forked from a helper that has imported everything and started no threads.

    So many workers wait for one import. Where there is no such helper (Windows) each imports for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["da_wa.train.pretrain", "da_wa.train.finetune"])
    return context


def _worker(
    number: int, jobs: Sequence[Job], events: Any, since: float, until: float, threads: int, argv: list[str]
) -> None:
    sys.argv = argv  # records keep the command line
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _choose_gpu(number)
    try:
        _work_here(jobs, events.put, since, until, threads)
    except UserError as error:  # such as a full disk, where not even a failure can be noted
        events.put(Event("lost", "", message=str(error)))
    except (KeyboardInterrupt, SystemExit):
        os._exit(130)


def _die_with_parent() -> None:
    """So that a command that was killed leaves nobody who holds its runs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _choose_gpu(number: int) -> None:
    """Give workers a GPU each, in turn; does nothing where there is at most one."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        numbers = visible if len(visible) == count else [str(gpu) for gpu in range(count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = numbers[number % count]
