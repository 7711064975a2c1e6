"""From a composed experiment to finished jobs: decode, plan, check, run."""

from __future__ import annotations

import math
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from rich.console import Console

from da_wa.config.compose import Experiment
from da_wa.config.loggers import check_loggers
from da_wa.config.make import make
from da_wa.launchers.events import following
from da_wa.launchers.launcher import Launcher
from da_wa.launchers.progress import phase, shown, steps
from da_wa.launchers.worker import Launch
from da_wa.records.store import Store
from da_wa.runs.inputs import Inputs, forget, load_pretraining, refuse_among_images
from da_wa.runs.jobs import Done, Job, PretrainJob, UnitJob
from da_wa.runs.plan import chosen_sources, plan
from da_wa.runs.seeds import blocked, needed, state


@dataclass(frozen=True)
class Planned:
    """An experiment, its images and its jobs.

    Attributes:
        experiment: as composed.
        inputs: its domains; None for pre-training alone.
        jobs: all of them, finished ones included.
        merged: the experiments whose jobs these are, if they are of several.
    """

    experiment: Experiment
    inputs: Inputs | None
    jobs: Sequence[Job]
    merged: Sequence[Planned] = ()

    @property
    def out(self) -> Path:
        """The folder of the experiment."""
        return Path(self.experiment.cfg["out"])

    @property
    def detached(self) -> bool:
        """Whether the command ends when its workers are submitted."""
        return bool(self.experiment.cfg["launcher"].get("detach"))

    @property
    def submitted(self) -> bool:
        """Whether workers of a detached launcher still have something to do."""
        return self.detached and _open(self.needed, self.jobs)

    @property
    def unfinished(self) -> list[Job]:
        """Jobs that are needed and have no result: not run, failed or diverged."""
        return [job for job in self.needed if not isinstance(job.outcome(), Done)]

    @property
    def needed(self) -> list[Job]:
        """All jobs; with ``seeds=auto`` those of the seeds that comparisons need so far.

        Raises:
            ConfigError: ``seeds=auto`` without a comparison.
        """
        if not self.experiment.auto or self.inputs is None:
            return list(self.jobs)
        return needed(self.jobs, self.experiment.cfg["report"].get("contrasts"))


def prepare(experiment: Experiment, console: Console, known: Inputs | None = None) -> Planned:
    """Read the manifests of the domains and plan the jobs; nothing is decoded.

    Args:
        experiment: as composed; its folders of caches are filled in.
        console: shows progress.
        known: images of an earlier experiment, which are used if the options of the data are the same.

    Raises:
        UserError: an option or the data is wrong; the message names the next step.
    """
    cfg = experiment.cfg
    user_cache = Path(platformdirs.user_cache_dir("da_wa"))
    cfg["cache_dir"] = str(cfg["cache_dir"] or user_cache / "pixels")
    networks = Path(cfg["checkpoint_dir"] or user_cache / "checkpoints")
    written = {"out": Path(cfg["out"]), "cache_dir": Path(cfg["cache_dir"]), "checkpoint_dir": networks}
    refuse_among_images(cfg["data"], written)
    forget()
    check_loggers(cfg["logger"])
    if not cfg["sources"]:
        return Planned(experiment, None, plan(experiment, [], Path(cfg["out"]), networks))
    if (codes := cfg["data"].get("codes")) is not None:
        chosen_sources(cfg["sources"], [*codes, *cfg["data"]["extra"]])  # before the images are downloaded
    cache = Path(cfg["cache_dir"])
    inputs = known if known is not None and known.are_of(cfg["data"], cache) else Inputs(cfg["data"], cache)
    with steps(console) as inputs.progress:
        jobs = plan(experiment, inputs.manifests, Path(cfg["out"]), networks)
    for line in _lacking([job for job in jobs if isinstance(job, UnitJob)]):
        console.print(line, highlight=False, markup=False)
    return Planned(experiment, inputs, jobs)


def _lacking(units: Sequence[UnitJob]) -> list[str]:
    """A line for each option that finished runs were made without."""
    found: dict[str, list[str]] = defaultdict(list)
    for job in units:
        for option in job.lacks():
            found[option].append(job.id)
    return [
        f"{option}: {len(ids)} of {len(units)} runs finished without it (first: {ids[0]}) and are not repeated; "
        "use another out=DIR, or delete their folders"
        for option, ids in found.items()
    ]


