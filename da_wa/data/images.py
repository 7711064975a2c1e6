"""Images that are not decoded yet: files, arrays, or a choice of either.

They tell what they are by a digest of their content, so that :mod:`da_wa.data.cache` decodes each set once.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from da_wa.errors import DataError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class Images(Protocol):
    """*n* images of one domain, each decodable at any size."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The image's path relative to the domain, with forward slashes; made up for generated images."""

    def stamp(self) -> str:
        """A hex string that changes whenever the images may have changed; cheap, reads no pixel."""

    def digest(self) -> str:
        """32 hex digits, a hash of names, order and content, whatever folder the images lie in."""

    def decode(self, index: int, size: int) -> np.ndarray:
        """One image as (3, size, size) uint8, RGB.

        Raises:
            DataError: names the file and what is wrong with it.
        """


@dataclass(frozen=True)
class ImageFiles:
    """Image files below ``root``, in the order of ``paths`` (relative, forward slashes)."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    def stamp(self) -> str:
        """From what the file system tells: path, size and times of every file."""
        found = hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=16)
        for path in self.paths:
            try:
                stat = os.stat(os.path.join(self.root, path))
                told = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            except OSError:
                told = "unreadable"
            found.update(f"\n{path}\0{told}".encode(errors="surrogateescape"))
        return found.hexdigest()

    def digest(self) -> str:
        """From every byte of every file. A file that cannot be read counts as such: :meth:`decode` reports it."""
        found = hashlib.blake2b(digest_size=16)
        for path in self.paths:
            try:
                with open(os.path.join(self.root, path), "rb") as file:
                    content = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
            except OSError:
                content = "unreadable"
            found.update(f"\n{path}\0{content}".encode(errors="surrogateescape"))
        return found.hexdigest()

    def decode(self, index: int, size: int) -> np.ndarray:
        """The file's image, upright; its transparency is dropped, as ``ImageFolder`` drops it.

        Raises:
            DataError: names the file and what is wrong with it.
        """
        path = self.root / self.paths[index]
        try:
            with Image.open(path, formats=_FORMATS) as image:
                image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that suffices
                ImageOps.exif_transpose(image, in_place=True)
                return resized(_as_rgb(image), size)
        except MemoryError:
            raise
        except Exception as error:  # PIL's plug-ins raise almost anything on a broken file
            raise DataError(f"{path}: {_reason(path, error)}") from error


@dataclass(frozen=True)
class ImageArray:
    """Images that are already pixels: (n, 3, h, w) uint8, with made-up names."""

    pixels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """The made-up name."""
        return self.names[index]

    def stamp(self) -> str:
        """The digest itself: hashing is cheap here."""
        return self.digest()

    def digest(self) -> str:
        """From names and pixels."""
        found = hashlib.blake2b("\n".join(self.names).encode(), digest_size=16)
        found.update(str(self.pixels.shape).encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        return found.hexdigest()

    def decode(self, index: int, size: int) -> np.ndarray:
        """The image, at its own size untouched."""
        return resized(Image.fromarray(np.ascontiguousarray(self.pixels[index].transpose(1, 2, 0))), size)


@dataclass(frozen=True)
class Selected:
    """Some of the images of another collection."""

    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The name in the other collection."""
        return self.images.name(self.indices[index])

    def stamp(self) -> str:
        """From the whole collection's stamp and the choice."""
        return self._of(self.images.stamp())

    def digest(self) -> str:
        """From the whole collection's digest and the choice."""
        return self._of(self.images.digest())

    def decode(self, index: int, size: int) -> np.ndarray:
        """The chosen image."""
        return self.images.decode(self.indices[index], size)

    def _of(self, whole: str) -> str:
        return hashlib.blake2b(f"{whole} {self.indices}".encode(), digest_size=16).hexdigest()


def resized(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as (3, size, size) uint8: bilinear, antialiased, the aspect ratio not kept (the field's way)."""
    square = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _as_rgb(image: Image.Image) -> Image.Image:
    """Grey of 8 and 16 bits, palette, CMYK and the like as RGB."""
    if image.mode.startswith("I;16"):  # PIL would clip: keep the high byte instead
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with an image, in words."""
    if not path.exists():
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if path.stat().st_size == 0:
        return "zero bytes"
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WebP or BMP image"
    return str(error) or type(error).__name__
