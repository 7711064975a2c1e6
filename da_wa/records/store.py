"""The records of one ``out`` folder: a directory per unit under ``out/runs/<id>/``.

========================  =====================================================================================
``config.yaml``           the plan of the unit, written before it runs
``last.ckpt``             the training state after the last epoch, while the unit is running
``outputs.npz``           logits or predictions of every evaluated image, see ``outputs.py``
``weights.safetensors``   the trained network, with ``keep=[weights]``
``weights-5.safetensors`` the network after epoch 5, with ``keep_epochs=[5]``
``record.json``           everything else, see ``schema.py``; appears last: a unit with a record is finished
``failure.json``          why the last attempt failed; the unit is tried again by the next command
``lease``                 of the process that works on the unit, see ``lease.py``
========================  =====================================================================================

Files are written atomically: after a crash there is either the old file or the new one. Files are checked when they are
read; an invalid record counts as missing. Records of schema 1 are migrated when they are read.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from da_wa.errors import ConfigError, DataError, NewerVersion
from da_wa.records import lease, migrate
from da_wa.records.files import MAKE_ROOM, read_bytes, remove_drafts, write_bytes, write_json
from da_wa.records.outputs import Outputs, pack, unpack
from da_wa.records.plain import plain
from da_wa.records.schema import Checksum, Plan, Record, parse, parse_plan

OUTPUTS = "outputs.npz"

_AWAY = "Restore it, or move its folder away to run the unit again."

_FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is installed
_FastDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Store:
    """All units of one ``out`` folder."""

    def __init__(self, out: Path) -> None:
        self.path = Path(out) / "runs"

    def run(self, run_id: str) -> RunDir:
        """The directory of a unit, which need not exist yet.

        Raises:
            ConfigError: ``run_id`` cannot name a folder.
        """
        if run_id in ("", "..") or Path(run_id).name != run_id or "\0" in run_id:
            raise ConfigError(f"{run_id!r} is not a valid name of a run: it must be the name of a folder.")
        return RunDir(self.path / run_id)

    def runs(self) -> list[RunDir]:
        """Every planned unit, ordered by id."""
        return [RunDir(config.parent) for config in sorted(self.path.glob("*/config.yaml"))]

    def awaited(self) -> set[str]:
        """Ids of the units whose weights an unfinished unit starts from."""
        found = set()
        for run in self.runs():
            if not (run.path / "record.json").exists():
                with suppress(DataError):
                    if name := run.config().get("needs"):
                        found.add(str(name))
        return found


@dataclass(frozen=True)
class Ended:
    """How a unit ended: ``error`` is why it diverged, None for a finished one."""

    error: str | None


@dataclass(frozen=True)
class Failure:
    """Why the last attempt failed, and the ids of the commands in which one did."""

    message: str
    launches: list[str]


@dataclass(frozen=True)
class RunDir:
    """The directory of one unit; its name is the unit's id."""

    path: Path

    @property
    def id(self) -> str:
        """The unit's id."""
        return self.path.name

    def plan(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml`` where it is new or differs; a finished unit keeps the one it was run with.

        Raises:
            DataError: the folder cannot be written.
        """
        text = _dump_yaml(plain(config))
        target = self.path / "config.yaml"
        known = read_bytes(target)
        if known is None or (known != text and not self.finished):
            write_bytes(target, text)

    @property
    def held(self) -> bool:
        """Whether a process works on the unit."""
        with suppress(OSError):
            return lease.holder(self.path / "lease") is not None
        return False

    @property
    def finished(self) -> bool:
        """Whether a record that can be trusted is there; its training may have diverged."""
        return self.record() is not None

    def record(self) -> Record | None:
        """The record, or None where there is none; one that cannot be trusted gives a warning and None.

        Raises:
            NewerVersion: a later version of da_wa has written it.
        """
        try:
            return self.verified()
        except NewerVersion:
            raise
        except DataError as error:
            warnings.warn(f"{error} The run counts as unfinished.", stacklevel=2)
            return None

    def verified(self) -> Record | None:
        """The record, or None where there is none.

        Raises:
            DataError: the record or its outputs are damaged, belong to another unit, or have an unknown schema.
        """
        record = self._unchecked()
        if record is not None:
            self._checked_outputs(record)
        return record

    def load(self) -> tuple[Record, Outputs] | None:
        """The record and its outputs, each file read once, or None where there is no record.

        Raises:
            DataError: see :meth:`verified` and :meth:`outputs`.
        """
        record = self._unchecked()
        return None if record is None else (record, self.outputs(record))

    def _unchecked(self) -> Record | None:
        """The record; its outputs have not been looked at."""
        path = self.path / "record.json"
        content = read_bytes(path)
        if content is None:
            return None
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}).") from error
        old = migrate.is_schema_1(raw)
        record = migrate.record(raw, self.config(), str(path)) if old else parse(raw, str(path))
        if record.id != self.id:
            raise DataError(f"{path} belongs to the run {record.id!r}.")
        return record

    def outputs(self, record: Record | None = None) -> Outputs:
        """What the network of a finished unit said of every evaluated image; empty for one that diverged.

        Args:
            record: the unit's, where it has been read already.

        Raises:
            DataError: the unit is not finished, its files cannot be trusted, or the counts in the record are not
                those of the outputs.
        """
        record = record or self._unchecked()
        if record is None:
            raise DataError(f"{self.path} holds no finished run: rerun the command that planned it.")
        path, content = self._checked_outputs(record)
        old = path.name == migrate.OUTPUTS
        outputs = migrate.outputs(content, record.domains, str(path)) if old else unpack(content, str(path))
        _check_counts(record, outputs, self.path)
        return outputs

    def config(self) -> dict[str, Any]:
        """The plan as it was written, all of it.

        Raises:
            DataError: ``config.yaml`` cannot be read.
        """
        path = self.path / "config.yaml"
        content = read_bytes(path) or b""
        try:
            config = _load_yaml(content)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{path} is not valid YAML ({' '.join(str(error).split())}). {_AWAY}") from error
        if not isinstance(config, dict):
            raise DataError(f"{path} holds no configuration. {_AWAY}")
        return config

    def planned(self) -> Plan:
        """The unit as it was planned.

        Raises:
            DataError: ``config.yaml`` cannot be read.
        """
        raw = self.config()
        where = str(self.path / "config.yaml")
        return parse_plan(raw["unit"], where) if "unit" in raw else migrate.plan(raw, where)

    def peek(self) -> Ended | None:
        """How the unit ended, from the record alone; None where there is no record that can be read."""
        try:
            error = json.loads((self.path / "record.json").read_bytes()).get("error")
            return Ended(None if error is None else f"{error['message']} (epoch {error['epoch']})")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def set_aside(self, flaw: str) -> None:
        """Rename a record that does not count to ``record.<flaw>``.

        Raises:
            DataError: the folder cannot be written.
        """
        path = self.path / "record.json"
        try:
            path.replace(path.with_suffix(f".{flaw}"))
        except OSError as error:
            raise DataError(f"Cannot rename {path}: {error.strerror}. {MAKE_ROOM}") from error

    def last_modified(self) -> float:
        """When the unit was last planned anew or tried, in seconds of the epoch; 0 when that is not known."""
        times = []
        for name in ("config.yaml", "failure.json", "last.ckpt"):
            with suppress(OSError):
                times.append((self.path / name).stat().st_mtime)
        return max(times, default=0.0)

    def failure(self) -> str | None:
        """What the last attempt raised, if it did."""
        known = failure(self.path / "failure.json")
        return None if known is None else known.message

    def finish(self, record: Record, outputs: Outputs) -> Record:
        """Write the record and its outputs; from then on the unit is finished and never run again.

        Args:
            record: ``outputs``, the checksum, is filled in.
            outputs: of every evaluated image.

        Returns:
            The record as it was written.

        Raises:
            DataError: the files cannot be written; the unit stays unfinished.
            ValueError: the record belongs to another unit, or its counts are not those of the outputs.
        """
        if record.id != self.id:
            raise ValueError(f"the record of {record.id} does not belong into {self.path}")
        try:
            _check_counts(record, outputs, self.path)
        except DataError as error:
            raise ValueError(str(error)) from error
        content = pack(outputs)
        record = record.model_copy(update={"outputs": _checksum(content)})
        write_bytes(self.path / OUTPUTS, content)
        write_json(self.path / "record.json", plain(record.model_dump(by_alias=True)))
        for name in ("last.ckpt", "failure.json"):
            (self.path / name).unlink(missing_ok=True)
        for name in (OUTPUTS, "record.json", "last.ckpt", "failure.json"):
            remove_drafts(self.path / name)
        return record

    def _checked_outputs(self, record: Record) -> tuple[Path, bytes]:
        """The outputs' file and its content, exactly what was written with ``record``."""
        if record.outputs is None:
            raise DataError(f"{self.path / 'record.json'} has no checksum of its outputs.")
        paths = [self.path / name for name in (OUTPUTS, migrate.OUTPUTS)]
        found = {path: content for path in paths if (content := read_bytes(path)) is not None}
        for path, content in found.items():
            if record.outputs == _checksum(content):
                return path, content
        flaw = "is damaged or not the one that record.json refers to" if found else "is missing"
        raise DataError(f"{next(iter(found), paths[0])} {flaw}.")


@contextmanager
def claimed(path: Path, drafts: str, stale_s: float = lease.STALE_S) -> Iterator[bool]:
    """Hold a lease without waiting: gives False when another process holds it; see :func:`lease.leased`.

    Raises:
        DataError: the folder cannot be written.
    """
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = held.enter_context(lease.leased(path, drafts, stale_s))
        except OSError as error:
            raise DataError(f"Cannot write {path.parent}: {error.strerror or error}. {MAKE_ROOM}") from error
        yield mine


def failure(path: Path) -> Failure | None:
    """A ``failure.json``, None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        known = json.loads(content)
        return Failure(str(known["message"]) or "it failed without a message", list(known.get("launches", [])))
    except (ValueError, TypeError, KeyError, AttributeError):
        return Failure("it failed, and failure.json cannot be read", [])


def _check_counts(record: Record, outputs: Outputs, where: Path) -> None:
    """Compare the counts of a record with the outputs that they were counted from."""
    stored = {(row.domain, row.epoch): (row.correct, row.n) for row in record.evaluations}
    counted = {
        (name, int(epoch)): (int(correct), len(domain.labels))
        for name, domain in outputs.domains.items()
        for epoch, correct in zip(outputs.epochs, domain.correct, strict=True)
    }
    for name, epoch in [*stored, *counted]:
        there, here = (
            "nothing" if counts is None else f"{counts[0]} of {counts[1]} correct"
            for counts in (stored.get((name, epoch)), counted.get((name, epoch)))
        )
        if there != here:
            raise DataError(
                f"{where}: for {name!r} in epoch {epoch} record.json has {there}, the stored outputs have {here}. "
                "Delete the folder and rerun the command."
            )


def _checksum(content: bytes) -> Checksum:
    return Checksum(crc32=zlib.crc32(content), bytes=len(content))


def _dump_yaml(value: Any) -> bytes:
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}
    try:
        return str(yaml.dump(value, Dumper=_FastDumper, **options)).encode()
    except UnicodeEncodeError:  # libyaml cannot write undecodable bytes in names
        return str(yaml.dump(value, Dumper=yaml.SafeDumper, **options)).encode()


def _load_yaml(content: bytes) -> Any:
    try:
        return yaml.load(content, _FastLoader)
    except yaml.YAMLError:  # libyaml cannot read the escapes of undecodable bytes in names
        return yaml.load(content, yaml.SafeLoader)
