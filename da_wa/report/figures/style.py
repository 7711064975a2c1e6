"""What all figures share: a canvas, colours that are told apart in grey and by the colour-blind, and files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
"""Okabe & Ito's, in an order in which neighbours differ in grey as well."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever the user's configuration is."""
    import matplotlib.style

    with matplotlib.style.context(["default", {"font.size": 9, "axes.titlesize": 9, "hatch.linewidth": 0.6}]):
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


def rendered(figure: Figure, kind: str) -> bytes:
    """``figure`` as a file of ``kind`` (png, pdf), without the date: equal figures are equal bytes."""
    if figure.get_layout_engine() is not None:  # laid out once for all kinds: it takes as long as drawing
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}}.get(kind)
    figure.savefig(buffer, format=kind, dpi=160, bbox_inches="tight", metadata=undated)
    return buffer.getvalue()


def plain(text: str, longest: int | None = None) -> str:
    """``text`` as matplotlib shows it unchanged (a dollar sign would start a formula), cut to ``longest`` letters."""
    text = " ".join(text.split())
    if longest is not None and len(text) > longest:
        text = text[: longest - 1] + "…"
    return text.replace("->", "→").replace("$", r"\$")
