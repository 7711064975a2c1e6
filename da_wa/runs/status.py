"""The state of every run in an ``out`` folder, read from disk only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from da_wa.errors import DataError
from da_wa.records.store import Store
from da_wa.runs.jobs import Diverged, Done, Failed, Ready, Running, State, UnitJob, Waiting


@dataclass(frozen=True)
class Status:
    """The state of every unit, by id, in the order of the folders."""

    states: dict[str, State]

    @property
    def counts(self) -> dict[str, int]:
        """How many units are in each state, e.g. ``{"done": 3, "ready": 1}``."""
        found = Counter(type(state).__name__.lower() for state in self.states.values())
        order = [kind.__name__.lower() for kind in (Done, Running, Ready, Waiting, Failed, Diverged)]
        return {name: found[name] for name in order if found[name]}

    def lines(self) -> list[str]:
        """A summary, and a line for every unit that is running, failed or diverged."""
        total = len(self.states)
        summary = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        found = [f"{total} units: {summary}"]
        for run_id, state in self.states.items():
            match state:
                case Failed(reason, _) | Diverged(reason):
                    found.append(f"{type(state).__name__.lower()}  {run_id}: {reason.strip().splitlines()[-1]}")
                case Running():
                    found.append(f"running  {run_id}")
                case _:
                    pass
        return found


def status(out: Path) -> Status:
    """Read the states of all units below ``out``.

    Raises:
        DataError: there are none, or a file cannot be read.
    """
    store, states = Store(out), {}
    for run in store.runs():
        start = run.config().get("start")
        job = UnitJob(run.id, {}, 0.0, run, None if start is None else Path(start))
        states[run.id] = job.state()
    if not states:
        raise DataError(
            f"There are no runs in {store.path}. Check out=DIR: it must be the folder of an earlier command."
        )
    return Status(states)
