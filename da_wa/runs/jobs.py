"""Jobs as plain data: pre-train a network, or run one unit of the table.

A job can be pickled. Its state is on disk, so any process can read the state and run the job. ``execute.py`` runs jobs.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from da_wa.errors import DataError
from da_wa.records.files import read_bytes, write_json
from da_wa.records.lease import STALE_S, Holder, holder
from da_wa.records.schema import Plan, Record, parse_plan
from da_wa.records.store import RunDir, claimed, failure
from da_wa.shipped import CHECKPOINTS


@dataclass(frozen=True)
class Waiting:
    """It needs the result of an unfinished job."""

    job: str


@dataclass(frozen=True)
class Ready:
    """It can start."""


@dataclass(frozen=True)
class Running:
    """A process works on it."""

    holder: Holder | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Done:
    """Its result exists."""


@dataclass(frozen=True)
class Diverged:
    """Its training loss became non-finite; it is not repeated, unless a command sets another ``trainer.precision``."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """The last attempt failed; the next command tries again."""

    reason: str
    launches: Sequence[str] = ()  # ids of the commands in which it failed


ASKED = ("keep", "keep_epochs", "label_firewall")
"""Options of a unit that change neither its results nor its name."""

WEIGHTS = "weights.safetensors"
"""The file of a unit's trained network."""

State = Waiting | Ready | Running | Done | Diverged | Failed


@dataclass(frozen=True)
class Job:
    """Something to run once.

    Attributes:
        id: its name, also of its file or folder.
        config: what ``execute`` needs, as nested plain values.
        cost: image passes, for estimating the remaining time.
    """

    id: str
    config: Mapping[str, Any]
    cost: float

    @property
    def failure_file(self) -> Path:
        """The file that says why the last attempt failed."""
        raise NotImplementedError

    @property
    def lease_file(self) -> Path:
        """The lease of the process that works on the job."""
        raise NotImplementedError

    @property
    def drafts(self) -> str:
        """Pattern of the unfinished files that a killed process may have left beside :attr:`lease_file`."""
        raise NotImplementedError

    def outcome(self) -> Done | Diverged | None:
        """Its result; None if it is unfinished."""
        raise NotImplementedError

    def peek(self) -> Done | Diverged | None:
        """Its result, without checking the files against each other."""
        return self.outcome()

    def waits_for(self) -> str | None:
        """The id of the unfinished job that it needs, if any."""
        return None

    def register(self) -> None:
        """Create the folder of its result.

        Raises:
            DataError: the folder cannot be written.
        """
        raise NotImplementedError

    def state(self) -> State:
        """Its state on disk.

        Raises:
            DataError: a file cannot be read.
        """
        if ended := self.outcome():
            return ended
        try:
            by = holder(self.lease_file)
        except OSError as error:
            raise DataError(f"{self.lease_file} cannot be read ({error.strerror or error}).") from error
        if by is not None:
            return Running(by)
        if failed := self.failed():
            return failed
        needed = self.waits_for()
        return Ready() if needed is None else Waiting(needed)

    @property
    def _precision(self) -> str:
        """The ``trainer.precision`` of the command."""
        return str(self.config.get("trainer", {}).get("precision", "auto"))

    @property
    def done(self) -> bool:
        """Whether it is finished; a diverged job is finished."""
        return self.outcome() is not None

    @contextmanager
    def claim(self, stale_s: float = STALE_S) -> Iterator[bool]:
        """Hold the job; yields False at once if another process holds it.

        Args:
            stale_s: seconds without a sign of life of this process after which others take over.

        Raises:
            DataError: the folder cannot be written.
        """
        with claimed(self.lease_file, self.drafts, stale_s) as mine:
            yield mine

    def fail(self, reason: str, launch: str = "") -> None:
        """Record why an attempt failed.

        Args:
            reason: one line or a traceback.
            launch: the id of the command; its workers do not try the job again.

        Raises:
            DataError: the note cannot be written.
        """
        known = self.failed()
        launches = [*(known.launches if known else ()), launch][-20:]
        time = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.failure_file, {"message": reason, "time": time, "launches": launches})

    def failed(self, launch: str | None = None) -> Failed | None:
        """The failure of the last attempt, if there was one: of any command, or of ``launch``."""
        known = failure(self.failure_file)
        if known is None or (launch is not None and launch not in known.launches):
            return None
        return Failed(known.message, known.launches)


