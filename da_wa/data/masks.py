"""Images with a mask each: a class for every pixel, or no class ("void").

Layouts of a data set, by name:

=========  =======================================================================================================
folders    ``<split>/images/NAME.*`` and ``<split>/masks/NAME.png`` (CamVid as it is often packed)
voc        ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/<split>.txt`` (Everingham et al. 2010)
voc_aug    the same with ``SegmentationClassAug``, the masks of SBD (Hariharan et al. 2011) as one-channel images
=========  =======================================================================================================

All images are decoded once and held in memory as uint8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from da_wa.data.images import FORMATS, SUFFIXES, as_rgb, reason, upright
from da_wa.errors import DataError, UserError, nearest, printable

VOID = 255
"""The label of pixels without a class, whatever number the files have for it."""

Masked = tuple[Tensor, Tensor, Tensor]
"""Images, masks and sizes of one image or a batch; see :class:`MaskedImages`."""

MASK_MODES = ("L", "P")
"""What an image of labels is: one channel of 8 bits, or a palette. The palette's colours are not used."""


@dataclass(frozen=True)
class Pair:
    """The files of an image and of its mask."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class MaskedImages(Dataset[Masked]):
    """Images and masks of one split.

    Attributes:
        names: of the images.
        images: (n, 3, h, w) uint8; smaller images are at the upper left.
        masks: (n, h, w) uint8; :data:`VOID` where there is no class, also beside smaller images.
        sizes: (n, 2) int64, height and width of each image.
    """

    names: Sequence[str]
    images: Tensor
    masks: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Masked:
        return self.images[index], self.masks[index], self.sizes[index]

    def __getitems__(self, indices: Sequence[int]) -> Masked:
        """A batch at once."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.masks[chosen], self.sizes[chosen]

    def digest(self) -> str:
        """16 hex digits of all pixels, labels and names, and of the sizes where they differ from the largest."""
        found = hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape"))
        found.update(str(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.masks):
            found.update(tensor.numpy().data)
        if (self.sizes != torch.tensor(self.images.shape[2:])).any():
            found.update(self.sizes.numpy().data)
        return found.hexdigest()[:16]


def listing(layout: str, root: Path, split: str) -> list[Pair]:
    """The files of a split, sorted by name.

    Raises:
        DataError: an unknown layout, a missing folder, list or partner, one that cannot be read, a name that two images
            have, or no image.
    """
    if layout not in LAYOUTS:
        raise DataError(f"data.layout={layout} is unknown. {nearest(layout, LAYOUTS)}")
    try:
        pairs = LAYOUTS[layout](root, split)
    except OSError as error:
        told = f"{printable(error.filename or root)}: {(error.strerror or str(error)).lower()}"
        raise DataError(f"{told}. Rerun the command when it can be read, or check data.root.") from error
    if not pairs:
        raise DataError(f"{printable(root)}: the split {split} has no images; check data.root and data.layout.")
    pairs = sorted(pairs, key=lambda pair: pair.image.name)
    for pair, following in pairwise(pairs):
        if pair.image.stem == following.image.stem:
            raise DataError(f"{printable(root)}: the split {split} has {printable(pair.image.stem)} twice; remove one.")
    return pairs


def _folders(root: Path, split: str) -> list[Pair]:
    images, masks = (_by_stem(root / split / kind) for kind in ("images", "masks"))
    for there, here, kind in ((images, masks, "mask"), (masks, images, "image")):
        if missing := sorted(there.keys() - here.keys()):
            raise DataError(
                f"{printable(there[missing[0]])} has no {kind} ({len(missing)} such): expected "
                f"{printable(root / split / f'{kind}s' / missing[0])}.*"
            )
    return [Pair(path, masks[stem]) for stem, path in images.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{printable(folder)} is missing; data.layout=folders needs <split>/images and <split>/masks.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"{printable(path)} and {printable(found[path.stem].name)} have one name; keep one.")
            found[path.stem] = path
    return found


def _voc(root: Path, split: str, masks: str = "SegmentationClass") -> list[Pair]:
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{printable(path)} is missing; data.root is the folder VOC2012, see docs/paper.md.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    names = [Path(line.split()[0]) for line in lines if line.strip()]  # "NAME", or "/JPEGImages/NAME.jpg …"
    stems = [name.stem if name.suffix.lower() in SUFFIXES else name.name for name in names]
    pairs = [Pair(root / "JPEGImages" / f"{stem}.jpg", root / masks / f"{stem}.png") for stem in stems]
    for file in (file for pair in pairs for file in (pair.image, pair.mask)):
        if not file.is_file():
            raise DataError(f"{printable(file)} is missing; {printable(path)} lists it.")
    return pairs


def _voc_aug(root: Path, split: str) -> list[Pair]:
    return _voc(root, split, "SegmentationClassAug")


LAYOUTS: dict[str, Callable[[Path, str], list[Pair]]] = {"folders": _folders, "voc": _voc, "voc_aug": _voc_aug}


def read_pair(pair: Pair, classes: int, void: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """An image (h, w, 3) and its mask (h, w), with labels 0 … classes - 1 and :data:`VOID`.

    Args:
        pair: the files.
        classes: how many.
        void: the label of pixels without a class in the file.

    Raises:
        DataError: a file cannot be read, the mask is a JPEG, has colours, another size or an unknown label.
    """
    with _opened(pair.image) as file:
        image = np.asarray(as_rgb(_turned(file)))
    with _opened(pair.mask) as file:
        if file.mode not in MASK_MODES:
            raise DataError(
                f"{printable(pair.mask)} is no mask: its mode is {file.mode}; "
                "labels need one 8-bit channel or a palette."
            )
        if file.format == "JPEG":
            raise DataError(f"{printable(pair.mask)} is no mask: JPEG changes labels. Save masks as PNG.")
        labels = np.array(file)
    if labels.shape != image.shape[:2]:
        (h, w), (height, width) = labels.shape, image.shape[:2]
        raise DataError(f"{printable(pair.mask)} has {w}×{h} pixels, and its image {width}×{height}; they must agree.")
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[[*range(classes), void]] = 0
    if len(unknown := np.flatnonzero(counts)):
        raise DataError(
            f"{printable(pair.mask)} has the label {unknown[0]}; known are 0 to {classes - 1}, and data.void={void}."
        )
    labels[labels == void] = VOID
    return image, labels


def load_split(layout: str, root: Path, split: str, classes: int, void: int, mean: Sequence[float]) -> MaskedImages:
    """Decode all images and masks of a split.

    Args:
        layout: of the files, see the module docstring.
        root: their folder.
        split: e.g. ``train``.
        classes: how many.
        void: the label of pixels without a class.
        mean: per channel, in units of 0…1; fills what is beside smaller images.

    Raises:
        DataError: see :func:`listing` and :func:`read_pair`.
    """
    pairs = listing(layout, root, split)
    sizes = [_size(pair.image) for pair in pairs]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    fill = torch.tensor(mean).mul(255).round().to(torch.uint8)[:, None, None]
    images = fill.expand(3, height, width).repeat(len(pairs), 1, 1, 1)
    masks = torch.full((len(pairs), height, width), VOID, dtype=torch.uint8)

    def decode(index: int) -> None:
        image, labels = read_pair(pairs[index], classes, void)
        h, w = labels.shape
        images[index, :, :h, :w] = torch.from_numpy(image.copy()).permute(2, 0, 1)
        masks[index, :h, :w] = torch.from_numpy(labels)

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(pairs))))
    return MaskedImages([pair.image.stem for pair in pairs], images, masks, torch.tensor(sizes))


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as file:
        width, height = _turned(file).size
        return height, width


def _turned(file: Image.Image) -> Image.Image:
    """An image as its EXIF block says. PIL decodes a PNG without one to look for it at the end: that is left out."""
    return file if file.format == "PNG" and "exif" not in file.info else upright(file)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever is wrong with it while it is read names it."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            yield file
    except (UserError, MemoryError):
        raise
    except Exception as error:  # PIL's plug-ins raise almost anything on a broken file
        raise DataError(f"{printable(path)}: {reason(path, error)}") from error
