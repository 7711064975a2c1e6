"""Manifests: labels, classes and digest of a domain, without its pixels.

Planning reads manifests only. ``cache_dir/manifests/<digest>.json`` stores the labels and classes of a domain. A worker
opens the domain from the cache (:func:`~da_wa.data.cache.open_decoded`) and does not need the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from da_wa.data.domains import Domain
from da_wa.data.files import replace_text
from da_wa.errors import DataError, printable, some

FOLDER = "manifests"
_FORMAT = 1


@dataclass(frozen=True)
class DomainManifest:
    """The usable images of a domain, without pixels.

    Args:
        name: the domain's name.
        classes: the class names; label *i* means ``classes[i]``.
        labels: (n,) int64.
        images: digest of the image files, bad ones included; it names the entry of the cache.
        names: the images' names; empty when read from a manifest file.

    >>> manifest = DomainManifest("A", ("mug", "pen"), np.array([0, 1, 1]), images="0" * 32)
    >>> len(manifest), manifest.digest
    (3, '7526a6cc5af70cb0179d49f957ebbe54')
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    images: str
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """32 hex digits: a hash of images, classes and labels. Independent of the domain's name and image size."""
        found = hashlib.blake2b(f"{self.images} {self.classes}".encode(errors="surrogateescape"), digest_size=16)
        found.update(np.ascontiguousarray(self.labels, np.int64).data)
        return found.hexdigest()

    def save(self, cache_dir: Path) -> None:
        """Write the manifest into the cache, unless it is there already."""
        try:
            load_manifest(self.name, self.digest, cache_dir)
        except DataError:
            content = {
                "format": _FORMAT,
                "images": self.images,
                "classes": self.classes,
                "labels": self.labels.tolist(),
            }
            replace_text(_path(self.digest, cache_dir), json.dumps(content))


def make_manifest(domain: Domain, classes: tuple[str, ...], images: str, bad: Mapping[int, str]) -> DomainManifest:
    """The manifest of ``domain`` without its ``bad`` images (index: reason).

    Args:
        domain: the images and labels.
        classes: the class names that the labels index.
        images: the digest of ``domain.images``.
        bad: the images that cannot be decoded.

    Raises:
        DataError: a class would lose all its images.
    """
    kept = [i for i in range(len(domain.images)) if i not in bad]
    labels = domain.labels[kept]
    lost = np.setdiff1d(domain.labels, labels)
    if len(lost):
        raise DataError(
            f"{printable(domain.name)}: no readable image is left of {some(classes[label] for label in lost)}. "
            "Replace the broken images, or remove the class from every domain."
        )
    return DomainManifest(domain.name, classes, labels, images, tuple(domain.images.name(i) for i in kept))


def load_manifest(name: str, digest: str, cache_dir: Path) -> DomainManifest:
    """The manifest that planning saved under ``digest``, without image names.

    Args:
        name: the domain's name.
        digest: see :attr:`DomainManifest.digest`.
        cache_dir: the cache.

    Raises:
        DataError: the file is missing, damaged, or belongs to another digest.
    """
    path = _path(digest, cache_dir)
    try:
        content = json.loads(path.read_text())
        classes, labels = tuple(content["classes"]), np.array(content["labels"], np.int64)
        found = DomainManifest(name, classes, labels, str(content["images"]))
        sound = content["format"] == _FORMAT and labels.ndim == 1 and found.digest == digest
    except OSError as error:
        raise DataError(
            f"{printable(path)}: {(error.strerror or str(error)).lower()}. Rerun the command to write it again."
        ) from error
    except (ValueError, TypeError, LookupError, OverflowError):
        sound = False
    if not sound:
        raise DataError(f"{printable(path)} is damaged or belongs to another domain. Rerun the command to repair it.")
    return found


def _path(digest: str, cache_dir: Path) -> Path:
    return cache_dir / FOLDER / f"{digest}.json"
