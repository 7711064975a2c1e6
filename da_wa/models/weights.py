"""Files of starting weights: how they are named and identified. Imports no torch, for planning."""

from __future__ import annotations

import hashlib
from pathlib import Path

from da_wa.errors import UserError

PUBLISHED = "imagenet"
"""``model.weights`` for the weights that a library publishes; a file of this name is given as ``./imagenet``."""


class WeightsError(UserError):
    """Starting weights are missing, damaged, or belong to another network."""


def given_file(weights: str) -> Path:
    """The path in ``model.weights``.

    Raises:
        WeightsError: there is no such file.

    >>> given_file("nowhere.safetensors")
    Traceback (most recent call last):
    da_wa.models.weights.WeightsError: model.weights=nowhere.safetensors: no such file; ...
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(f"model.weights={weights}: no such file; give a .safetensors or torch file, or {PUBLISHED}")
    return path


def file_digest(path: Path) -> str:
    """16 hex digits of the content of a file.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
