"""Decode once: the pixels of a domain as a memory-mapped uint8 array, keyed by content.

``cache_dir/<digest>-<size>/`` holds ``pixels.npy`` (n, 3, size, size) and ``meta.json``. The folder appears
whole or not at all; whatever in it is torn, truncated or foreign is detected and decoded again. Labels are
not cached: they come from the :class:`~da_wa.data.domains.Domain`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeVar, get_args

import numpy as np
from filelock import FileLock

from da_wa.data.domains import Domain, some
from da_wa.data.images import Images
from da_wa.errors import ConfigError, DataError, nearest

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

DECODER = 1
"""Counts up whenever the same files give other pixels than before."""

OnBad = Literal["error", "skip"]
"""``error`` refuses a domain with images that cannot be decoded, ``skip`` leaves those out with a warning."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

_BLOCK = 16  # images that one thread decodes at a time


@dataclass(frozen=True)
class DecodedDomain:
    """A decoded domain.

    Args:
        name: the domain's name.
        pixels: (n, 3, size, size) uint8, read-only, mapped from the cache.
        labels: (n,) int64.
        names: the images' names.
        digest: a hash of images, labels and classes.
        classes: the class names.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    digest: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)


def load_decoded(
    domain: Domain,
    classes: Sequence[str],
    size: int,
    cache_dir: str | Path,
    on_bad: OnBad = "error",
    progress: Progress | None = None,
) -> DecodedDomain:
    """A domain's pixels, decoded now or by an earlier call.

    Args:
        domain: the images and labels.
        classes: the class names that the labels index.
        size: side length in pixels.
        cache_dir: where decoded pixels are kept.
        on_bad: see :data:`OnBad`.
        progress: told how far decoding is; not called when the cache has the pixels.

    Raises:
        DataError: bad images under ``error``, no image left, or a cache that cannot be written.
    """
    if size < 1:
        raise ConfigError(f"data.size={size}: an image needs at least one pixel.")
    if on_bad not in get_args(OnBad):
        raise ConfigError(f"data.on_bad={on_bad!r} is unknown. {nearest(str(on_bad), get_args(OnBad))}")
    n = len(domain.images)
    if n == 0:
        raise DataError(f"Domain {domain.name} has no images.")

    def accept(bad: Mapping[int, str]) -> None:
        if bad and (on_bad == "error" or len(bad) == n):
            listed = some(bad.values(), separator="\n  ")
            advice = "Replace them." if len(bad) == n else "Replace them, or leave them out with data.on_bad=skip."
            raise DataError(f"{domain.name}: {len(bad)} of {n} images cannot be read:\n  {listed}\n{advice}")

    try:
        entry = _Entry.of(domain.images, size, Path(cache_dir))
        pixels, bad = entry.read() or entry.build(accept, progress)
    except OSError as error:
        raise DataError(
            f"Cannot keep the decoded pixels of {domain.name} ({n * 3 * size**2:,} bytes) in {cache_dir}: {error}. "
            "Make room there, or name another folder with cache_dir=PATH."
        ) from error
    accept(bad)
    if bad:
        logger.warning("%s: %d images are left out: %s", domain.name, len(bad), some(bad.values(), separator="; "))
    return _labelled(domain, tuple(classes), entry.digest, pixels, _without(n, bad))


def _labelled(
    domain: Domain, classes: tuple[str, ...], digest: str, pixels: np.ndarray, kept: list[int]
) -> DecodedDomain:
    labels = domain.labels[kept]
    lost = np.setdiff1d(domain.labels, labels)
    if len(lost):
        raise DataError(f"{domain.name}: no readable image is left of {some(classes[label] for label in lost)}.")
    whole = hashlib.blake2b(f"{digest} {classes}".encode(errors="surrogateescape"), digest_size=16)
    whole.update(labels.data)
    return DecodedDomain(
        domain.name, pixels, labels, tuple(domain.images.name(i) for i in kept), whole.hexdigest(), classes
    )


def _without(n: int, bad: Mapping[int, str]) -> list[int]:
    return [i for i in range(n) if i not in bad]


@dataclass(frozen=True)
class _Entry:
    """One folder of the cache: ``images`` at one size."""

    folder: Path
    images: Images
    size: int
    stamp: str
    digest: str

    @classmethod
    def of(cls, images: Images, size: int, cache_dir: Path) -> _Entry:
        """The entry's folder follows from the images' digest, which is remembered under their stamp."""
        stamp = images.stamp()
        memo = cache_dir / "digests" / stamp
        digest = memo.read_text(errors="replace") if memo.is_file() else ""
        if re.fullmatch("[0-9a-f]{32}", digest) is None:  # absent or torn
            digest = images.digest()
            memo.parent.mkdir(parents=True, exist_ok=True)
            draft = memo.with_name(f"{stamp}.{uuid.uuid4().hex}")
            draft.write_text(digest)
            os.replace(draft, memo)
        return cls(cache_dir / f"{digest}-{size}", images, size, stamp, digest)

    def read(self) -> tuple[np.ndarray, dict[int, str]] | None:
        """DecodedDomain and bad images (index: reason); ``None`` if absent or not exactly what was written."""
        try:
            meta = json.loads((self.folder / "meta.json").read_text())
            pixels = np.lib.format.open_memmap(self.folder / "pixels.npy", mode="r")
            bad = {int(index): str(reason) for index, reason in meta["bad"].items()}
            plain = pixels.dtype == np.uint8 and pixels.flags.c_contiguous
            sound = plain and list(pixels.shape) == meta["shape"] and meta == self._meta(pixels, bad)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            sound = False
        if not sound:
            logger.warning("%s is damaged: its images are decoded again.", self.folder)
            return None
        return pixels, bad

    def build(
        self, accept: Callable[[Mapping[int, str]], None], progress: Progress | None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Decode into a folder beside and rename it; a second process that wants the same waits, then reads.

        Nothing is kept when ``accept`` refuses the bad images.
        """
        beside = self.folder.with_name(f"{self.folder.name}.partial")
        with FileLock(self.folder.with_name(f"{self.folder.name}.lock")):
            if found := self.read():
                return found
            for stale in (beside, self.folder):
                if stale.exists():
                    shutil.rmtree(stale)
            beside.mkdir()
            try:
                bad = self._decode(beside / "pixels.npy", progress)
                accept(bad)
                if self.images.stamp() != self.stamp:
                    raise DataError("Images changed while they were read; leave them alone and run this again.")
                pixels = np.lib.format.open_memmap(beside / "pixels.npy", mode="r")
                with open(beside / "meta.json", "w") as file:
                    json.dump(self._meta(pixels, bad), file)
                    _sync(file)
                os.rename(beside, self.folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return pixels, bad

    def _decode(self, path: Path, progress: Progress | None) -> dict[int, str]:
        """Write the pixels of all images in order; returns the bad ones. Written, not mapped: a full disk raises."""
        bad: dict[int, str] = {}
        n, workers = len(self.images), os.cpu_count() or 1
        with open(path, "wb") as file, ThreadPoolExecutor(workers) as pool:
            self._header(file, n)
            blocks = (range(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))
            for block, (pixels, refused) in _in_order(pool, self._decode_block, blocks, ahead=2 * workers):
                file.write(pixels)
                bad |= refused
                if progress is not None:
                    progress(block.stop, n)
            file.seek(0)
            self._header(file, n - len(bad))
            _sync(file)
        return bad

    def _decode_block(self, block: range) -> tuple[bytes, dict[int, str]]:
        pixels, bad = [], {}
        for index in block:
            try:
                pixels.append(self.images.decode(index, self.size).tobytes())
            except DataError as error:
                bad[index] = str(error)
        return b"".join(pixels), bad

    def _header(self, file: BinaryIO, n: int) -> None:
        """The header of an ``.npy`` file; its length does not depend on ``n``."""
        shape = (n, 3, self.size, self.size)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def _meta(self, pixels: np.ndarray, bad: Mapping[int, str]) -> dict[str, Any]:
        return {
            "decoder": DECODER,
            "digest": self.digest,
            "shape": [len(self.images) - len(bad), 3, self.size, self.size],
            "crc32": zlib.crc32(pixels.data),
            "bad": {str(index): reason for index, reason in bad.items()},
            "names": [self.images.name(i) for i in _without(len(self.images), bad)],
        }


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[tuple[T, R]]:
    """Items and results in order, computed at most ``ahead`` items early (``pool.map`` would hold them all)."""
    pending: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) > ahead:
            done, future = pending.popleft()
            yield done, future.result()
    for done, future in pending:
        yield done, future.result()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