def launch(planned: Planned, console: Console, jobs: Sequence[Job] | None = None) -> str:
    """Check, decode, then run unfinished jobs with the launcher of the experiment.

    Args:
        planned: see :func:`prepare`.
        console: shows progress.
        jobs: only these, in this order.

    Returns:
        The id of this launch, see :meth:`~da_wa.runs.jobs.Job.failed`.

    Raises:
        UserError: a check failed, or the workers ended before the jobs were done.
    """
    launch_id = uuid.uuid4().hex[:12]
    if jobs is not None or not planned.experiment.auto:
        _run(planned, console, planned.jobs if jobs is None else jobs, launch_id)
    else:
        _run_until_decided(planned, console, launch_id)
    _release(planned)
    return launch_id


def _run_until_decided(planned: Planned, console: Console, launch_id: str) -> None:
    """``seeds=auto``: run the seeds that comparisons need, round by round."""
    options = planned.experiment.cfg["launcher"]
    limit: float | None = None if make(options).queues else options.get("deadline_s")
    ends = math.inf if limit is None else time.monotonic() + limit
    while (left := ends - time.monotonic()) > 0:
        wanted = planned.needed
        if not _open(wanted, planned.jobs):
            break
        if limit is not None:
            options["deadline_s"] = left
        _run(planned, console, wanted, launch_id)
        if limit is not None:
            options["deadline_s"] = limit
        if planned.detached or _open(wanted, planned.jobs):  # submitted, failed, or out of time
            break
        contrasts = planned.experiment.cfg["report"].get("contrasts")
        console.print(state(planned.jobs, contrasts))


def _open(wanted: Sequence[Job], jobs: Sequence[Job]) -> bool:
    """Whether a job has no result and can still run."""
    by_id = {job.id: job for job in jobs}
    return any(not job.done and not blocked(job, by_id) for job in wanted)


def _run(planned: Planned, console: Console, jobs: Sequence[Job], launch_id: str) -> None:
    cfg = planned.experiment.cfg
    pending = [job for job in jobs if not isinstance(job.outcome(), Done)]
    if all(job.done for job in pending):
        return
    parts = planned.merged or [planned]
    for summary in dict.fromkeys(part.inputs.summary for part in parts if part.inputs):
        console.print(summary)
    with phase(console, "Loading PyTorch"):
        from da_wa.runs.preflight import preflight  # imports torch

    for part in parts:
        preflight(part.experiment, part.inputs.manifests if part.inputs else [], _common(part.jobs, jobs))
    launcher: Launcher = make(cfg["launcher"])
    for part in parts:
        decode(part, _common(part.jobs, pending), console)
    with ThreadPoolExecutor(16) as pool:  # writing waits for the disk
        list(pool.map(lambda job: job.register(), pending))
    work = Launch(launch_id, pending, planned.out.absolute(), cfg["trainer"], launcher.lease_s)
    if planned.detached:
        launcher(work)
        if not planned.merged:  # a study names its own folder
            console.print(f"Follow it with: da-wa watch out={planned.out}")
        return
    with shown(jobs, console) as emit, following(planned.out, emit):
        launcher(work)


def _release(planned: Planned) -> None:
    """Delete networks that other runs started from, also those that an earlier, detached or killed command needed."""
    for part in planned.merged or [planned]:
        if sources := [job for job in part.jobs if isinstance(job, UnitJob) and job.dependents]:
            awaited = Store(part.out).awaited()
            for job in sources:
                job.release(awaited)


def _common(own: Sequence[Job], jobs: Sequence[Job]) -> list[Job]:
    """Those of ``jobs`` that are an experiment's own."""
    known = {job.id for job in own}
    return [job for job in jobs if job.id in known]


def decode(planned: Planned, pending: Sequence[Job], console: Console) -> None:
    """Decode the images that jobs of an experiment need, so that workers find them in the cache.

    Raises:
        UserError: images cannot be decoded; the message lists them.
    """
    cfg = planned.experiment.cfg
    with steps(console) as progress:
        if planned.inputs is not None and any(isinstance(job, UnitJob) for job in pending):
            planned.inputs.progress = progress
            _ = planned.inputs.decoded
        if any(isinstance(job, PretrainJob) for job in pending):
            load_pretraining(cfg["pretrain"]["data"], cfg["pretrain"]["size"], Path(cfg["cache_dir"]), progress)
