"""A worker in a process of its own, with a fault: ``python process.py LAUNCH FAULT``."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys
import time
from pathlib import Path

from da_wa.errors import UserError
from da_wa.launchers.worker import run_worker
from da_wa.records import lease


def _shift_clock(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds


def _fill_disk() -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = refuse


def _move() -> None:
    """Another machine, whose processes this one does not see."""
    lease._machine = lambda: "elsewhere"
    socket.gethostname = lambda: "elsewhere"


FAULTS = {
    "none": lambda: None,
    "early": lambda: _shift_clock(-3600),
    "late": lambda: _shift_clock(3600),
    "disk": _fill_disk,
    "elsewhere": _move,
}

if __name__ == "__main__":
    FAULTS[sys.argv[2]]()
    launch = pickle.loads(Path(sys.argv[1]).read_bytes())
    try:
        run_worker(launch, 1)
    except UserError as error:
        sys.exit(str(error))
