"""Run jobs as tasks of Ray, with the jobs they start from as object references.

Results are on disk, not in Ray: a command with another launcher can finish what this one began. Ray repeats tasks of a
node that is lost.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any, Literal

from da_wa.errors import ConfigError, install
from da_wa.launchers.launcher import check_options
from da_wa.launchers.worker import Launch, run_worker, stopped
from da_wa.runs.jobs import Job


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster. The folders of the experiment must be on a file system that all nodes share.

    Attributes:
        address: of the cluster, ``auto`` for that of this machine; null starts Ray on this machine.
        threads: of each task; ``auto`` is ``cpus_per_unit``.
        deadline_s: seconds after which tasks are cancelled.
        lease_s: seconds without a sign of life after which a task loses its job to another.
        cpus_per_unit: cores of a task.
        gpus_per_unit: GPUs of a task, may be a fraction.
        retries: how often Ray repeats a task whose node or process is lost.
        runtime_env: Ray's description of the environment of tasks; empty: that of the command.
    """

    address: str | None = None
    threads: int | Literal["auto"] = "auto"
    deadline_s: float | None = None
    lease_s: float = 120.0
    cpus_per_unit: int = 1
    gpus_per_unit: float = 0.0
    retries: int = 3
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    remote = True
    queues = False

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, launch: Launch) -> None:
        """Run the jobs until the deadline.

        Raises:
            ConfigError: Ray is missing, or there is no cluster at the address.
            UserError: all tasks ended before the jobs were done.
        """
        # With `uv run`, Ray would copy the folder and make an environment for every task. Read when Ray is imported.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"launcher=ray needs Ray; {install('ray')}") from error
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(address=self.address, log_to_driver=False, runtime_env=dict(self.runtime_env) or None)
            except Exception as error:  # Ray raises plain ones
                raise ConfigError(f"launcher=ray: no Ray at launcher.address={self.address}: {error}") from error
        try:
            self._run(launch)
        finally:
            if started:
                ray.shutdown()  # ends the tasks, also after Ctrl-C

    def _run(self, launch: Launch) -> None:
        import ray

        how = {"num_cpus": self.cpus_per_unit, "num_gpus": self.gpus_per_unit, "max_retries": self.retries}
        task: Any = ray.remote(_task)
        shared = ray.put(replace(launch, jobs=()))
        threads = self.cpus_per_unit if self.threads == "auto" else self.threads
        references: dict[str, Any] = {}
        for job, before in _in_order(launch.jobs):
            needed = [references[earlier.id] for earlier in before]
            references[job.id] = task.options(name=job.id, **how).remote(shared, [*before, job], threads, *needed)
        until = math.inf if self.deadline_s is None else time.monotonic() + self.deadline_s
        waiting = list(references.values())
        while waiting and (left := until - time.monotonic()) > 0:
            _, waiting = ray.wait(waiting, timeout=min(left, 1.0))
        if waiting:
            for reference in waiting:
                ray.cancel(reference)
            ray.wait(waiting, num_returns=len(waiting), timeout=30)
        elif not all(job.peek() or job.failed(launch.id) for job in launch.jobs):
            raise stopped(launch)


def _task(shared: Launch, jobs: Sequence[Job], threads: int, *needed: None) -> None:
    """Run the last of ``jobs``; the others are those it starts from, which Ray has waited for."""
    run_worker(replace(shared, jobs=jobs), threads)


def _in_order(jobs: Sequence[Job]) -> list[tuple[Job, list[Job]]]:
    """Jobs after those they start from, each with all of these."""
    known = {job.id: job for job in jobs}
    needs = {job.id: [name for name in [job.waits_for()] if name in known] for job in jobs}
    before: dict[str, list[Job]] = {}
    for name in TopologicalSorter(needs).static_order():
        earlier = [job for needed in needs[name] for job in [*before[needed], known[needed]]]
        before[name] = earlier
    return [(known[name], before[name]) for name in before]
