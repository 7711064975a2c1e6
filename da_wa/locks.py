"""Locks between processes, for work that is done once where they work and repeated where they do not.

Every module of ``da_wa`` may import this one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def locked(path: Path, patience: float = -1) -> Iterator[bool]:
    """Holds a lock file; yields whether it is held. On a file system without locks it always is.

    Args:
        path: the lock file; its folder exists.
        patience: seconds to wait for another process; for ever if negative.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = FileLock(path, timeout=patience, fallback_to_soft=False)  # a soft lock outlives a machine that fails
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield True
    finally:
        lock.release()
