"""Atomic writes of cache files."""

from __future__ import annotations

import os
import uuid
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
