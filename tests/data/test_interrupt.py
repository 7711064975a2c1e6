"""Ctrl-C while images are scanned, hashed or decoded ends the process at once and leaves nothing that looks finished.

Nothing here depends on time: processes say where they are, and wait until they have been interrupted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from da_wa.data.cache import load_decoded
from da_wa.data.domains import Domain
from da_wa.data.images import ImageArray

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")

PER_CLASS = 400

HANDLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
"""

DECODE = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from da_wa.data.cache import load_decoded
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageFiles

original, shutdown, ending = ImageFiles.decode, ThreadPoolExecutor.shutdown, threading.Event()

def slow(self, index, size):
    os.write(1, b"decoding\\n")
    ending.wait()  # no image is finished before the interrupt is dealt with
    return original(self, index, size)

def watched(self, *args, **kwargs):
    ending.set()
    shutdown(self, *args, **kwargs)

ImageFiles.decode, ThreadPoolExecutor.shutdown = slow, watched
domains = from_folders(Path(sys.argv[1]))
load_decoded(domains.domains[0], domains.classes, 16, sys.argv[2])
"""

HASH = """
import sys
from da_wa.data.cache import load_decoded
from da_wa.data.folders import from_folders

domains = from_folders(sys.argv[1])
load_decoded(domains.domains[0], domains.classes, 16, sys.argv[2])
"""

SCAN = """
import os, signal, sys
from da_wa.data.folders import from_folders

def slow(*args, **kwargs):
    os.write(1, b"scanning\\n")
    signal.pause()

os.walk = slow
from_folders(sys.argv[1])
"""


def start(script: str, root: Path, cache_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HANDLE + script, str(root), str(cache_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process: subprocess.Popen[str]) -> str:
    """Send SIGINT, wait for the end; returns what was still written to stdout."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    # An uncaught KeyboardInterrupt: by SIGINT, or 1 where it was raised while a thread started.
    assert process.returncode in (-signal.SIGINT, 1), err
    assert err.rstrip().endswith("KeyboardInterrupt")
    return out


def whole_files(cache_dir: Path) -> list[str]:
    """What lies in the cache, less lock files and what the next process resumes from (see ``test_resume.py``)."""
    found = [p.relative_to(cache_dir) for p in cache_dir.rglob("*") if p.suffix != ".lock"]
    return sorted(path.as_posix() for path in found if not path.parts[0].endswith(".partial"))


def test_while_images_are_decoded(tmp_path: Path, draw_tree: Callable[..., Path]) -> None:
    root = draw_tree(tmp_path / "root", domains=("a",), classes=("mug",), per_class=PER_CLASS, side=8)
    cache_dir = tmp_path / "cache"
    process = start(DECODE, root, cache_dir)
    assert process.stdout is not None
    started = [process.stdout.readline()]
    started += interrupt(process).splitlines()
    # Each thread ends after the image it had begun. (Queued blocks would be 16 images each.)
    assert 1 <= len(started) <= (os.cpu_count() or 1)
    (memo,) = (cache_dir / "digests").iterdir()
    assert whole_files(cache_dir) == ["digests", f"digests/{memo.name}"]
    for lock in cache_dir.glob("*.lock"):
        with FileLock(lock, timeout=0):  # released
            pass


def test_while_files_are_hashed(tmp_path: Path, draw_tree: Callable[..., Path]) -> None:
    root = draw_tree(tmp_path / "root", domains=("a",), per_class=2)
    pipe = root / "a" / "mug" / "002.png"
    os.mkfifo(pipe)
    process = start(HASH, root, tmp_path / "cache")
    with open(pipe, "wb"):  # waits until the other process reads it, which never ends
        assert interrupt(process) == ""
    assert not (tmp_path / "cache").exists()


def test_while_folders_are_scanned(tmp_path: Path, draw_tree: Callable[..., Path]) -> None:
    root = draw_tree(tmp_path / "root", domains=("a",), per_class=2)
    process = start(SCAN, root, tmp_path / "cache")
    assert process.stdout is not None and process.stdout.readline() == "scanning\n"
    assert interrupt(process) == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_any_exception_ends_decoding(tmp_path: Path, error: type[BaseException]) -> None:
    """As from a progress callback, or a signal handler of the command."""
    n = 4000
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 2, 2), dtype=np.uint8)
    domain = Domain("d", ImageArray(pixels, tuple(map(str, range(n)))), np.zeros(n, np.int64))

    def fail(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        load_decoded(domain, ("c",), 2, tmp_path, progress=fail)
    assert [name for name in whole_files(tmp_path) if not name.startswith("digests")] == []
    assert np.array_equal(load_decoded(domain, ("c",), 2, tmp_path).pixels, pixels)
