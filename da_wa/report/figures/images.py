"""Images in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from da_wa.report.figures.style import plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = (1.4, 2.05)
"""Width and height in inches of an image with what is written around it."""

SIDE = 1.25
"""Width and height in inches of an image."""


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]]) -> Figure:
    """A row of images, each with what is written below it, for every title.

    Args:
        rows: title and (image (3, h, w) uint8, text) pairs.
    """
    from matplotlib.figure import Figure

    columns = max(len(images) for _, images in rows)
    width, height = CELL[0] * columns, CELL[1] * len(rows)
    with plain_style():
        figure = Figure(figsize=(width, height))
        for row, (title, images) in enumerate(rows):
            top = 1 - row * CELL[1] / height
            figure.text(0, top, plain(title), va="top", fontsize=10, fontweight="bold")
            for column, (image, text) in enumerate(images):
                left, bottom = CELL[0] * column / width, top - (0.25 + SIDE) / height
                axes = figure.add_axes((left, bottom, SIDE / width, SIDE / height))
                axes.imshow(image.transpose(1, 2, 0), interpolation="nearest")
                axes.axis("off")
                lines = "\n".join(plain(line, 22) for line in text.split("\n"))
                figure.text(left, bottom - 0.04 / height, lines, va="top", fontsize=7, linespacing=1.15)
    return figure
