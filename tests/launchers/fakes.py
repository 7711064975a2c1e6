"""Jobs without a network, whose work and troubles are files in a folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from da_wa.errors import UserError
from da_wa.records.files import write_bytes
from da_wa.runs.execute import execute
from da_wa.runs.jobs import Diverged, Done, Job


@dataclass(frozen=True)
class Fake(Job):
    """Appends its name to a log, an epoch at a time, and leaves a file."""

    folder: Path
    needs: str | None = None
    trouble: str | None = None
    epochs: int = 1
    pace: float = 0.0  # seconds of an epoch
    stays: bool = False  # until its process is killed

    @property
    def failure_file(self) -> Path:
        return self.folder / f"{self.id}.failure.json"

    @property
    def lease_file(self) -> Path:
        return self.folder / f"{self.id}.lease"

    @property
    def drafts(self) -> str:
        return f".{self.id}.*.part"

    def register(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def outcome(self) -> Done | Diverged | None:
        if self.trouble == "divergence":
            return Diverged("not finite")
        return Done() if (self.folder / f"{self.id}.done").exists() else None

    def waits_for(self) -> str | None:
        return self.needs if self.needs and not (self.folder / f"{self.needs}.done").exists() else None

    def fail(self, reason: str, launch: str = "") -> None:
        if self.trouble == "disk":
            raise UserError("the disk is full")
        super().fail(reason, launch)


@execute.register
def _run(job: Fake, notify) -> None:
    state = job.folder / f"{job.id}.state"
    for epoch in range(int(state.read_text()) if state.exists() else 0, job.epochs):
        _append(job.folder / "log", f"{job.id}{epoch + 1 if job.epochs > 1 else ''}")
        time.sleep(job.pace)
        write_bytes(state, str(epoch + 1).encode())
        while job.stays:
            time.sleep(0.02)
        notify(epoch + 1, job.epochs)
    if job.trouble in ("user", "disk"):
        raise UserError("the disk is full" if job.trouble == "disk" else "a mistake of the user's")
    if job.trouble == "bug":
        raise ZeroDivisionError("a mistake of ours")
    if job.trouble == "death":
        os._exit(9)
    write_bytes(job.folder / f"{job.id}.done", str(os.getpid()).encode())
    _append(job.folder / "recorded", job.id)


def _append(path: Path, line: str) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def fake(name: str, folder: Path, **kwargs) -> Fake:
    return Fake(name, {}, 1.0, folder, **kwargs)


def ran(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().split() if log.exists() else []


def recorded(folder: Path) -> list[str]:
    """The jobs whose results were written, in order; twice where it happened twice."""
    path = folder / "recorded"
    return path.read_text().split() if path.exists() else []
