"""Images in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from da_wa.report.figures.style import plain, plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]]) -> Figure:
    """A row of images, each with what is written below it, for every title.

    Args:
        rows: title and (image (3, h, w) uint8, text) pairs.
    """
    from matplotlib.figure import Figure

    columns = max(len(images) for _, images in rows)
    with plain_style():
        figure = Figure(figsize=(1.45 * columns, 2.15 * len(rows)), layout="constrained")
        for part, (title, images) in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows, strict=True):
            part.suptitle(plain(title), x=0.01, ha="left", fontsize=10, fontweight="bold")
            for k, (axes, entry) in enumerate(
                zip(part.subplots(1, columns), [*images, *[None] * columns], strict=False)
            ):
                axes.axis("off")
                if entry is not None:
                    assert k < len(images)
                    axes.imshow(entry[0].transpose(1, 2, 0), interpolation="nearest")
                    axes.set_title(
                        "\n".join(plain(line, 24) for line in entry[1].split("\n")), y=-0.05, va="top", size=7
                    )
    return figure
