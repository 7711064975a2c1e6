"""Decode a set of images into one ``.npy`` file: in threads, in order, resuming where a killed process stopped.

Pixels are appended to ``pixels.npy``. After every chunk they are flushed to the disk, and a line of ``journal.jsonl``
says how far they go, with their checksum. The next process reads the journal, checks the pixels, and decodes the rest.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np

from da_wa.data.ahead import in_order
from da_wa.data.files import checksum, sync
from da_wa.data.images import Images, Progress
from da_wa.errors import DataError, ReadFailed

PIXELS = "pixels.npy"
JOURNAL = "journal.jsonl"

CHUNK = 1024
"""Images between two lines of the journal, fewer if they are large: what a killed process loses at most."""

_CHUNK_BYTES = 2**26
_BLOCK = 16  # images that one thread decodes at a time


@dataclass
class _Decoded:
    """The first ``images`` images: the bad ones (index: reason), and the CRC-32 of the pixels of the others."""

    images: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    crc32: int = 0

    def add(self, stop: int, bad: dict[int, str], crc32: int) -> None:
        self.images, self.bad, self.crc32 = stop, self.bad | bad, crc32


def decode_to(
    folder: Path, images: Images, size: int, key: str, progress: Progress | None = None
) -> tuple[dict[int, str], int]:
    """Write the pixels of all images that can be decoded, (n, 3, size, size) uint8, to ``folder/pixels.npy``.

    Chunks that an earlier, killed process has finished are not decoded again. Interrupted (Ctrl-C or any other
    exception), every thread ends after the image it is decoding.

    Args:
        folder: where to write. The file is written, not mapped: a full disk raises.
        images: the images.
        size: side length in pixels.
        key: changes with the images; chunks that were decoded under another key are discarded.
        progress: called after every few images.

    Returns:
        The bad images (index: reason), and the CRC-32 of the pixels.

    Raises:
        OSError: the file cannot be written.
        ReadFailed: the system cannot read an image now.
    """
    n, workers = len(images), os.cpu_count() or 1
    row = 3 * size**2
    chunk = max(_BLOCK, min(CHUNK, _CHUNK_BYTES // row))
    stop = threading.Event()

    def decode(block: range) -> tuple[bytes, dict[int, str]]:
        pixels, refused = [], {}
        for index in block:
            if stop.is_set():
                break
            try:
                pixels.append(images.decode(index, size).tobytes())
            except ReadFailed:  # says nothing about the image
                raise
            except DataError as error:
                refused[index] = str(error)
        return b"".join(pixels), refused

    for name in (PIXELS, JOURNAL):
        (folder / name).touch()
    with (folder / PIXELS).open("r+b") as file, (folder / JOURNAL).open("r+b") as journal:
        _write_header(file, n, size)
        known = _resumed(file, journal, key, row)
        crc32, bad = known.crc32, dict[int, str]()
        blocks = (range(start, min(start + _BLOCK, n)) for start in range(known.images, n, _BLOCK))
        with closing(in_order(decode, blocks, workers, 2 * workers, stop)) as decoded:
            for block, (pixels, refused) in decoded:
                file.write(pixels)
                crc32 = zlib.crc32(pixels, crc32)
                bad |= refused
                if block.stop - known.images >= chunk or block.stop == n:
                    sync(file)
                    _note(journal, {"stop": block.stop, "crc32": crc32, "bad": bad})
                    known.add(block.stop, bad, crc32)
                    bad = {}
                if progress is not None:
                    progress(block.stop, n)
        _write_header(file, n - len(known.bad), size)
        sync(file)
    return known.bad, known.crc32


def _resumed(file: BufferedRandom, journal: BufferedRandom, key: str, row: int) -> _Decoded:
    """What the journal says and the pixels confirm; both files are cut there, and end with it."""
    known, start = _Decoded(), file.tell()
    lines = journal.read().splitlines(keepends=True)
    if not lines or _parsed(lines[0]) != {"key": key}:
        journal.seek(0)
        journal.truncate()
        _note(journal, {"key": key})
    else:
        kept = len(lines[0])
        for line in lines[1:]:
            found = _parsed(line)
            try:
                bad = {int(index): str(reason) for index, reason in found["bad"].items()}
                good = found["stop"] - known.images - len(bad)
                if checksum(file, good * row, known.crc32) != found["crc32"]:
                    break
            except (ValueError, TypeError, LookupError, AttributeError):
                break
            known.add(found["stop"], bad, found["crc32"])
            kept += len(line)
        journal.seek(kept)
        journal.truncate()
    file.seek(start + (known.images - len(known.bad)) * row)
    file.truncate()
    return known


def _parsed(line: bytes) -> Any:
    """A line of the journal; None if it is torn."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _note(journal: BufferedRandom, content: object) -> None:
    journal.write(json.dumps(content).encode() + b"\n")
    sync(journal)


def _write_header(file: BufferedRandom, n: int, size: int) -> None:
    """The header of an ``.npy`` file; its length does not depend on ``n``."""
    shape = (n, 3, size, size)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
