"""Undecoded images: files, arrays, or a subset of either.

A digest of their content identifies them; :mod:`da_wa.data.cache` decodes each set once.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from da_wa.errors import DataError, ReadFailed, printable

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

Resize = Callable[[Image.Image, int], np.ndarray]
"""An RGB image and a side -> (3, side, side) uint8."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_OF_THE_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
)
"""Errors of the system that say something about a file; EINVAL: a broken image names a place before its start."""

_REPORT_EVERY = 64  # files hashed between two calls of a progress callback


class Images(Protocol):
    """*n* images of one domain, each decodable at any size."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's path relative to the domain, with forward slashes; made up for generated images."""

    def fingerprint(self) -> str:
        """A hex string that changes whenever the images may have changed; cheap, reads no file content."""

    def digest(self, progress: Progress | None = None) -> str:
        """32 hex digits: a hash of names, order and content, independent of the folder; may read every file."""

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """One image as (3, size, size) uint8, RGB; resized by :func:`resized` or another function.

        Raises:
            DataError: names the file and what is wrong with it.
        """


@dataclass(frozen=True)
class ImageFiles:
    """Image files below ``root``, in the order of ``paths`` (relative, forward slashes).

    >>> images = ImageFiles(Path("data/office31/amazon"), ("mug/001.jpg", "mug/002.jpg"))
    >>> len(images), images.name(1)
    (2, 'mug/002.jpg')
    """

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    def fingerprint(self) -> str:
        """A hash of path, size and times of every file."""
        found = hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=16)
        for path in self.paths:
            try:
                stat = os.stat(os.path.join(self.root, path))
                state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            except OSError:
                state = "unreadable"
            found.update(f"\n{path}\0{state}".encode(errors="surrogateescape"))
        return found.hexdigest()

    def digest(self, progress: Progress | None = None) -> str:
        """A hash of every byte of every file. An unreadable file is hashed as such; :meth:`decode` reports it.

        Raises:
            ReadFailed: the system cannot read a file now.
        """
        found = hashlib.blake2b(digest_size=16)
        for done, path in enumerate(self.paths, start=1):
            try:
                with open(os.path.join(self.root, path), "rb") as file:
                    content = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
            except OSError as error:
                if _may_pass(error):
                    raise _failed(self.root / path, error) from error
                content = "unreadable"
            found.update(f"\n{path}\0{content}".encode(errors="surrogateescape"))
            if progress is not None and (done % _REPORT_EVERY == 0 or done == len(self.paths)):
                progress(done, len(self.paths))
        return found.hexdigest()

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """The file's image, upright; its transparency is dropped, as ``ImageFolder`` drops it.

        Raises:
            DataError: names the file and what is wrong with it.
            ReadFailed: the system cannot read it now.
        """
        path = self.root / self.paths[index]
        try:
            with Image.open(path, formats=FORMATS) as image:
                image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that suffices
                return (resize or resized)(as_rgb(upright(image)), size)
        except MemoryError:
            raise
        except Exception as error:  # PIL's plug-ins raise almost anything on a broken file
            if isinstance(error, OSError) and _may_pass(error):
                raise _failed(path, error) from error
            raise DataError(f"{printable(path)}: {reason(path, error)}") from error


@dataclass(frozen=True)
class ImageArray:
    """Images that are already pixels: (n, 3, h, w) uint8, with made-up names.

    >>> images = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("a", "b"))
    >>> images.decode(0, 4).shape
    (3, 4, 4)
    """

    pixels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """The made-up name."""
        return self.names[index]

    def fingerprint(self) -> str:
        """The digest itself: hashing is cheap here."""
        return self.digest()

    def digest(self, progress: Progress | None = None) -> str:
        """A hash of names and pixels."""
        found = hashlib.blake2b("\n".join(self.names).encode(errors="surrogateescape"), digest_size=16)
        found.update(str(self.pixels.shape).encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        return found.hexdigest()

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """The image, at its own size untouched."""
        image = Image.fromarray(np.ascontiguousarray(self.pixels[index].transpose(1, 2, 0)))
        return (resize or resized)(image, size)


@dataclass(frozen=True)
class Selected:
    """Some of the images of another collection.

    >>> pair = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("a", "b"))
    >>> Selected(pair, (1,)).name(0)
    'b'
    """

    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The name in the other collection."""
        return self.images.name(self.indices[index])

    def fingerprint(self) -> str:
        """A hash of the whole collection's fingerprint and the indices."""
        return self._of(self.images.fingerprint())

    def digest(self, progress: Progress | None = None) -> str:
        """A hash of the whole collection's digest and the indices."""
        return self._of(self.images.digest(progress))

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """The selected image."""
        return self.images.decode(self.indices[index], size, resize)

    def _of(self, whole: str) -> str:
        return hashlib.blake2b(f"{whole} {self.indices}".encode(), digest_size=16).hexdigest()


def resized(
    image: Image.Image,
    size: int,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """An RGB image as (3, size, size) uint8: antialiased, the aspect ratio not kept (as usual in the field).

    Args:
        image: the image.
        size: side in pixels.
        resample: the interpolation.
        box: left, top, right and bottom of the part to show; default: the whole image.

    >>> resized(Image.new("RGB", (300, 200), (255, 0, 0)), 32)[:, 0, 0].tolist()
    [255, 0, 0]
    """
    square = image.resize((size, size), resample, box=box, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of an EXIF orientation upright."""


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says; as it is stored if its EXIF block cannot be read.

    ``ImageOps.exif_transpose`` also writes the block anew, which fails for odd entries of readable images.

    >>> image = Image.new("RGB", (3, 2))
    >>> image.getexif()[ExifTags.Base.Orientation] = 6
    >>> upright(image).size
    (2, 3)
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # PIL raises almost anything on a broken block
        turn = None
    return image if turn is None else image.transpose(turn)


def as_rgb(image: Image.Image) -> Image.Image:
    """Grey of 8 and 16 bits, palette, CMYK and the like as RGB."""
    if image.mode.startswith("I;16"):  # PIL would clip: keep the high byte instead
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _may_pass(error: OSError) -> bool:
    """Whether it is a fault of a disk, a network or a limit; PIL's own errors have no number."""
    return error.errno is not None and error.errno not in _OF_THE_FILE


def _failed(path: Path, error: OSError) -> ReadFailed:
    return ReadFailed(f"{printable(path)}: {reason(path, error)}. Rerun the command when the file can be read.")


def reason(path: Path, error: Exception) -> str:
    """What is wrong with an image, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    with suppress(OSError):  # the disk or network may be gone by now
        if path.stat().st_size == 0:
            return "zero bytes"
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WebP or BMP image"
    return str(error) or type(error).__name__
