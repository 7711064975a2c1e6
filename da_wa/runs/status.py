"""The state of every run of an experiment or a study, read from disk only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from da_wa.errors import DataError
from da_wa.records.design import folders_of
from da_wa.records.store import RunDir, Store
from da_wa.runs.jobs import Diverged, Done, Failed, PretrainJob, Ready, Running, State, UnitJob, Waiting


@dataclass(frozen=True)
class Status:
    """States by id.

    Attributes:
        states: of every unit, in the order of the folders.
        networks: of the pre-trainings that units wait for.
    """

    states: dict[str, State]
    networks: dict[str, State] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many units are in each state, e.g. ``{"done": 3, "ready": 1}``."""
        found = Counter(type(state).__name__.lower() for state in self.states.values())
        order = [kind.__name__.lower() for kind in (Done, Running, Ready, Waiting, Failed, Diverged)]
        return {name: found[name] for name in order if found[name]}

    @property
    def running(self) -> dict[str, Running]:
        """Units and pre-trainings that a process works on."""
        both = {**self.networks, **self.states}
        return {name: state for name, state in both.items() if isinstance(state, Running)}

    @property
    def unfinished(self) -> int:
        """How many units a worker may still run."""
        return sum(isinstance(state, Running | Ready | Waiting) for state in self.states.values())

    def summary(self) -> str:
        """How many units there are in each state, in one line."""
        noun = "run" if len(self.states) == 1 else "runs"
        return f"{len(self.states)} {noun}: {', '.join(f'{n} {name}' for name, n in self.counts.items())}"

    def failures(self) -> list[str]:
        """A line for everything that failed or diverged."""
        return [
            f"{type(state).__name__.lower()}  {name}: {state.reason.strip().splitlines()[-1]}"
            for name, state in {**self.networks, **self.states}.items()
            if isinstance(state, Failed | Diverged)
        ]


def status(out: Path, before: Status | None = None) -> Status:
    """Read the states of all units below ``out``.

    Args:
        out: the folder of the experiment or study.
        before: an earlier status; units that were finished then are not read again.

    A unit or network whose files cannot be read counts as failed.

    Raises:
        DataError: there are none.
    """
    states, networks = dict[str, State](), dict[str, State]()
    known = {} if before is None else before.states
    for run in (run for folder in folders_of(out) for run in Store(folder).runs()):
        if isinstance(ended := known.get(run.id), Done | Diverged):
            states[run.id] = ended
            continue
        states[run.id] = state = _readable(partial(_state, run))
        if not isinstance(state, Waiting) or state.job in networks or run.config().get("needs"):
            continue
        if (start := _start(run)) is not None:
            networks[state.job] = _readable(PretrainJob(state.job, {}, 0.0, start).state)
    if not states:
        raise DataError(f"There are no runs in {out}. Check out=DIR: it must be the folder of an earlier command.")
    return Status(states, networks)


def _readable(state: Callable[[], State]) -> State:
    try:
        return state()
    except DataError as error:
        return Failed(str(error))


def _state(run: RunDir) -> State:
    job = UnitJob(run.id, {}, 0.0, run, None)
    return job.outcome() or replace(job, start=_start(run), needs=run.config().get("needs")).state()


def _start(run: RunDir) -> Path | None:
    start = run.config().get("start")
    return None if start is None else Path(start)
