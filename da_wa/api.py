"""The command from Python: run an experiment, load its results, ask for tables.

    from da_wa import api

    results = api.run(["experiment=demo", "norms=[bn,bn_wa]"])
    results.matrix()

``api.run`` takes the overrides of the command line. ``api.load`` reads the results of earlier commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from rich.console import Console

from da_wa.config.compose import Experiment
from da_wa.launchers.progress import decoding
from da_wa.runs.inputs import load_domains
from da_wa.runs.jobs import Done, Job
from da_wa.runs.plan import plan


@dataclass(frozen=True)
class Planned:
    """An experiment and its jobs.

    Attributes:
        experiment: as composed.
        jobs: all of them, finished ones included.
        out: the folder of the experiment.
    """

    experiment: Experiment
    jobs: Sequence[Job]
    out: Path

    @property
    def unfinished(self) -> list[Job]:
        """Jobs without the outcome that was asked for."""
        return [job for job in self.jobs if not isinstance(job.outcome(), Done)]


def prepare(experiment: Experiment, console: Console) -> Planned:
    """Decode the images of an experiment and plan its jobs.

    Raises:
        UserError: anything wrong with options or data.
    """
    cfg = experiment.cfg
    user_cache = Path(platformdirs.user_cache_dir("da_wa"))
    cfg["cache_dir"] = str(cfg["cache_dir"] or user_cache / "pixels")
    out, networks = Path(cfg["out"]), Path(cfg["checkpoint_dir"] or user_cache / "checkpoints")
    with decoding(console) as progress:
        domains = load_domains(cfg["data"], Path(cfg["cache_dir"]), progress) if cfg["sources"] else []
    return Planned(experiment, plan(experiment, domains, out, networks), out)