def tries_again(asked: str, computed: Mapping[str, Any]) -> bool:
    """Whether a command sets another precision than the one in which a training diverged.

    Args:
        asked: ``trainer.precision`` of the command.
        computed: what is known of the training, with its ``precision``.

    >>> [tries_again(asked, {"precision": "bf16-mixed"}) for asked in ("auto", "32-true")]
    [False, True]
    """
    return asked not in ("auto", computed.get("precision", asked))


@dataclass(frozen=True)
class PretrainJob(Job):
    """Pre-train a network and write a checkpoint. A checkpoint shipped with the package counts as done.

    A diverged training writes ``.diverged.json`` instead. It is not repeated: the same recipe would diverge again, and
    another recipe has another name. A command that sets another precision tries again.

    Attributes:
        path: of the checkpoint.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is, or will be."""
        packaged = CHECKPOINTS / self.path.name
        return packaged if os.path.isfile(packaged) else self.path

    @property
    def failure_file(self) -> Path:
        return self.path.with_suffix(".failure.json")

    @property
    def lease_file(self) -> Path:
        return self.path.with_suffix(".lease")

    @property
    def drafts(self) -> str:
        return f".{glob.escape(self.id)}.*.part"

    @property
    def diverged_file(self) -> Path:
        """Written by a training that diverged: error, curve, provenance."""
        return self.path.with_suffix(".diverged.json")

    def register(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.outcome() is None:
                self.diverged_file.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"Cannot write pre-trained networks to {self.path.parent}: {error.strerror}. "
                "Choose another folder with checkpoint_dir=DIR, then rerun the command."
            ) from error

    def outcome(self) -> Done | Diverged | None:
        if os.path.isfile(self.checkpoint):
            return Done()
        known = self.divergence()
        if known is None or tries_again(self._precision, known.get("provenance", {})):
            return None
        return Diverged(f"{known['error']['message']}; delete {self.diverged_file} to try again with the same recipe")

    def divergence(self) -> dict[str, Any] | None:
        """Error, curve and provenance of a training that diverged.

        Raises:
            DataError: the file cannot be read.
        """
        content = None if os.path.isfile(self.checkpoint) else read_bytes(self.diverged_file)
        if content is None:
            return None
        try:
            known: dict[str, Any] = json.loads(content)
            _ = known["error"]["message"], known["error"]["epoch"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.diverged_file} cannot be read ({error!r}); delete it to train again.") from error
        return known


