"""What was planned and what came out: one directory per run under ``out/runs/<id>/``.

========================  =====================================================================================
``config.yaml``           the resolved configuration of the job, written when it is planned
``last.ckpt``             the training state after the last epoch, while the run is under way
``predictions.npz``       the label predicted for every evaluated image
``record.json``           everything else that came out; appears last, so that a run with a record is a whole run
``failure.json``          why the last attempt raised; the run is tried again next time
``lock``                  held by the process that works on the run
========================  =====================================================================================

Every file is written beside its place and then moved there: a crash at any moment leaves the old file or
the new one. What is read is checked, and a record that cannot be trusted counts as not there.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from da_wa.errors import ConfigError, DataError

SCHEMA = 1
"""The version of ``record.json``, raised when a field changes its meaning."""

Record = dict[str, Any]

# What every record holds, whoever reads it. The rest (timing, environment, ...) is for people.
_FIELDS = {
    "norm": str,
    "label": str,
    "model": str,
    "seed": int,
    "protocol": str,
    "dataset": str,
    "size": int,
    "source": str,
    "domains": list,
    "targets": list,
    "classes": list,
    "recipe": str,
    "data": dict,
    "results": list,
}
_RESULT = {"domain": str, "role": str, "selection": str, "correct": int, "n": int}
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is there

_ELSEWHERE = "Make room there or choose another folder with out=DIR, then run the same command again."


class Ledger:
    """All runs of one ``out`` folder."""

    def __init__(self, out: Path) -> None:
        self.path = Path(out) / "runs"

    def run(self, run_id: str) -> RunDir:
        """The directory of a run, which need not be there yet.

        Raises:
            ConfigError: ``run_id`` cannot name a folder.
        """
        if run_id in ("", "..") or Path(run_id).name != run_id or "\0" in run_id:
            raise ConfigError(f"A run cannot be called {run_id!r}: the name of a run is the name of its folder.")
        return RunDir(self.path / run_id)

    def plan(self, run_id: str, config: Mapping[str, Any]) -> RunDir:
        """The directory of a run, planned; see :meth:`run` and :meth:`RunDir.plan`."""
        run = self.run(run_id)
        run.plan(config)
        return run

    def runs(self) -> list[RunDir]:
        """Every planned run, ordered by id."""
        return [RunDir(config.parent) for config in sorted(self.path.glob("*/config.yaml"))]


@dataclass(frozen=True)
class RunDir:
    """The directory of one run; its name is the run's id."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    def plan(self, config: Mapping[str, Any]) -> None:
        """Make the directory and its ``config.yaml`` where that is new.

        A finished run keeps the configuration it was made with.

        Raises:
            DataError: the folder cannot be written.
        """
        text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True).encode()
        target = self.path / "config.yaml"
        known = _read(target)
        if known is None or (known != text and not self.finished):
            write_atomically(target, lambda file: file.write(text))

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Hold the run: ``with run.claim() as mine`` gives False at once when another process holds it.

        The operating system frees the claim of a process that dies. Ask :attr:`finished` *after* claiming:
        the other process may have finished the run in between.
        """
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            mine = False
        except OSError as error:
            raise DataError(f"Cannot lock {self.path}: {error.strerror}. {_ELSEWHERE}") from error
        else:
            mine = True
        try:
            yield mine
        finally:
            lock.release()

    @property
    def finished(self) -> bool:
        """Whether a record that can be trusted is there; the training behind it may have diverged."""
        return self.record() is not None

    def record(self) -> Record | None:
        """The record, or None where there is none; one that cannot be trusted gives a warning and None."""
        try:
            return self.verified()
        except DataError as error:
            warnings.warn(f"{error} The run counts as unfinished.", stacklevel=2)
            return None

    def verified(self) -> Record | None:
        """The record, or None where there is none.

        Raises:
            DataError: the record or the predictions it speaks of are torn, from another run, or of
                another schema.
        """
        path = self.path / "record.json"
        content = _read(path)
        if content is None:
            return None
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is torn ({error}).") from error
        if flaw := _flaw(record, self.id):
            raise DataError(f"{path} cannot be used: {flaw}.")
        self._verified_predictions(record)
        return record  # type: ignore[no-any-return]

    def predictions(self) -> dict[str, np.ndarray]:
        """The predicted labels of a finished run.

        Returns:
            ``epochs`` (p,), the epochs after which the run was evaluated, and for domain number k of the
            record's ``domains`` (for the source: its held-out part) ``index_k`` (n,) int32, the images'
            numbers in the domain, ``label_k`` (n,) int16 and ``predicted_k`` (p, n) int16. Empty for a
            run that diverged.

        Raises:
            DataError: the run is not finished, or its files cannot be trusted.
        """
        record = self.verified()
        if record is None:
            raise DataError(f"{self.path} holds no finished run: run the command that planned it again.")
        try:
            with np.load(io.BytesIO(self._verified_predictions(record)), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / 'predictions.npz'} cannot be read ({error}).") from error

    def config(self) -> dict[str, Any]:
        """The job's configuration.

        Raises:
            DataError: ``config.yaml`` cannot be read.
        """
        path = self.path / "config.yaml"
        try:
            config = yaml.load(_read(path) or b"", _YamlLoader)
        except (ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path} is no YAML ({' '.join(str(error).split())}).") from error
        if not isinstance(config, dict):
            raise DataError(f"{path} holds no configuration.")
        return config

    def last_modified(self) -> float:
        """When it was last planned anew or tried, in seconds of the epoch; 0 when that cannot be told."""
        times = []
        for name in ("config.yaml", "failure.json", "last.ckpt"):
            with suppress(OSError):
                times.append((self.path / name).stat().st_mtime)
        return max(times, default=0.0)

    def failure(self) -> str | None:
        """What the last attempt raised, if it did."""
        try:
            return str(json.loads((self.path / "failure.json").read_bytes())["message"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            return "it failed, and failure.json cannot be read"

    def finish(self, record: Mapping[str, Any], predictions: Mapping[str, np.ndarray]) -> None:
        """Write what came out; from then on the run is finished and never run again.

        Args:
            record: what :data:`SCHEMA` 1 asks for. ``schema``, ``id`` and ``predictions`` are filled in;
                a number that is not finite becomes null, as JSON has none.
            predictions: the arrays that :meth:`predictions` gives back.

        Raises:
            DataError: the files cannot be written; the run stays unfinished.
            ValueError: the record lacks a field.
        """
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **predictions)  # type: ignore[arg-type]
        content = buffer.getvalue()
        whole = {"schema": SCHEMA, "id": self.id} | dict(record)
        whole["predictions"] = {"crc32": zlib.crc32(content), "bytes": len(content)}
        text = json.dumps(_plain(whole), indent=1, ensure_ascii=False, allow_nan=False).encode()
        if flaw := _flaw(json.loads(text), self.id):
            raise ValueError(f"this is no record of {self.id}: {flaw}")
        write_atomically(self.path / "predictions.npz", lambda file: file.write(content))
        write_atomically(self.path / "record.json", lambda file: file.write(text))
        (self.path / "last.ckpt").unlink(missing_ok=True)
        (self.path / "failure.json").unlink(missing_ok=True)

    def fail(self, message: str) -> None:
        """Note why an attempt raised; the run stays unfinished.

        Raises:
            DataError: the note cannot be written.
        """
        note = {"message": message, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        text = json.dumps(note, indent=1, ensure_ascii=False).encode()
        write_atomically(self.path / "failure.json", lambda file: file.write(text))

    def _verified_predictions(self, record: Record) -> bytes:
        """The bytes of ``predictions.npz``, the very ones that were written with ``record``."""
        path = self.path / "predictions.npz"
        content = _read(path)
        if content is None:
            raise DataError(f"{path} is missing.")
        if record["predictions"] != {"crc32": zlib.crc32(content), "bytes": len(content)}:
            raise DataError(f"{path} is torn or not the one that record.json speaks of.")
        return content


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make ``path``, and its folder, hold what ``write`` writes: all of it or, on any error, what it held before.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}. {_ELSEWHERE}") from error


def _read(path: Path) -> bytes | None:
    """The content of a file, or None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def _flaw(record: Any, run_id: str) -> str | None:
    """What makes ``record`` unusable as the record of ``run_id``, or None."""
    if not isinstance(record, dict):
        return "it is no record"
    if record.get("schema") != SCHEMA:
        return f"its schema is {record.get('schema')!r}, and this version of da_wa knows {SCHEMA}"
    if record.get("id") != run_id:
        return f"it belongs to the run {record.get('id')!r}"
    if record.get("status") not in ("finished", "diverged"):
        return f"its status is {record.get('status')!r}"
    if wrong := _wrong_fields(record, _FIELDS | {"predictions": dict}):
        return f"missing or of the wrong type: {wrong}"
    if any(not isinstance(data, dict) or "digest" not in data for data in record["data"].values()):
        return "its data have no digest"
    if unknown := {record["source"], *record["targets"]}.difference(record["domains"]):
        return f"{', '.join(sorted(unknown))} not among its domains"
    for result in record["results"]:
        if not isinstance(result, dict) or _wrong_fields(result, _RESULT) or result["domain"] not in record["domains"]:
            return f"a result reads {result!r}"
        if not 0 <= result["correct"] <= result["n"] or result["n"] == 0:
            return f"a result has {result['correct']} of {result['n']} images right"
    found = {result["domain"] for result in record["results"] if result["selection"] == "last"}
    if record["status"] == "finished" and (lost := [str(t) for t in record["targets"] if t not in found]):
        return f"it has no result for {', '.join(lost)}"
    return None


def _wrong_fields(mapping: Mapping[str, Any], types: Mapping[str, type]) -> str:
    return ", ".join(name for name, kind in types.items() if not isinstance(mapping.get(name), kind))


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NumPy's numbers as Python's, numbers that are not finite as None.

    Containers are copies: YAML would write one that appears twice as a reference.
    """
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
