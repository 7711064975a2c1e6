"""Errors for users: the text says what is wrong, where, and what to do next.

Every module of ``da_wa`` may import this one; the command prints a :class:`UserError` without a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

_UNDECODABLE = re.compile(r"[\ud800-\udfff]")
"""Surrogates: Python's substitute for undecodable bytes in file names (PEP 383)."""


class UserError(Exception):
    """Something the user can fix: a path, an option, a broken file. The text names the next step."""

    def __str__(self) -> str:
        r"""The message; bytes of file names that are not valid text appear as ``\xNN``.

        >>> print(DataError("caf\udce9/1.png: zero bytes"))
        caf\xe9/1.png: zero bytes
        """
        return _UNDECODABLE.sub(lambda found: _escaped(found[0]), super().__str__())


class DataError(UserError):
    """A dataset, an image or a cache that cannot be used."""


class NewerVersion(DataError):
    """A file of a later version of da_wa, which this one can neither read nor may replace."""


class ReadFailed(DataError):
    """A file that the system cannot read now: a fault of a disk, a network or a limit, not of the file."""


class DiskFull(DataError):
    """No space is left where results are written."""


class ConfigError(UserError):
    """An invalid option, name or combination of options."""


class Diverged(UserError):
    """The training loss or the logits are not finite.

    Attributes:
        epoch: the first epoch with such a loss or such logits, from 1.
        curve: the earlier epochs, see :class:`~da_wa.train.classifier.Classifier`.
        computed: device and precision, see :class:`~da_wa.train.progress.Computed`.
    """

    def __init__(self, message: str, epoch: int, curve: Sequence[Mapping[str, float]]) -> None:
        super().__init__(message)
        self.epoch, self.curve = epoch, list(curve)
        self.computed: Mapping[str, str] = {}


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names closest to ``name``, or with all known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known) or 'none'}."


def install(extra: str) -> str:
    """How to install an extra; the package is not on PyPI.

    >>> install("ray")
    "install it with: uv sync --extra ray in a clone, or pip install 'PATH_OF_CLONE[ray]'"
    """
    return f"install it with: uv sync --extra {extra} in a clone, or pip install 'PATH_OF_CLONE[{extra}]'"


def printable(name: object) -> str:
    r"""A file, class or domain name as it can be printed, logged and written as UTF-8.

    Bytes that are not valid text become ``\xNN``, control characters their usual escapes; all else is unchanged.

    >>> printable("caf\udce9")
    'caf\\xe9'
    >>> printable("a\nb")
    'a\\nb'
    >>> printable("größe A->B")
    'größe A->B'
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in str(name))


def some(items: Iterable[str], separator: str = ", ", limit: int = 10) -> str:
    """The first few of ``items``, printable, and how many more there are.

    >>> some(["a", "b", "c"], limit=2)
    'a, b, … and 1 more'
    """
    items = [printable(item) for item in items]
    more = [f"… and {len(items) - limit} more"] if len(items) > limit else []
    return separator.join(items[:limit] + more)


def _escaped(character: str) -> str:
    """A character as an escape; a byte that PEP 383 stands for as itself."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
