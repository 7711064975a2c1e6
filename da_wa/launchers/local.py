"""Run jobs in worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from da_wa.errors import ConfigError, UserError
from da_wa.launchers.launcher import check_options
from da_wa.launchers.worker import Launch, run_worker, stopped
from da_wa.records.lease import STALE_S


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine.

    Attributes:
        workers: how many; ``auto`` is one per core, or ``units_per_gpu`` per GPU where there is one. One worker is this
            process itself.
        threads: of each worker; ``auto`` is the number of cores per worker with ``workers=auto``. It does not depend
            on ``workers``, because rounding depends on the number of threads.
        deadline_s: seconds after which no job or epoch starts. Rerun the command to resume; an interrupted run
            loses at most ``trainer.save_every_s``.
        lease_s: seconds without a sign of life after which a worker loses its job to another.
        gpus: numbers of the GPUs to use; ``auto`` is all that are visible.
        units_per_gpu: workers that share a GPU.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int | Literal["auto"] = "auto"
    deadline_s: float | None = None
    lease_s: float = STALE_S
    gpus: Sequence[int] | Literal["auto"] = "auto"
    units_per_gpu: int = 1

    remote = False
    queues = False

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.units_per_gpu, int) or self.units_per_gpu < 1:
            raise ConfigError(f"launcher.units_per_gpu is {self.units_per_gpu!r}; it must be a whole number, 1 or more")
        numbers: Any = self.gpus
        listed = isinstance(numbers, Sequence) and len(numbers) > 0
        if numbers != "auto" and not (listed and all(isinstance(gpu, int) and gpu >= 0 for gpu in numbers)):
            raise ConfigError(f"launcher.gpus is {self.gpus!r}; it must be `auto` or a list of numbers, such as [0,1]")

    def __call__(self, launch: Launch) -> None:
        """Run the jobs until the deadline.

        Raises:
            ConfigError: a GPU that this machine does not have.
            UserError: all workers ended before the jobs were done.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        gpus = self._gpus()
        parallel = len(gpus) * self.units_per_gpu or cores
        workers = max(1, min(parallel if self.workers == "auto" else self.workers, len(launch.jobs)))
        threads = max(1, cores // parallel) if self.threads == "auto" else self.threads
        if workers == 1 and self.gpus == "auto":
            run_worker(launch, threads, self.deadline_s)
        else:
            places = [gpus[number % len(gpus)] if gpus else None for number in range(workers)]
            _work_in_processes(launch, threads, self.deadline_s, places)

    def _gpus(self) -> list[str]:
        """The chosen GPUs as ``CUDA_VISIBLE_DEVICES`` names them."""
        import torch

        count = torch.cuda.device_count()
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        names = visible if len(visible) == count else [str(gpu) for gpu in range(count)]
        if self.gpus == "auto":
            return names[:count]
        if missing := [gpu for gpu in self.gpus if gpu >= count]:
            raise ConfigError(
                f"launcher.gpus={list(self.gpus)}: this machine has {count} GPUs, numbered from 0; "
                f"there is no {missing[0]}"
            )
        return [names[gpu] for gpu in self.gpus]


def _work_in_processes(launch: Launch, threads: int, deadline_s: float | None, gpus: Sequence[str | None]) -> None:
    context = _context()
    processes = [context.Process(target=_worker, args=(launch, threads, deadline_s, gpu)) for gpu in gpus]
    with _without_main():
        for process in processes:
            process.start()
    try:
        for process in processes:
            process.join()
    except BaseException:  # Ctrl-C or a closed terminal: workers lose at most an epoch or two
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()
    if all(process.exitcode for process in processes):
        raise stopped(launch)


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


def _worker(launch: Launch, threads: int, deadline_s: float | None, gpu: str | None) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        run_worker(launch, threads, deadline_s)
    except UserError as error:
        print(f"a worker stopped: {error}", file=sys.stderr)
        os._exit(1)
    except (KeyboardInterrupt, SystemExit):
        os._exit(130)


def _die_with_parent() -> None:
    """Exit with the parent process, so that a killed command leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
