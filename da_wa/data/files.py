"""Atomic writes of cache files, and checksums."""

from __future__ import annotations

import os
import uuid
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, then rename: a reader never sees half of it.

    Raises:
        OSError: as when writing any file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
            sync(file)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sync(file: IO[Any]) -> None:
    """Flush a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def checksum(file: BufferedIOBase, n_bytes: int, crc32: int = 0) -> int | None:
    """The CRC-32 of the next bytes of a file, continued from ``crc32``; None if the file ends before.

    They are read in pieces, not mapped: mapped pages would count as memory of the process.
    """
    buffer = memoryview(bytearray(min(n_bytes, 2**20)))
    while n_bytes:
        read = file.readinto(buffer[:n_bytes])
        if not read:
            return None
        crc32 = zlib.crc32(buffer[:read], crc32)
        n_bytes -= read
    return crc32
