"""Run jobs as an array of identical workers on SLURM, through submitit.

Workers are requeued when they reach their time limit or are pre-empted, and resume from the states they saved.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from da_wa.errors import ConfigError, install
from da_wa.launchers.launcher import check_options, ended_in_time
from da_wa.launchers.worker import Launch, run_worker, stopped

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Seconds between two looks at the queue."""

REQUEUES = 10_000
"""How often a worker may reach its time limit."""


@dataclass(frozen=True)
class Slurm:
    """An array of workers on SLURM. The folders of the experiment must be on a file system that all nodes share.

    Attributes:
        workers: tasks of the array.
        threads: of each worker; ``auto`` is ``cpus_per_worker``.
        deadline_s: seconds from the start of a worker after which it starts no job or epoch.
        lease_s: seconds without a sign of life after which a worker loses its job to another.
        detach: return after submission.
        partition: see ``sbatch``, as ``account``, ``qos`` and ``constraint``.
        time: limit of a worker as SLURM writes it, e.g. ``02:00:00``; a worker that reaches it is requeued.
        cpus_per_worker: cores.
        gpus_per_worker: GPUs; a job uses one.
        mem_gb: memory.
        signal_s: seconds before the time limit at which a worker stops to be requeued.
        setup: shell commands before a worker starts, such as ``module load cuda``.
        sbatch: any other options of ``sbatch``, e.g. ``+launcher.sbatch.nice=100``.
    """

    workers: int | Literal["auto"] = 8
    threads: int | Literal["auto"] = "auto"
    deadline_s: float | None = None
    lease_s: float = 120.0
    detach: bool = False
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | int = "04:00:00"
    cpus_per_worker: int = 4
    gpus_per_worker: int = 1
    mem_gb: float | None = None
    signal_s: int = 120
    setup: Sequence[str] = ()
    sbatch: Mapping[str, Any] = field(default_factory=dict)

    remote = True
    queues = True

    def __post_init__(self) -> None:
        check_options(self)
        if self.workers == "auto":
            raise ConfigError("launcher.workers=auto: SLURM needs the number of workers; set launcher.workers=8.")
        if 60 * minutes(self.time) <= self.signal_s:
            raise ConfigError(
                f"launcher.time={self.time} is {minutes(self.time)} minutes, and workers stop "
                f"launcher.signal_s={self.signal_s} seconds before: none would get to work. Choose a longer time."
            )

    def __call__(self, launch: Launch) -> None:
        """Submit the array and wait until its workers end; with ``detach`` only submit it.

        Raises:
            ConfigError: submitit or SLURM is missing, or SLURM refuses the array.
            UserError: all workers ended before the jobs were done.
        """
        array = self._submit(launch)
        print(f"Submitted array {array} to SLURM; output of its workers is in {launch.out / 'slurm'}", flush=True)
        if self.detach:
            return
        try:
            _wait(array, launch)
        except BaseException:  # Ctrl-C; a command that is killed leaves its workers running
            subprocess.run(["scancel", array], check=False)
            raise

    def _submit(self, launch: Launch) -> str:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(f"launcher=slurm needs submitit; {install('slurm')}") from error
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": self.gpus_per_worker or None,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "setup": list(self.setup) or None,
        }
        threads = self.cpus_per_worker if self.threads == "auto" else self.threads
        try:
            executor = submitit.SlurmExecutor(launch.out / "slurm", max_num_timeout=REQUEUES)
            executor.update_parameters(
                job_name="da-wa",
                time=minutes(self.time),
                nodes=1,
                cpus_per_task=self.cpus_per_worker,
                signal_delay_s=self.signal_s,
                additional_parameters={"requeue": True, **self.sbatch},
                **{key: value for key, value in given.items() if value is not None},
            )
            worker = Worker(launch, threads, self.deadline_s)
            with executor.batch():
                tasks = [executor.submit(worker) for _ in range(min(int(self.workers), len(launch.jobs)))]
        except (RuntimeError, submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise ConfigError(
                f"launcher=slurm: {error} Run the command on a login node of the cluster, or with launcher=local."
                if shutil.which("srun") is None
                else f"launcher=slurm: {error}"
            ) from error
        return str(tasks[0].job_id).partition("_")[0]


@dataclass(frozen=True)
class Worker:
    """A task of the array; submitit pickles it, calls it, and submits what :meth:`checkpoint` returns once more."""

    launch: Launch
    threads: int
    deadline_s: float | None

    def __call__(self) -> None:
        import submitit

        run_worker(self.launch, self.threads, self.deadline_s, str(submitit.JobEnvironment().paths.stderr))

    def checkpoint(self) -> DelayedSubmission:
        """The worker that goes on after a time limit or pre-emption; the states of jobs are saved after epochs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def minutes(limit: str | int) -> int:
    """A time limit as ``sbatch`` reads it, in minutes.

    >>> [minutes(text) for text in ("90", "90:00", "02:00:00", "1-12", "1-00:30")]
    [90, 90, 120, 2160, 1470]

    Raises:
        ConfigError: another text.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if found is None:
        raise ConfigError(f"launcher.time={limit}: write minutes, HH:MM:SS or D-HH:MM:SS")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:  # minutes, or minutes and seconds
        numbers = [0, *numbers]
    hours, mins, seconds = (*numbers, 0, 0)[:3]
    return max(1, 1440 * int(days or 0) + 60 * hours + mins + math.ceil(seconds / 60))


def _wait(array: str, launch: Launch) -> None:
    """Wait until all jobs have ended or no task of the array is left; sacct is not needed."""
    left = list(launch.jobs)
    while left := [job for job in left if not (job.peek() or job.failed(launch.id))]:
        if not _queued(array):
            time.sleep(POLL_S)  # what its last task wrote may appear a moment later
            if not ended_in_time(launch):
                raise stopped(launch)
            return
        time.sleep(POLL_S)
    subprocess.run(["scancel", array], check=False)  # tasks that wait for a node, and have nothing to do


def _queued(array: str) -> bool:
    """Whether tasks of the array wait or run, or SLURM does not answer."""
    asked = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%F"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.returncode != 0 or array in answer.stdout.split()
