"""Atomic writes, and locks."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from da_wa import locks
from da_wa.errors import DataError, DiskFull
from da_wa.records.lease import confirm, ended

MAKE_ROOM = "Make room there or choose another folder with out=DIR, then rerun the command."


@contextmanager
def replaced(path: Path, advice: str = MAKE_ROOM) -> Iterator[Path]:
    """Yields the path of a draft, which becomes ``path`` at the end; on any error ``path`` stays as it was.

    Under a lease (``lease.py``) the draft replaces ``path`` only while this process holds the lease. The folder is made
    where it is missing.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
        LeaseLost: another process has taken the job that this file belongs to.
    """
    unique = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    draft = path.with_name(f".{path.name}.{unique}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            confirm()
            try:
                draft.replace(path)
            except FileNotFoundError:
                confirm()  # it was deleted by the process that took the job a moment ago
                raise
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error, advice) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], advice: str = MAKE_ROOM) -> None:
    """Make ``path`` hold what ``write`` writes: all of it or, on any error, what it held before.

    Raises:
        DataError, LeaseLost: see :func:`replaced`.
    """
    with replaced(path, advice) as draft, draft.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, patience: float = -1, advice: str = MAKE_ROOM) -> Iterator[bool]:
    """Holds ``<name>.lock`` beside a file that several processes may make; yields whether it is held.

    On a file system without locks it always is: two processes may make the same file, each of them atomically.

    Args:
        path: the file.
        patience: seconds to wait for another process; for ever if negative.
        advice: what to do if the folder cannot be written.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(locks.locked(path.with_suffix(".lock"), patience))
        except OSError as error:
            raise _unwritable(path, error, advice) from error
        yield held


def _unwritable(path: Path, error: OSError, advice: str) -> DataError:
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else DataError
    return kind(f"Cannot write {path}: {error.strerror or error}. {advice}")


def remove_drafts(path: Path) -> None:
    """Delete what killed processes left of their attempts to write ``path``; for the one process that may write it."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            draft.unlink()


def remove_abandoned(folder: Path) -> None:
    """Delete the drafts that processes of this machine left in ``folder`` before they were killed."""
    for draft in folder.glob(".*.part"):
        made = re.fullmatch(r"\..+\.(\d+)\.[0-9a-f]{8}\.part", draft.name)
        if made and f".{socket.gethostname()}.{made[1]}." in draft.name and ended(int(made[1])):
            with suppress(OSError):
                draft.unlink()


def write_bytes(path: Path, content: bytes, advice: str = MAKE_ROOM) -> None:
    """Like ``Path.write_bytes``, atomically.

    Raises:
        DataError: see :func:`write_atomically`.
    """
    write_atomically(path, lambda file: file.write(content), advice)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, atomically.

    Raises:
        DataError: see :func:`write_atomically`.
    """
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def read_bytes(path: Path) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
