"""The one exception that reaches users: it says what is wrong, where, and what to do next.

Everything in ``da_wa`` may import this leaf; the command prints such an error without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class UserError(Exception):
    """Something the user can mend: a path, an option, a broken file. The text names the next step."""


class DataError(UserError):
    """A dataset, an image or a cache that cannot be used as it is."""


class ConfigError(UserError):
    """An option, a name or a combination that makes no sense."""


class Diverged(UserError):
    """A training loss that is no longer a finite number.

    Attributes:
        epoch: the first in which it was not, from 1.
        curve: the epochs before, see :class:`~da_wa.train.classifier.Classifier`.
    """

    def __init__(self, message: str, epoch: int, curve: Sequence[Mapping[str, float]]) -> None:
        super().__init__(message)
        self.epoch, self.curve = epoch, list(curve)


def nearest(name: str, known: Iterable[str]) -> str:
    """One sentence that offers the known names closest to ``name``, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known) or 'none'}."
