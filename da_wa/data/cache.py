"""Decode once: the pixels of a domain as a memory-mapped uint8 array, keyed by content.

Two stages use the cache. The main process prepares it::

    manifests = read_manifests(domains, size, cache_dir)   # enough to plan with; nothing is decoded
    decode_domains(domains, size, cache_dir)               # before the first job

A worker then opens domains by their digest, without the images: ``open_decoded(name, digest, size, cache_dir)``.

Layout of ``cache_dir``: ``<digest>-<size>/`` pixels (:mod:`~da_wa.data.entry`), ``manifests/`` labels and classes
(:mod:`~da_wa.data.manifest`), ``digests/`` digests of image files, valid while a file is unchanged.
Everything is verified when it is read and can be deleted while no command runs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from da_wa.data.domains import Domain, DomainSet
from da_wa.data.entry import Entry
from da_wa.data.files import replace_text
from da_wa.data.images import Images, Progress
from da_wa.data.manifest import DomainManifest, load_manifest, make_manifest
from da_wa.errors import ConfigError, DataError, nearest, printable, some

logger = logging.getLogger(__name__)

OnBad = Literal["error", "skip"]
"""``error`` refuses a domain with images that cannot be decoded, ``skip`` leaves those out with a warning."""

StepProgress = Callable[[str, int, int], None]
"""Called with a step such as ``Decoding A``, the images done, and the images in all."""


@dataclass(frozen=True)
class DecodedDomain:
    """A decoded domain: what its :class:`~da_wa.data.manifest.DomainManifest` says, and the pixels.

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


def read_manifest(
    domain: Domain,
    classes: Sequence[str],
    size: int,
    cache_dir: str | Path,
    on_bad: OnBad = "error",
    progress: StepProgress | None = None,
) -> DomainManifest:
    """What a domain holds, for planning; saved in the cache for :func:`open_decoded`.

    Image files are hashed, unless nothing about them changed since they were. They are not decoded, with one
    exception: under ``on_bad=skip`` only decoding finds out which images are left, so it is done now, once.
    Under ``error`` bad images are reported here if an earlier run left them out, else by :func:`load_decoded`.

    Args:
        domain: the images and labels.
        classes: the class names that the labels index.
        size: side length in pixels.
        cache_dir: where decoded pixels are kept.
        on_bad: see :data:`OnBad`.
        progress: called while files are hashed or decoded.

    Raises:
        ConfigError: ``size`` or ``on_bad`` is not valid.
        DataError: no images, bad images under ``error``, or a cache that cannot be written.

    >>> import tempfile
    >>> from da_wa.data.digits import digits
    >>> demo = digits(per_class=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = read_manifest(demo["H"], demo.classes, 16, folder)
    >>> manifest.name, len(manifest), manifest.labels[:4].tolist()
    ('H', 20, [0, 0, 1, 1])
    """
    _check(domain, size, on_bad)
    folder = Path(cache_dir)
    with _writing(domain, size, folder):
        _, digest = _identify(domain.images, folder, _step(progress, f"Checking {domain.name}"))
        meta = Entry(folder, digest, size).read_meta()
        known = meta is not None and meta.describes(domain.images)
        if not known and on_bad == "skip":
            return _load(domain, classes, size, folder, on_bad, _step(progress, f"Decoding {domain.name}"))[1]
        bad = meta.bad if meta is not None and known else {}
        _accept(domain, bad, on_bad)
        manifest = make_manifest(domain, tuple(classes), digest, bad)
        manifest.save(folder)
        return manifest


def load_decoded(
    domain: Domain,
    classes: Sequence[str],
    size: int,
    cache_dir: str | Path,
    on_bad: OnBad = "error",
    progress: Progress | None = None,
) -> DecodedDomain:
    """A domain's pixels, decoded now or by an earlier call, and verified.

    Args:
        domain: the images and labels.
        classes: the class names that the labels index.
        size: side length in pixels.
        cache_dir: where decoded pixels are kept.
        on_bad: see :data:`OnBad`.
        progress: called while decoding; not called when the cache has the pixels.

    Raises:
        ConfigError: ``size`` or ``on_bad`` is not valid.
        DataError: bad images under ``error``, no image left, or a cache that cannot be written.

    >>> import tempfile
    >>> from da_wa.data.digits import digits
    >>> demo = digits(per_class=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     decoded = load_decoded(demo["H"], demo.classes, 16, folder)
    >>> decoded.pixels.shape, decoded.pixels.dtype
    ((20, 3, 16, 16), dtype('uint8'))
    """
    _check(domain, size, on_bad)
    pixels, manifest, bad = _load(domain, classes, size, Path(cache_dir), on_bad, progress)
    if bad:
        left_out = some(bad.values(), separator="; ")
        logger.warning("%s: %d images are left out: %s", printable(domain.name), len(bad), left_out)
    return _decoded(manifest, pixels, manifest.names)


def read_manifests(
    domains: DomainSet,
    size: int,
    cache_dir: str | Path,
    on_bad: OnBad = "error",
    progress: StepProgress | None = None,
) -> tuple[DomainManifest, ...]:
    """:func:`read_manifest` for every domain of a set, in order."""
    return tuple(read_manifest(d, domains.classes, size, cache_dir, on_bad, progress) for d in domains.domains)


