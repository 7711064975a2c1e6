"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), for pre-training: the official archive or class folders."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from da_wa.data.decoded import SUFFIX, from_index
from da_wa.data.domains import DomainSet, NamedImages, assemble, from_folders
from da_wa.data.images import ImageArray
from da_wa.errors import DataError

_PARTS = {"train": "train", "test": "test"}
_COUNTS = {"train": 50_000, "test": 10_000}


def cifar100(root: str | Path, download: bool = True, verify: bool = True) -> DomainSet:
    """CIFAR-100: domains ``train`` (50,000 images) and ``test`` (10,000) over 100 classes, 32×32.

    Args:
        root: holds ``train/<class>/`` and ``test/<class>/``, directly or one folder down, or the official archive
            (``cifar-100-python``), whose md5 torchvision checks; or an index of decoded images, a ``.json`` file.
        download: fetch the archive (169 MB) into ``root`` when nothing of this is there.
        verify: refuse other numbers of images and classes than those of the original.

    Raises:
        DataError: nothing is there and nothing could be downloaded, or it is not the original.
    """
    from torchvision.datasets import CIFAR100

    found = _cifar("CIFAR-100", CIFAR100, Path(root).expanduser(), download)
    return _verified(found, 100) if verify else found


def cifar10(root: str | Path, download: bool = True, verify: bool = True) -> DomainSet:
    """CIFAR-10: as :func:`cifar100`, with 10 classes; the archive (170 MB) is ``cifar-10-python``."""
    from torchvision.datasets import CIFAR10

    found = _cifar("CIFAR-10", CIFAR10, Path(root).expanduser(), download)
    return _verified(found, 10) if verify else found


def _verified(found: DomainSet, classes: int) -> DomainSet:
    counts = {domain.name: len(domain.labels) for domain in found.domains}
    if counts != _COUNTS or len(found.classes) != classes:
        told = " and ".join(f"{count} images in {part}" for part, count in counts.items())
        raise DataError(
            f"{found.name} is not complete or not the original: {told} of {len(found.classes)} classes, in the "
            f"place of 50000 and 10000 of {classes}. Get it again, or use it as it is with pretrain.verify=false."
        )
    return found


def _cifar(name: str, archive: Any, root: Path, download: bool) -> DomainSet:
    if root.suffix == SUFFIX:
        return from_index(root)
    for place in [root, *sorted(root.glob("*/"))]:
        if all((place / part).is_dir() for part in _PARTS):
            return from_folders(place, _PARTS, name)
    return _from_archive(name, archive, root, download)


def _from_archive(name: str, archive: Any, root: Path, download: bool) -> DomainSet:
    try:
        parts = {part: archive(root, train=part == "train", download=download) for part in _PARTS}
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(
            f"{name} is not in {root} ({_told(error)}). Expected train/<class>/ and test/<class>/ there, or the "
            f"archive {archive.url}, which pretrain.download=true fetches; see data/README.md."
        ) from error
    domains = {part: _named(part, data) for part, data in parts.items()}
    return assemble(name, domains, parts["train"].classes, "equal")


def _told(error: Exception) -> str:
    """What torchvision says, less its advice, which is for those who call it."""
    return str(error).split(" You can use download=True")[0].rstrip(".")


def _named(part: str, data: Any) -> NamedImages:
    pixels = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    names = tuple(f"{part}/{i:05d}" for i in range(len(pixels)))
    return NamedImages(ImageArray(pixels, names), tuple(data.classes[label] for label in data.targets))
