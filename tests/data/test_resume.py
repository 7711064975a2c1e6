"""A process that is killed while it decodes loses at most the chunk in progress; the pixels are the same."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from da_wa.data import decode
from da_wa.data.cache import load_decoded
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageFiles

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL"),
    pytest.mark.timeout(300),
]

N, SIZE, CHUNK = 300, 8, 64
STOP = 200
"""The image at which the process is killed: three chunks of 64 are finished, the fourth is not."""
FINISHED = 192
BAD = 5

KILLED = """
import errno, fcntl, os, signal, sys, threading
from da_wa.data import decode
from da_wa.data.cache import load_decoded
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageFiles

root, cache_dir, chunk, stop, locks = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
original = ImageFiles.decode

def watched(self, index, size):
    if index >= stop:
        threading.Event().wait()
    return original(self, index, size)

def progress(done, total):
    if done > stop - 16:  # the block before the one that waits is written
        os.kill(os.getpid(), signal.SIGKILL)

def refuse(*args):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

if not locks:
    fcntl.flock = fcntl.lockf = refuse
ImageFiles.decode, decode.CHUNK = watched, chunk
domains = from_folders(root)
load_decoded(domains.domains[0], domains.classes, 8, cache_dir, "skip", progress)
"""


@pytest.fixture
def root(tmp_path: Path, draw_tree: Callable[..., Path]) -> Path:
    """One domain of 300 images, the sixth of which is empty."""
    root = draw_tree(tmp_path / "root", domains=("a",), per_class=N // 3, side=10)
    (root / "a" / "mug" / f"{BAD:03d}.png").write_bytes(b"")
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that this process decodes."""
    found: list[int] = []
    original = ImageFiles.decode

    def watched(self: ImageFiles, index: int, size: int) -> np.ndarray:
        found.append(index)
        return original(self, index, size)

    monkeypatch.setattr(ImageFiles, "decode", watched)
    monkeypatch.setattr(decode, "CHUNK", CHUNK)
    return found


def kill(root: Path, cache_dir: Path, locks: bool = True) -> Path:
    """Decode in a process that is killed; returns the folder with what it has finished."""
    words = [sys.executable, "-c", KILLED, root, cache_dir, CHUNK, STOP, int(locks)]
    ended = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    (partial,) = cache_dir.glob("*.partial")
    return partial


def load(root: Path, cache_dir: Path, **options: object) -> np.ndarray:
    domains = from_folders(root)
    return load_decoded(domains["a"], domains.classes, SIZE, cache_dir, "skip", **options).pixels  # type: ignore[arg-type]


def content(cache_dir: Path) -> dict[str, bytes]:
    """The files of the only entry."""
    (entry,) = (p for p in cache_dir.iterdir() if p.is_dir() and p.name not in ("digests", "manifests"))
    return {path.name: path.read_bytes() for path in entry.iterdir()}


def test_finished_chunks_are_not_decoded_again(root: Path, tmp_path: Path, decoded: list[int]) -> None:
    kill(root, tmp_path / "cache")
    shown: list[int] = []
    pixels = load(root, tmp_path / "cache", progress=lambda done, total: shown.append(done))
    assert sorted(decoded) == list(range(FINISHED, N))
    assert shown[0] == FINISHED + 16  # the display goes on where it was
    decoded.clear()
    undisturbed = load(root, tmp_path / "other")
    assert sorted(decoded) == list(range(N))
    assert len(pixels) == N - 1
    assert np.array_equal(pixels, undisturbed)
    assert content(tmp_path / "cache") == content(tmp_path / "other")


def flip(path: Path, position: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[position] ^= 1
    path.write_bytes(whole)


def cut(path: Path, lost: int) -> None:
    os.truncate(path, path.stat().st_size - lost)


ROW = 3 * SIZE**2
DAMAGE = {
    "the end of the journal is lost": (lambda partial: cut(partial / "journal.jsonl", 5), 2 * CHUNK),
    "the end of the pixels is lost": (lambda partial: cut(partial / "pixels.npy", 70 * ROW), CHUNK),
    "a bit of the second chunk is another": (lambda p: flip(p / "pixels.npy", 128 + (CHUNK + 9) * ROW), CHUNK),
    "the journal is lost": (lambda partial: (partial / "journal.jsonl").unlink(), 0),
    "the journal is that of another tool": (lambda partial: (partial / "journal.jsonl").write_text("[]\n{}\n"), 0),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_only_what_is_sound_is_kept(root: Path, tmp_path: Path, decoded: list[int], what: str) -> None:
    damage, kept = DAMAGE[what]
    damage(kill(root, tmp_path / "cache"))
    pixels = load(root, tmp_path / "cache")
    assert sorted(decoded) == list(range(kept, N))
    assert np.array_equal(pixels, load(root, tmp_path / "other"))


@pytest.mark.parametrize("change", ["content", "time"])
def test_images_that_were_touched_since_are_decoded_again(
    root: Path, tmp_path: Path, decoded: list[int], change: str
) -> None:
    """Also if the content is the same: it may have been another while it was decoded."""
    kill(root, tmp_path / "cache")
    path = root / "a" / "mug" / "000.png"
    if change == "content":
        Image.new("RGB", (10, 10), (1, 2, 3)).save(path)
    else:
        os.utime(path)
    pixels = load(root, tmp_path / "cache")
    assert sorted(decoded) == list(range(N))
    assert np.array_equal(pixels, load(root, tmp_path / "other"))
    assert (pixels[0, :, 0, 0].tolist() == [1, 2, 3]) == (change == "content")


def test_a_process_killed_on_a_file_system_without_locks_blocks_nobody(
    root: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    kill(root, tmp_path / "cache", locks=False)
    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse)
    assert len(load(root, tmp_path / "cache")) == N - 1
    assert sorted(decoded) == list(range(FINISHED, N))