def decode_domains(
    domains: DomainSet,
    size: int,
    cache_dir: str | Path,
    on_bad: OnBad = "error",
    progress: StepProgress | None = None,
) -> tuple[DecodedDomain, ...]:
    """:func:`load_decoded` for every domain of a set, in order; damaged cache entries are rebuilt."""
    return tuple(
        load_decoded(d, domains.classes, size, cache_dir, on_bad, _step(progress, f"Decoding {d.name}"))
        for d in domains.domains
    )


def open_decoded(name: str, digest: str, size: int, cache_dir: str | Path) -> DecodedDomain:
    """A domain that was decoded before, from the cache alone; its images need not be there.

    Pixels are a memory map: it takes address space and the system's file cache, not memory of the process.

    Args:
        name: the domain's name.
        digest: the :attr:`~da_wa.data.manifest.DomainManifest.digest` that planning found.
        size: side length in pixels.
        cache_dir: the cache.

    Raises:
        DataError: the cache does not have it, or what it has is damaged or belongs to another domain.

    >>> import tempfile
    >>> from da_wa.data.digits import digits
    >>> demo = digits(per_class=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digest = load_decoded(demo["H"], demo.classes, 16, folder).digest
    ...     len(open_decoded("H", digest, 16, folder))
    20
    """
    manifest = load_manifest(name, digest, Path(cache_dir))
    entry = Entry(Path(cache_dir), manifest.images, size)
    try:
        found = entry.read()
    except OSError as error:
        raise DataError(f"{printable(entry.folder)} cannot be read: {error}. Check cache_dir=PATH.") from error
    if found is None or len(found[1].names) != len(manifest):
        raise DataError(
            f"{printable(entry.folder)} does not have the pixels of {printable(name)}, or is damaged. "
            "Rerun the command to decode the images again."
        )
    pixels, meta = found
    return _decoded(manifest, pixels, meta.names)


def _load(
    domain: Domain, classes: Sequence[str], size: int, cache_dir: Path, on_bad: OnBad, progress: Progress | None
) -> tuple[np.ndarray, DomainManifest, Mapping[int, str]]:
    """Pixels, manifest and bad images, from the cache or decoded now."""

    def accept(bad: Mapping[int, str]) -> None:
        _accept(domain, bad, on_bad)

    with _writing(domain, size, cache_dir):
        fingerprint, digest = _identify(domain.images, cache_dir)
        entry = Entry(cache_dir, digest, size)
        pixels, meta = entry.read(domain.images) or entry.build(domain.images, fingerprint, accept, progress)
        accept(meta.bad)
        manifest = make_manifest(domain, tuple(classes), digest, meta.bad)
        manifest.save(cache_dir)
        return pixels, manifest, meta.bad


def _decoded(manifest: DomainManifest, pixels: np.ndarray, names: tuple[str, ...]) -> DecodedDomain:
    return DecodedDomain(manifest.name, pixels, manifest.labels, names, manifest.digest, manifest.classes)


def _check(domain: Domain, size: int, on_bad: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"data.size={size}: give a whole number of pixels, 1 or more, e.g. data.size=32.")
    if on_bad not in get_args(OnBad):
        raise ConfigError(f"data.on_bad={on_bad!r} is unknown. {nearest(str(on_bad), get_args(OnBad))}")
    if len(domain.images) == 0:
        raise DataError(f"Domain {printable(domain.name)} has no images. Add some, or leave the domain out.")


def _accept(domain: Domain, bad: Mapping[int, str], on_bad: OnBad) -> None:
    """Raise a DataError when there are more bad images than ``on_bad`` allows."""
    n = len(domain.images)
    if bad and (on_bad == "error" or len(bad) == n):
        listed = some(bad.values(), separator="\n  ")
        advice = "Replace them." if len(bad) == n else "Replace them, or leave them out with data.on_bad=skip."
        raise DataError(f"{printable(domain.name)}: {len(bad)} of {n} images cannot be read:\n  {listed}\n{advice}")


def _identify(images: Images, cache_dir: Path, progress: Progress | None = None) -> tuple[str, str]:
    """Fingerprint and digest; the digest is kept in the cache for as long as the fingerprint stays the same.

    The file repeats the fingerprint and has a checksum: one that was damaged or exchanged is not used.
    """
    fingerprint = images.fingerprint()
    path = cache_dir / "digests" / fingerprint
    kept = path.read_text(errors="replace").split() if path.is_file() else []
    if len(kept) == 3 and kept == _kept(fingerprint, kept[1]):
        return fingerprint, kept[1]
    digest = images.digest(progress)
    replace_text(path, " ".join(_kept(fingerprint, digest)))
    return fingerprint, digest


def _kept(fingerprint: str, digest: str) -> list[str]:
    checksum = hashlib.blake2b(f"{fingerprint} {digest}".encode(errors="replace"), digest_size=8).hexdigest()
    return [fingerprint, digest, checksum]


def _step(progress: StepProgress | None, step: str) -> Progress | None:
    return None if progress is None else lambda done, total: progress(step, done, total)


@contextmanager
def _writing(domain: Domain, size: int, cache_dir: Path) -> Iterator[None]:
    """Report a cache that cannot be read or written as a DataError."""
    try:
        yield
    except OSError as error:
        n_bytes = len(domain.images) * 3 * size**2
        raise DataError(
            f"Cannot keep the decoded pixels of {printable(domain.name)} ({n_bytes:,} bytes) in "
            f"{printable(cache_dir)}: {error}. Free some space there, or set another folder with cache_dir=PATH."
        ) from error
