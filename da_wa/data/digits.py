"""A small three-domain set that needs no download: handwritten, natural and printed digits, 32×32.

Made from data that scikit-learn and matplotlib ship. Handwritten (H): half of the UCI digits (Alpaydin & Kaynak 1998),
white on black. Natural (N): the other half blended into photo patches as ``|patch - digit|``, which is how
MNIST-M is made (Ganin et al. 2016). Printed (P): the digits of matplotlib's fonts with jitter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from da_wa.data.domains import DomainSet, NamedImages, assemble
from da_wa.data.images import ImageArray
from da_wa.errors import ConfigError

SIZE = 32
MOST_PER_CLASS = 87
"""Half of the rarest UCI digit; no digit is used twice."""

_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmss10", "cmtt10"),
)


def digits(seed: int = 0, per_class: int = MOST_PER_CLASS) -> DomainSet:
    """Domains H (handwritten), N (natural) and P (printed) over the classes ``0`` … ``9``.

    Args:
        seed: the same seed gives the same images.
        per_class: images of each class in each domain, 1 to 87.

    Raises:
        ConfigError: ``per_class`` is out of range.

    >>> demo = digits(per_class=2)
    >>> demo.names, len(demo["P"].images)
    (('H', 'N', 'P'), 20)
    """
    if not 1 <= per_class <= MOST_PER_CLASS:
        raise ConfigError(f"data.per_class={per_class}: the built-in digits have 1 to {MOST_PER_CLASS} per class.")
    draw = np.random.default_rng(seed)
    classes = [str(digit) for digit in range(10)]
    labels = np.repeat(np.arange(10), per_class)
    handwritten, others = _handwritten(per_class, draw)
    domains = {"H": np.stack([handwritten] * 3, axis=1), "N": _blend(others, draw), "P": _printed(labels, draw)}
    names = tuple(f"{label}/{number:03d}" for label in classes for number in range(per_class))
    named = {code: NamedImages(ImageArray(pixels, names), tuple(map(str, labels))) for code, pixels in domains.items()}
    return assemble("digits", named, classes, "equal")


def _handwritten(per_class: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint samples of UCI digits, each (10 · per_class, 32, 32) uint8, by class."""
    from sklearn.datasets import load_digits

    uci = load_digits()
    chosen = [draw.permutation(np.flatnonzero(uci.target == digit))[: 2 * per_class] for digit in range(10)]
    halves = np.stack(chosen).reshape(10, 2, per_class).swapaxes(0, 1).reshape(2, -1)
    first, second = (np.stack([_enlarged(uci.images[i]) for i in half]) for half in halves)
    return first, second


def _enlarged(digit: np.ndarray) -> np.ndarray:
    """(8, 8) with values 0 … 16 as (32, 32) uint8."""
    grey = Image.fromarray(np.round(digit * 255 / 16).astype(np.uint8))
    return np.asarray(grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _blend(digits: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """``|patch - digit|`` in every channel, with random patches of the sample photos at half their size."""
    from sklearn.datasets import load_sample_images

    photos = [np.asarray(Image.fromarray(photo).reduce(2)) for photo in load_sample_images().images]
    blended = np.empty((len(digits), 3, SIZE, SIZE), np.uint8)
    for i, digit in enumerate(digits):
        photo = photos[draw.integers(len(photos))]
        top, left = draw.integers(photo.shape[0] - SIZE + 1), draw.integers(photo.shape[1] - SIZE + 1)
        patch = photo[top : top + SIZE, left : left + SIZE].astype(np.int16)
        blended[i] = np.abs(patch - digit[..., None]).transpose(2, 0, 1)
    return blended


def _printed(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Dark digits on light paper: (n, 3, 32, 32) uint8."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    grey = np.stack([_print(str(label), folder / f"{draw.choice(_FONTS)}.ttf", draw) for label in labels])
    return np.stack([grey] * 3, axis=1)


def _print(digit: str, font: Path, draw: np.random.Generator) -> np.ndarray:
    """One digit, drawn at four times the size with a random place, height, angle, thickness and contrast."""
    scale = 4
    ink, paper = int(draw.integers(0, 100)), int(draw.integers(156, 256))
    canvas = Image.new("L", (scale * SIZE, scale * SIZE), paper)
    face = ImageFont.truetype(str(font), scale * int(draw.integers(18, 29)), layout_engine=ImageFont.Layout.BASIC)
    place = scale * (SIZE / 2 + draw.uniform(-3, 3, size=2))
    thickness = int(draw.integers(0, scale))
    ImageDraw.Draw(canvas).text(tuple(place), digit, ink, face, anchor="mm", stroke_width=thickness)
    turned = canvas.rotate(draw.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=paper)
    return np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BOX))
