"""Leases: who works on a job, on any shared file system, without a lock daemon.

A lease is a file that its holder creates (``O_EXCL``, atomic) and touches while it works. A holder that has not touched
it for ``stale_s`` seconds has died, and another process takes over. The age of a lease is the difference of two times
that the file system gave, that of the lease and that of a file written now; clocks of hosts are not compared.

No file system replaces or deletes a file on the condition that its content is what it was. So whoever wants to replace
or delete a lease first takes the turn of its token, a lease of its own, and looks again: between a stale lease and that
of the new holder there is no moment without one.

A paused holder may wake up after a takeover. It can replace no file any more: every atomic write (``files.py``) is
confirmed between its draft and its replacement, and the new holder deletes all drafts before it starts.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

STALE_S = 120.0
"""Seconds without a touch after which a lease is free."""

BEATS = 6
"""Touches in the time after which a lease is free."""


class LeaseLost(Exception):
    """Another process has taken over the job; drop the work."""


@dataclass(frozen=True)
class Holder:
    """The content of a lease.

    Attributes:
        token: unique to one acquisition; empty if the content cannot be read.
        host: name of the machine.
        pid: of the process.
        machine: the booted system and process namespace in which ``pid`` counts.
        since: when the lease was created, by the clock of the file system.
        stale_s: seconds without a touch after which the lease is free.
    """

    token: str = ""
    host: str = "?"
    pid: int = 0
    machine: str = ""
    since: float = 0.0
    stale_s: float = STALE_S

    @property
    def dead(self) -> bool:
        """Whether its process is known to have ended; only processes of this machine are known."""
        if not self.machine or self.machine != _machine():
            return False
        return ended(self.pid)


def ended(pid: int) -> bool:
    """Whether a process of this machine is known to have ended; on Windows none is."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    with suppress(OSError, IndexError):  # ended, but its parent has not asked for the status
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False


@dataclass(frozen=True)
class Lease:
    """A lease that this process created."""

    path: Path
    holder: Holder

    def confirm(self) -> None:
        """Check that no other process has taken it.

        Raises:
            LeaseLost: another process has.
        """
        found = _read(self.path)
        if found is None or found[0].token != self.holder.token:
            raise LeaseLost(f"{self.path} was taken by another process")

    def touch(self) -> None:
        """Show that its holder is alive; the file system sets the time.

        Raises:
            LeaseLost: another process has taken it.
        """
        self.confirm()
        with suppress(OSError):  # a server that does not answer now may do so at the next touch
            os.utime(self.path)


_held: ContextVar[Lease | None] = ContextVar("_held", default=None)


def confirm() -> None:
    """Check the lease that this thread works under, if any.

    Raises:
        LeaseLost: another process has taken it.
    """
    if (lease := _held.get()) is not None:
        lease.confirm()


@contextmanager
def leased(path: Path, drafts: str, stale_s: float = STALE_S) -> Iterator[bool]:
    """Hold a lease, and touch it in the background: yields False at once if another process holds it.

    Args:
        path: of the lease.
        drafts: pattern of the drafts beside it that an earlier holder may have left.
        stale_s: seconds without a touch after which others may take it.

    Raises:
        OSError: the folder cannot be written.
    """
    lease = _acquire(path, drafts, stale_s)
    if lease is None:
        yield False
        return
    ended, before = threading.Event(), _held.set(lease)
    beat = threading.Thread(target=_beat, args=(lease, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        _held.reset(before)
        ended.set()
        beat.join()
        with suppress(OSError):
            _release(path, lease.holder.token)


def holder(path: Path) -> Holder | None:
    """The process that holds a lease; None if it is free.

    Raises:
        OSError: the folder cannot be read.
    """
    found = _read(path)
    return None if found is None or _stale(path, *found) else found[0]


def now(folder: Path) -> float:
    """The time by the clock of a folder's file system; of this machine where the folder cannot be written."""
    probe = folder / f".{uuid.uuid4().hex}.now"
    try:
        with probe.open("wb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _acquire(path: Path, drafts: str, stale_s: float) -> Lease | None:
    """Create a lease or take over a stale one; None if another process holds it or was faster."""
    mine = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), _machine(), 0.0, stale_s)
    found = _read(path)
    if found is None:
        return _create(path, mine)
    if not _stale(path, *found):
        return None
    with _turn(path, found[0].token) as unchanged:
        if not unchanged:
            return None
        lease = _create(path.with_name(_turns(path, mine.token)), mine)  # its own turn: nobody knows its token yet
        assert lease is not None
        lease.path.replace(path)
    for pattern in (drafts, _turns(path, "*")):
        for left in path.parent.glob(pattern):
            with suppress(OSError):
                left.unlink()
    return Lease(path, lease.holder)


def _release(path: Path, token: str) -> None:
    try:
        with _turn(path, token) as ours:
            if ours:
                path.unlink()
    except OSError:  # of a full disk, where no process can take the lease either
        found = _read(path)
        if found is not None and found[0].token == token:
            path.unlink()


@contextmanager
def _turn(path: Path, token: str) -> Iterator[bool]:
    """Yields whether the lease still has this token; if so, no other process replaces or deletes it in the block."""
    turn = path.with_name(_turns(path, token))
    if _acquire(turn, _turns(turn, "*"), STALE_S) is None:
        yield False
        return
    try:
        found = _read(path)
        yield found is not None and found[0].token == token
    finally:
        turn.unlink(missing_ok=True)


def _turns(path: Path, token: str) -> str:
    name = glob.escape(path.name) if token == "*" else path.name
    return f".{name}.{token}.turn"


def _create(path: Path, of: Holder) -> Lease | None:
    """Create a lease; None if there is one."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    try:
        with os.fdopen(descriptor, "wb") as file:
            created = os.fstat(descriptor).st_mtime
            written = Holder(**asdict(of) | {"since": of.since or created})
            file.write(json.dumps(asdict(written)).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return Lease(path, written)


def _read(path: Path) -> tuple[Holder, float] | None:
    """The content of a lease and the time of its last touch."""
    try:
        with path.open("rb") as file:
            content, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(content)), touched
    except (ValueError, TypeError):  # of a process that died while it wrote
        return Holder(), touched


def _stale(path: Path, of: Holder, touched: float) -> bool:
    return of.dead or now(path.parent) - touched > of.stale_s


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(lease.holder.stale_s / BEATS):
        try:
            lease.touch()
        except LeaseLost:
            return
        except OSError:
            continue


@cache
def _machine() -> str:
    """Identifies the space of process numbers; empty on systems without signals."""
    if os.name != "posix":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()
