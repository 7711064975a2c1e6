"""From a composed experiment to finished jobs: decode, plan, check, run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from rich.console import Console

from da_wa.config.compose import Experiment
from da_wa.config.make import make
from da_wa.data.cache import DecodedDomain
from da_wa.launchers.progress import decoding, shown
from da_wa.runs.inputs import forget, load_domains
from da_wa.runs.jobs import Done, Job
from da_wa.runs.plan import plan


@dataclass(frozen=True)
class Planned:
    """An experiment, its images and its jobs.

    Attributes:
        experiment: as composed.
        domains: decoded, in display order; none for pre-training alone.
        jobs: all of them, finished ones included.
    """

    experiment: Experiment
    domains: Sequence[DecodedDomain]
    jobs: Sequence[Job]

    @property
    def out(self) -> Path:
        """The folder of the experiment."""
        return Path(self.experiment.cfg["out"])

    @property
    def unfinished(self) -> list[Job]:
        """Jobs without the outcome that was asked for: not run, failed or diverged."""
        return [job for job in self.jobs if not isinstance(job.outcome(), Done)]


def prepare(experiment: Experiment, console: Console) -> Planned:
    """Decode the images and plan the jobs.

    Raises:
        UserError: anything wrong with options or data; says what, where, and what to do next.
    """
    cfg = experiment.cfg
    user_cache = Path(platformdirs.user_cache_dir("da_wa"))
    cfg["cache_dir"] = str(cfg["cache_dir"] or user_cache / "pixels")
    networks = Path(cfg["checkpoint_dir"] or user_cache / "checkpoints")
    forget()
    with decoding(console) as progress:
        domains = load_domains(cfg["data"], Path(cfg["cache_dir"]), progress) if cfg["sources"] else []
    return Planned(experiment, domains, plan(experiment, domains, Path(cfg["out"]), networks))


def launch(planned: Planned, console: Console, jobs: Sequence[Job] | None = None) -> None:
    """Check, then run what is not finished, with the experiment's launcher.

    Args:
        planned: see :func:`prepare`.
        console: shows progress.
        jobs: only these, in this order.

    Raises:
        UserError: something that would fail inside a job, or every worker died.
    """
    jobs = planned.jobs if jobs is None else jobs
    if all(job.done for job in jobs):
        return
    from da_wa.runs.preflight import preflight  # imports torch

    preflight(planned.experiment, planned.domains, jobs)
    for job in jobs:
        job.register()
    with shown(jobs, console) as emit:
        make(planned.experiment.cfg["launcher"])(jobs, emit)