@dataclass(frozen=True)
class UnitJob(Job):
    """Run one unit and write a record.

    A unit that others start from is not done before its weights exist, as long as one of these has no record.

    Attributes:
        directory: where its files are.
        start: the checkpoint of the network it starts from, None for an untrained one.
        needs: the id of the unit that writes ``start``; None for a pre-trained network.
        dependents: the directories of the units that start from this one.
    """

    directory: RunDir
    start: Path | None
    needs: str | None = None
    dependents: Sequence[RunDir] = ()

    @cached_property
    def unit(self) -> Plan:
        """What it runs.

        Raises:
            DataError: the configuration has no valid plan.
        """
        return parse_plan(self.config["unit"], self.id)

    @property
    def weights(self) -> Path:
        """Where the trained network is kept."""
        return self.directory.path / WEIGHTS

    def weights_after(self, epoch: int) -> Path:
        """Where the network after an epoch of ``keep_epochs`` is kept; 0: before the first."""
        return self.directory.path / f"weights-{epoch}.safetensors"

    @property
    def keeps_weights(self) -> bool:
        """Whether the user asked for them, or a planned unit needs them."""
        return "weights" in (self.asked()["keep"] or ()) or self._awaited

    def asked(self) -> dict[str, Any]:
        """What to keep for all commands that have planned the unit, and what this or the latest command checks."""
        configs = [self.config]
        with suppress(DataError):
            configs.insert(0, self.directory.config())
        keep = [config["keep"] for config in configs if config.get("keep") is not None]
        return {
            "keep": list(dict.fromkeys(chain(*keep))) if keep else None,
            "keep_epochs": list(dict.fromkeys(chain(*(config.get("keep_epochs", ()) for config in configs)))),
            "label_firewall": any(config.get("label_firewall") for config in configs),
        }

    @property
    def _awaited(self) -> bool:
        return any(run.peek() is None for run in self.dependents)

    @property
    def _owes_weights(self) -> bool:
        return bool(self.dependents) and not os.path.exists(self.weights) and self._awaited

    def lacks(self) -> list[str]:
        """What this command asks a finished run to keep or to check, and the run was made without.

        Raises:
            DataError: the run's files cannot be trusted.
        """
        config = self.config
        record = self.directory.record() if any(config[key] for key in ASKED) else None
        if record is None or record.error is not None or self._owes_weights:
            return []
        keep = config["keep"] or ()
        trained = max((row.epoch for row in record.curve), default=0)  # methods may have fewer epochs, or none
        wanted = [epoch for epoch in config["keep_epochs"] if epoch <= trained]
        lost = [epoch for epoch in wanted if not os.path.exists(self.weights_after(epoch))]
        lacking = {
            "keep=[weights]": "weights" in keep and not os.path.exists(self.weights),
            "keep=[logits]": "logits" in keep and not self.directory.outputs(record).have_all_logits,
            f"keep_epochs={lost}".replace(" ", ""): bool(lost),
            "label_firewall=true": config["label_firewall"] and record.target and not record.label_firewall,
        }
        return [option for option, so in lacking.items() if so]

    def release(self, awaited: Container[str] = ()) -> None:
        """Delete weights that no planned unit needs any more, unless the user asked for them.

        Args:
            awaited: ids of units that others start from, which another command may have planned;
                :meth:`da_wa.records.store.Store.awaited`.
        """
        if not self.dependents or not os.path.exists(self.weights) or self._awaited or self.id in awaited:
            return
        if "weights" not in (self.asked()["keep"] or ()):
            self.weights.unlink(missing_ok=True)

    @property
    def failure_file(self) -> Path:
        return self.directory.path / "failure.json"

    @property
    def lease_file(self) -> Path:
        return self.directory.path / "lease"

    @property
    def drafts(self) -> str:
        return ".*.part"

    def register(self) -> None:
        if self.directory.peek() is not None and self._flaw():  # workers trust what others finished
            with self.claim() as mine:
                if mine and (flaw := self._flaw()):
                    self.directory.set_aside(flaw)
        checks = self.config.get("label_firewall", False)  # an earlier command's is taken back
        self.directory.plan({**self.config, **self.asked(), "label_firewall": checks})

    def _flaw(self) -> str:
        """Why the record does not count: ``damaged``, or ``diverged`` in another precision; empty if it does."""
        record = self.directory.record()
        if record is None:
            return "damaged"
        return "diverged" if record.error is not None and self._tried_again(record) else ""

    def _tried_again(self, record: Record) -> bool:
        """Whether a diverged run is repeated; not one of another unit, whose network was in the earlier precision."""
        return self.needs is None and tries_again(self._precision, record.provenance)

    def outcome(self) -> Done | Diverged | None:
        record = self.directory.record()
        if record is None or (record.error is None and self._owes_weights):
            return None
        if record.error is None:
            return Done()
        if self._tried_again(record):
            return None
        return Diverged(f"{record.error.message} (epoch {record.error.epoch})")

    def peek(self) -> Done | Diverged | None:
        ended = self.directory.peek()
        if ended is None or (ended.error is None and self._owes_weights):
            return None
        return Done() if ended.error is None else Diverged(ended.error)

    def waits_for(self) -> str | None:
        if self.start is None or os.path.exists(self.start):
            return None
        return self.needs or self.start.stem
