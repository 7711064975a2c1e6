"""The two kinds of job: pre-train a network, fine-tune it from one source.

A job is a plain description that another process can take up: whether it is done, whether it can
start, and a lock are all found on disk. Torch is imported only where a job runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from da_wa.errors import DataError
from da_wa.runs.ledger import RunDir, write_atomically

Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class Job(ABC):
    """Something to run once.

    Attributes:
        id: its name, and that of the file or folder it leaves.
        config: nested plain values.
    """

    id: str
    config: Mapping[str, Any]

    @property
    @abstractmethod
    def cost(self) -> float:
        """Image passes, for telling the time that is left."""

    @abstractmethod
    def register(self) -> None:
        """Make the place for its outcome, where a report finds that it is missing."""

    @abstractmethod
    def done(self) -> bool:
        """Whether its outcome is there."""

    def diverged(self) -> str | None:
        """Why its outcome is that there are no numbers, if so."""
        return None

    @abstractmethod
    def waits_for(self) -> str | None:
        """The job whose outcome it needs and lacks."""

    @abstractmethod
    def claim(self) -> AbstractContextManager[bool]:
        """A context that gives True when this process alone may run the job."""

    @abstractmethod
    def run(self, notify: Notify) -> None:
        """Run it and leave its outcome, whole."""

    @property
    @abstractmethod
    def note(self) -> Path:
        """The file that tells why the last attempt failed."""

    def fail(self, message: str) -> None:
        """Leave that note; the job is tried again by the next command."""
        note = {"message": message, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_atomically(self.note, lambda file: file.write(json.dumps(note, indent=1).encode()))

    def failed_since(self, moment: float) -> str | None:
        """Why an attempt failed at or after ``moment`` (seconds of the epoch), if one did."""
        try:
            if self.note.stat().st_mtime < moment:
                return None
            return str(json.loads(self.note.read_bytes())["message"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.note} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class PretrainJob(Job):
    """Trains a network on CIFAR and leaves a checkpoint; one that is shipped with the package counts as done.

    A training that diverges leaves a ``.diverged.json`` in its place. It is not tried again: the same recipe
    would diverge again, and another recipe has another name.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is, or will be."""
        shipped = Path(__file__).resolve().parents[1] / "checkpoints" / self.path.name
        return shipped if shipped.is_file() else self.path

    @property
    def cost(self) -> float:
        return 50_000.0 * int(self.config["described"]["recipe"]["epochs"])

    @property
    def note(self) -> Path:
        return self.path.with_suffix(".failure.json")

    def register(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"pre-trained networks cannot be kept in {self.path.parent}: {error.strerror}. "
                "Choose another folder with checkpoint_dir=DIR, then run the same command again."
            ) from error

    def done(self) -> bool:
        return self.checkpoint.is_file() or self._diverged.is_file()

    @property
    def _diverged(self) -> Path:
        return self.path.with_suffix(".diverged.json")

    def divergence(self) -> dict[str, Any] | None:
        """What there is to tell of a training that diverged: error, curve, environment."""
        if self.checkpoint.is_file():
            return None
        try:
            known: dict[str, Any] = json.loads(self._diverged.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self._diverged} cannot be read ({error}); delete it to train again") from error
        return known

    def diverged(self) -> str | None:
        known = self.divergence()
        return None if known is None else f"{known['error']['message']}; delete {self._diverged} to try again as it is"

    def waits_for(self) -> str | None:
        return None

    @contextmanager
    def claim(self) -> Iterator[bool]:
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror}. "
                "Choose another folder with checkpoint_dir=DIR, then run the same command again."
            ) from error
        try:
            yield True
        finally:
            lock.release()

    def run(self, notify: Notify) -> None:
        from da_wa.runs.build import run_pretraining

        divergence = run_pretraining(self.config, self.path, notify)
        if divergence is not None:
            write_atomically(self._diverged, lambda file: file.write(json.dumps(divergence, indent=1).encode()))
        self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class FinetuneJob(Job):
    """Fine-tunes from one source and leaves a record."""

    directory: RunDir
    checkpoint: Path | None
    images: int

    @property
    def cost(self) -> float:
        return float(self.images * int(self.config["details"]["finetune"]["epochs"]))

    @property
    def note(self) -> Path:
        return self.directory.path / "failure.json"

    def register(self) -> None:
        self.directory.plan(self.config)

    def done(self) -> bool:
        return self.directory.finished

    def diverged(self) -> str | None:
        error = (self.directory.record() or {}).get("error")
        return None if error is None else f"{error['message']} (epoch {error['epoch']})"

    def waits_for(self) -> str | None:
        return self.checkpoint.stem if self.checkpoint is not None and not self.checkpoint.exists() else None

    def claim(self) -> AbstractContextManager[bool]:
        return self.directory.claim()

    def run(self, notify: Notify) -> None:
        from da_wa.runs.build import run_finetuning

        started = datetime.now(UTC).isoformat(timespec="seconds")
        record, predictions = run_finetuning(self.config, self.checkpoint, self.directory.path, notify)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.directory.finish({**record, "started": started, "finished": finished}, predictions)
