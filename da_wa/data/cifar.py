"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), for pre-training and as data: the official archive or class folders."""

from __future__ import annotations

import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from da_wa.data.decoded import SUFFIX, from_index
from da_wa.data.domains import DomainSet, NamedImages, assemble
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageArray
from da_wa.errors import DataError
from da_wa.locks import locked

_SPLITS = {"train": "train", "test": "test"}
_COUNTS = {"train": 50_000, "test": 10_000}
_FAULTS = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, tarfile.TarError, zlib.error)
"""What torchvision raises where an archive is missing or damaged."""


def cifar100(root: str | Path, download: bool = True, verify: bool = True) -> DomainSet:
    """CIFAR-100: domains ``train`` (50,000 images) and ``test`` (10,000) over 100 classes, 32×32.

    Args:
        root: holds ``train/<class>/`` and ``test/<class>/``, directly or one folder down, or the official archive
            (``cifar-100-python``), whose md5 torchvision checks; or an index of decoded images, a ``.json`` file.
        download: download the archive (169 MB) into ``root`` when none of these is there.
        verify: refuse other numbers of images and classes than those of the original.

    Raises:
        DataError: nothing is there and nothing could be downloaded, or it is not the original.

    >>> cifar100("nowhere", download=False)
    Traceback (most recent call last):
    da_wa.errors.DataError: CIFAR-100 is not in nowhere (Dataset not found or corrupted). ...
    """
    from torchvision.datasets import CIFAR100

    found = _cifar("CIFAR-100", CIFAR100, Path(root).expanduser(), download)
    return _verified(found, 100) if verify else found


def cifar10(root: str | Path, download: bool = True, verify: bool = True) -> DomainSet:
    """CIFAR-10: as :func:`cifar100`, with 10 classes; the archive (170 MB) is ``cifar-10-python``.

    >>> cifar10("nowhere", download=False)
    Traceback (most recent call last):
    da_wa.errors.DataError: CIFAR-10 is not in nowhere (Dataset not found or corrupted). ...
    """
    from torchvision.datasets import CIFAR10

    found = _cifar("CIFAR-10", CIFAR10, Path(root).expanduser(), download)
    return _verified(found, 10) if verify else found


def _verified(found: DomainSet, classes: int) -> DomainSet:
    counts = {domain.name: len(domain.labels) for domain in found.domains}
    if counts != _COUNTS or len(found.classes) != classes:
        listed = " and ".join(f"{count} images in {split}" for split, count in counts.items())
        raise DataError(
            f"{found.name} is not complete or not the original: {listed} of {len(found.classes)} classes, instead of "
            f"50000 and 10000 of {classes}. Download it again, or use it as it is with pretrain.verify=false "
            "(data.verify=false where it is the data)."
        )
    return found


def _cifar(name: str, archive: Any, root: Path, download: bool) -> DomainSet:
    if root.suffix == SUFFIX:
        return from_index(root)
    for place in [root, *sorted(root.glob("*/"))]:
        if all((place / split).is_dir() for split in _SPLITS):
            return from_folders(place, _SPLITS, name)
    return _from_archive(name, archive, root, download)


def _from_archive(name: str, archive: Any, root: Path, download: bool) -> DomainSet:
    try:
        splits = _splits(archive, root, download)
    except _FAULTS as error:
        raise DataError(
            f"{name} is not in {root} ({_reason(error)}). Expected train/<class>/ and test/<class>/ there, or the "
            f"archive {archive.url}, which pretrain.download=true (or data.download=true) downloads; "
            "see data/README.md."
        ) from error
    domains = {split: _named(split, data) for split, data in splits.items()}
    return assemble(name, domains, splits["train"].classes, "equal")


def _splits(archive: Any, root: Path, download: bool) -> dict[str, Any]:
    """The two parts of an archive; one command downloads it, others that want it wait."""

    def read(download: bool) -> dict[str, Any]:
        return {split: archive(root, train=split == "train", download=download) for split in _SPLITS}

    try:
        return read(download=False)
    except _FAULTS:
        if not download:
            raise
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f".{archive.base_folder}.lock"):
        return read(download=True)


def _reason(error: Exception) -> str:
    """The message of torchvision without its advice, which is for its callers."""
    return str(error).split(" You can use download=True")[0].rstrip(".")


def _named(split: str, data: Any) -> NamedImages:
    pixels = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    names = tuple(f"{split}/{i:05d}" for i in range(len(pixels)))
    return NamedImages(ImageArray(pixels, names), tuple(data.classes[label] for label in data.targets))
