"""Versions, processor, commit and command: stored in every record to reproduce its numbers."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("da-wa", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "pillow")


def machine() -> dict[str, Any]:
    """Versions, processor and commit, as plain values."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": os.cpu_count(),
        **COMMIT,
    }


def command() -> str:
    """The command line of this process, the script without its folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cpu() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> dict[str, Any]:
    """The commit of the checkout this package runs from; without one, what ``DA_WA_COMMIT`` says, or ``None``."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return {"commit": os.environ.get("DA_WA_COMMIT"), "dirty": None}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


COMMIT = _commit()  # of the code as it was imported, not as it is when a long run ends
