"""Run jobs in worker processes on this machine."""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from da_wa.errors import ConfigError, UserError
from da_wa.launchers.worker import POLL_S, Emit, Event, work_here
from da_wa.runs.jobs import Job


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine.

    Attributes:
        workers: how many; ``auto`` is one per core, or one per GPU where there is one. One worker is this
            process itself.
        threads: of each worker; ``auto`` is the number of cores per worker with ``workers=auto``. It does not depend
            on ``workers``, because rounding depends on the number of threads.
        deadline_s: seconds after which no job or epoch starts. Rerun the command to resume; an interrupted run
            loses at most ``trainer.save_every_s``.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"launcher.{name} is {value!r}; it must be `auto` or a whole number, 1 or more")
        deadline: Any = self.deadline_s
        given = isinstance(deadline, int | float) and not isinstance(deadline, bool)
        if deadline is not None and not (given and deadline >= 0):
            raise ConfigError(f"launcher.deadline_s is {self.deadline_s!r}; it must be null or a number of seconds")

    def __call__(self, jobs: Sequence[Job], emit: Emit) -> None:
        """Run all jobs until the deadline.

        Raises:
            UserError: all workers died before the jobs were done.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        parallel = _parallel(cores)
        workers = max(1, min(parallel if self.workers == "auto" else self.workers, len(jobs)))
        threads = max(1, cores // parallel) if self.threads == "auto" else self.threads
        since = time.time()
        until = math.inf if self.deadline_s is None else since + self.deadline_s
        if workers == 1:
            work_here(jobs, emit, since, until, threads)
        else:
            _work_in_processes(jobs, emit, since, until, threads, workers)


def _parallel(cores: int) -> int:
    import torch

    return torch.cuda.device_count() or cores


def _work_in_processes(jobs: Sequence[Job], emit: Emit, since: float, until: float, threads: int, workers: int) -> None:
    context = _context()
    events: Any = context.Queue()
    processes = [
        context.Process(target=_worker, args=(number, jobs, events, since, until, threads, sys.argv))
        for number in range(workers)
    ]
    with _without_main():
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
                    continue  # reported by another worker
                finished.add(event.job)
            emit(event)
    except BaseException:  # Ctrl-C or a closed terminal: workers lose at most an epoch or two
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()
    lost = [job.id for job in jobs if job.id not in finished]
    if lost and time.time() < until:
        raise UserError(
            f"all worker processes ended with {len(lost)} of {len(jobs)} jobs unfinished, the first {lost[0]} "
            "(out of memory, or killed?). Rerun the command to resume; if this happens again, set launcher.workers=1."
        )


def _context() -> Any:
    """Start method: fork from a server process that has imported everything and started no threads.

    All workers share one import. Without a fork server (Windows), each worker imports on its own.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["da_wa.runs.execute"])
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the calling script: workers would import it, and so run it again where it has no ``__main__`` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _worker(
    number: int, jobs: Sequence[Job], events: Any, since: float, until: float, threads: int, argv: list[str]
) -> None:
    sys.argv = argv  # records keep the command line
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _choose_gpu(number)
    try:
        work_here(jobs, events.put, since, until, threads)
    except UserError as error:  # such as a full disk, where not even a failure can be noted
        events.put(Event("lost", "", message=str(error)))
    except (KeyboardInterrupt, SystemExit):
        os._exit(130)


def _die_with_parent() -> None:
    """Exit with the parent process, so that a killed command leaves no locked runs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _choose_gpu(number: int) -> None:
    """Assign GPUs to workers in turn; do nothing if there is at most one GPU."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        numbers = visible if len(visible) == count else [str(gpu) for gpu in range(count)]
        os.environ["CUDA_VISIBLE_DEVICES"] = numbers[number % count]
