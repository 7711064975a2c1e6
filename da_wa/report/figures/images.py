"""Images in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from da_wa.report.figures.style import plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = (1.4, 2.05)
"""Width and height in inches of an image with the text around it."""

SIDE = 1.25
"""Width and height in inches of an image."""

_TITLE = 0.25
"""Height in inches of the title of a row."""


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]]) -> Figure:
    """A row of images, each with a text below it, for every title.

    Args:
        rows: title and (image (3, h, w) uint8, text) pairs.
    """
    from matplotlib.figure import Figure

    width, height = CELL[0] * max(len(images) for _, images in rows), CELL[1] * len(rows)
    with plain_style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))  # one for all images, in inches from the upper left: axes are slow
        axes.axis("off")
        for row, (title, images) in enumerate(rows):
            top = CELL[1] * row
            axes.text(0, top, plain(title), va="top", fontsize=10, fontweight="bold")
            for column, (image, text) in enumerate(images):
                left, above, below = CELL[0] * column, top + _TITLE, top + _TITLE + SIDE
                square = (left, left + SIDE, below, above)
                axes.imshow(image.transpose(1, 2, 0), interpolation="nearest", extent=square)
                lines = "\n".join(plain(line, 22) for line in text.split("\n"))
                axes.text(left, below + 0.04, lines, va="top", fontsize=7, linespacing=1.15)
        axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
