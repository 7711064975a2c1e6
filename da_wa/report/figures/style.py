"""Common parts of all figures: canvas, colour-blind-safe colours, and files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

from da_wa.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#EE6677", "#4477AA", "#CCBB44", "#AA3377", "#66CCEE", "#228833", "#999999")
"""Tol's "bright" scheme (Paul Tol, SRON/EPS/TN/09-002), in an order in which neighbours differ in grey as well."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
FALLBACKS = ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei")
"""Fonts for letters that DejaVu Sans lacks, where they are installed; else a box stands for the letter."""

_BORDER = 0.1
"""Inches around a figure."""


def look(k: int) -> tuple[str, str]:
    """Colour and marker of series *k*; no two of the first 64 have both in common.

    >>> len({look(k) for k in range(64)})
    64
    """
    return COLOURS[(k + k // len(MARKERS)) % len(COLOURS)], MARKERS[k % len(MARKERS)]


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever the user's configuration is."""
    import matplotlib.style
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    fonts = {"font.family": ["DejaVu Sans", *(font for font in FALLBACKS if font in installed)]}
    sizes = {"font.size": 9, "axes.titlesize": 9, "hatch.linewidth": 0.6}
    with matplotlib.style.context(["default", fonts | sizes]):
        yield


def panels(
    count: int, columns: int, width: float, height: float, *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A grid of ``count`` axes of ``width`` × ``height`` inches each, filled row by row."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(columns * width, 5.0), 0.4 + rows * height), layout="constrained")  # legends need room
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel().tolist()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:count]


@contextmanager
def boxes_for_missing_letters() -> Iterator[None]:
    """Draw a box for a letter that no font has, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def rendered(figure: Figure, kind: str) -> bytes:
    """``figure`` as a file of ``kind`` (png, pdf), without the date: equal figures are equal bytes."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    buffer = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}}.get(kind)
    with boxes_for_missing_letters():
        if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):  # laid out once for all kinds
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        bounds = figure.get_tightbbox().padded(_BORDER)  # bbox_inches="tight" would draw everything once more
        figure.savefig(buffer, format=kind, dpi=160, bbox_inches=bounds, metadata=undated)
    return buffer.getvalue()


def compact(png: bytes) -> bytes:
    """A PNG with a palette of 256 colours, a third of the size: for embedding in a page."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "png", optimize=True)
    return min(buffer.getvalue(), png, key=len)


def few_colours(png: bytes) -> bytes:
    """A PNG with a palette of 48 colours, dithered: a third of the size, and no difference to see."""
    with Image.open(io.BytesIO(png)) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(48).save(small, "png", optimize=True)
    return small.getvalue()


def plain(text: str, longest: int | None = None) -> str:
    """``text`` as matplotlib shows it unchanged (a dollar sign would start a formula), cut to ``longest`` letters.

    Both ends of ``source→target`` are cut alike.

    >>> plain("amazon→webcam", 9)
    'ama…→web…'
    """
    text = printable(" ".join(text.split()))
    if longest is not None and len(text) > longest:
        ends = text.split("→")
        most = max((longest + 1) // len(ends) - 1, 1)
        text = "→".join(end if len(end) <= most else end[: most - 1] + "…" for end in ends)
    return text.replace("$", r"\$")
