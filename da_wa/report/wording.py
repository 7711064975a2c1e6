"""Numbers and lists as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from da_wa.report.content import NONE
from da_wa.report.statistics import Interval


def arrow(source: str, target: str) -> str:
    """A pair's name."""
    return f"{source}→{target}"


def number(value: float, digits: int = 1) -> str:
    """A number, a dash for none."""
    return NONE if math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, a true minus; a dash for none."""
    return NONE if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def within(interval: Interval | None, digits: int = 1) -> str:
    """An estimate with half its interval: 51.2 ± 1.4."""
    if interval is None:
        return NONE
    return number(interval.value, digits) + (f" ± {interval.half:.{digits}f}" if interval.known else "")


def change(interval: Interval | None, digits: int = 1) -> str:
    """A difference and the bounds of its interval: +1.2 (−0.3 to +2.7)."""
    if interval is None:
        return NONE
    bounds = f" ({signed(interval.low, digits)} to {signed(interval.high, digits)})" if interval.known else ""
    return signed(interval.value, digits) + bounds


def listed(names: Sequence[str], most: int = 12) -> str:
    """a, b and c."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """1 seed, 3 seeds."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def random_levels(over_networks: bool) -> str:
    """Over what an interval is.

    >>> random_levels(False), random_levels(True)
    ('seeds and images', 'pre-trained networks, seeds and images')
    """
    return "pre-trained networks, seeds and images" if over_networks else "seeds and images"


def of_networks(seeds: str, networks: int) -> str:
    """``seeds``, which are those of each of several pre-trained networks.

    >>> of_networks("1 seed", 1), of_networks("1 seed", 3)
    ('1 seed', '1 seed of each of 3 pre-trained networks')
    """
    return seeds if networks == 1 else f"{seeds} of each of {networks} pre-trained networks"


def spanned(low: int, high: int, noun: str) -> str:
    """3 seeds, 1 to 3 seeds."""
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"
