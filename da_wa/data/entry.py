"""One folder of the pixel cache: a set of images, decoded at one size.

``<digest>-<size>/`` holds ``pixels.npy`` (n, 3, size, size) and ``meta.json``. The folder appears atomically: until all
images are decoded it is called ``<digest>-<size>.partial``. Reading verifies it and detects truncated, damaged or
exchanged files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from da_wa.data.decode import JOURNAL, PIXELS, decode_to
from da_wa.data.files import checksum, replace_text
from da_wa.data.images import Images, Progress
from da_wa.errors import DataError, printable
from da_wa.locks import locked

logger = logging.getLogger(__name__)

DECODER = 1
"""Counts up whenever the same files give other pixels than before."""


@dataclass(frozen=True)
class Meta:
    """What ``meta.json`` says about the pixels beside it.

    Args:
        names: the names of the decoded images, in order.
        bad: the images that could not be decoded (index: reason).
        crc32: checksum of the pixels.
    """

    names: tuple[str, ...]
    bad: Mapping[int, str]
    crc32: int

    def describes(self, images: Images) -> bool:
        """Whether these are the names of ``images``, less the bad ones."""
        kept = (images.name(i) for i in range(len(images)) if i not in self.bad)
        return len(self.names) + len(self.bad) == len(images) and self.names == tuple(kept)


@dataclass(frozen=True)
class Entry:
    """The folder for one set of images at one size.

    Args:
        cache_dir: the cache.
        digest: of the images.
        size: side length in pixels.
    """

    cache_dir: Path
    digest: str
    size: int

    @property
    def folder(self) -> Path:
        """Where the entry is."""
        return self.cache_dir / f"{self.digest}-{self.size}"

    def read_meta(self) -> Meta | None:
        """What the entry holds, without its pixels; ``None`` if absent or damaged."""
        try:
            content = json.loads((self.folder / "meta.json").read_text())
            bad = {int(index): str(reason) for index, reason in content["bad"].items()}
            meta = Meta(tuple(map(str, content["names"])), bad, int(content["crc32"]))
            if content == self._content(meta) and all(0 <= i < len(meta.names) + len(bad) for i in bad):
                return meta
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            pass
        self._warn()
        return None

    def read(self, images: Images | None = None) -> tuple[np.ndarray, Meta] | None:
        """The verified pixels, mapped read-only; reads all of them once for the checksum.

        Args:
            images: what the entry should hold, where the images are at hand.

        Returns:
            Pixels and meta; ``None`` if the entry is absent or not exactly what was written.
        """
        meta = self.read_meta()
        if meta is None:
            return None
        try:
            pixels = np.lib.format.open_memmap(self.folder / PIXELS, mode="r")
            plain = pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.shape == self._shape(meta)
            sound = plain and self._checksum(pixels) == meta.crc32
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            sound = False
        if not sound or (images is not None and not meta.describes(images)):
            self._warn()
            return None
        return pixels, meta

    def build(
        self,
        images: Images,
        fingerprint: str,
        accept: Callable[[Mapping[int, str]], None],
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, Meta]:
        """Decode into a folder beside, then rename; a second process that wants the same waits, then reads.

        What a process had decoded when it was interrupted, or found bad images, is kept for the next, as long as no
        image file was touched and Pillow is the same.

        Args:
            images: the images.
            fingerprint: theirs, when the digest was taken.
            accept: raises when the bad images (index: reason) are too many.
            progress: called while decoding.

        Raises:
            DataError: as ``accept`` raises it; or the images changed meanwhile, and nothing is kept.
            ReadFailed: the system cannot read an image now.
            OSError: the cache cannot be written.
        """
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        with locked(self.folder.with_name(f"{self.folder.name}.lock")):
            if found := self.read(images):
                return found
            if self.folder.exists():
                shutil.rmtree(self.folder)
            partial.mkdir(exist_ok=True)
            key = f"{DECODER} {PIL.__version__} {fingerprint}"  # another version may read what this one cannot
            bad, crc32 = decode_to(partial, images, self.size, key, progress)
            if images.fingerprint() != fingerprint:
                shutil.rmtree(partial, ignore_errors=True)
                raise DataError("Images changed while they were read. Leave them alone and rerun the command.")
            accept(bad)
            names = tuple(images.name(i) for i in range(len(images)) if i not in bad)
            meta = Meta(names, bad, crc32)
            replace_text(partial / "meta.json", json.dumps(self._content(meta)))
            os.rename(partial, self.folder)
            (self.folder / JOURNAL).unlink()
        return np.lib.format.open_memmap(self.folder / PIXELS, mode="r"), meta

    def _checksum(self, pixels: np.memmap) -> int | None:
        with (self.folder / PIXELS).open("rb") as file:
            file.seek(pixels.offset)
            return checksum(file, pixels.nbytes)

    def _shape(self, meta: Meta) -> tuple[int, int, int, int]:
        return len(meta.names), 3, self.size, self.size

    def _content(self, meta: Meta) -> dict[str, Any]:
        return {
            "decoder": DECODER,
            "digest": self.digest,
            "shape": list(self._shape(meta)),
            "crc32": meta.crc32,
            "bad": {str(index): reason for index, reason in meta.bad.items()},
            "names": list(meta.names),
        }

    def _warn(self) -> None:
        logger.warning("%s is damaged or belongs to other images.", printable(self.folder))
