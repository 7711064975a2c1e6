"""CIFAR from class folders and from the official archive's files."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from da_wa.data.cache import load_decoded
from da_wa.data.cifar import cifar10, cifar100
from da_wa.data.domains import DomainSet
from da_wa.errors import DataError
from da_wa.locks import locked


@pytest.mark.parametrize("inside", [".", "cifar100"])
def test_class_folders(tmp_path: Path, cifar_root: Path, inside: str) -> None:
    shutil.copytree(cifar_root, tmp_path / inside, dirs_exist_ok=True)
    domains = cifar100(tmp_path, download=False, verify=False)
    assert (domains.name, domains.names) == ("CIFAR-100", ("train", "test"))
    assert domains.classes == ("apple", "bear", "clock", "dolphin")
    assert [len(domain.images) for domain in domains.domains] == [48, 16]
    assert cifar10(tmp_path, download=False, verify=False).name == "CIFAR-10"


def test_class_folders_that_differ_are_reported(tmp_path: Path, cifar_root: Path) -> None:
    shutil.copytree(cifar_root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "test" / "bear")
    with pytest.raises(DataError, match="test lacks bear"):
        cifar100(tmp_path, download=False, verify=False)


def write_pickle(path: Path, content: dict[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def batch(n: int, key: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key: [i % 3 for i in range(n)]}


def official(
    root: Path, monkeypatch: pytest.MonkeyPatch, dataset: type[CIFAR10], key: str, meta_key: str
) -> dict[str, Any]:
    """Write the files of a small archive that passes for the original; gives its training images."""
    folder, train = root / dataset.base_folder, batch(9, key, 0)
    monkeypatch.setattr(dataset, "train_list", [["train", write_pickle(folder / "train", train)]])
    monkeypatch.setattr(dataset, "test_list", [["test", write_pickle(folder / "test", batch(6, key, 1))]])
    md5 = write_pickle(folder / "meta", {meta_key: ["cow", "bee", "ant"]})
    monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": meta_key, "md5": md5})
    return train


@pytest.mark.parametrize(
    ("make", "dataset", "key", "meta_key"),
    [(cifar100, CIFAR100, "fine_labels", "fine_label_names"), (cifar10, CIFAR10, "labels", "label_names")],
)
def test_the_official_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., DomainSet],
    dataset: type[CIFAR10],
    key: str,
    meta_key: str,
) -> None:
    train = official(tmp_path, monkeypatch, dataset, key, meta_key)
    domains = make(tmp_path, download=False, verify=False)
    assert domains.classes == ("cow", "bee", "ant")  # the archive's numbering
    assert domains["test"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    pixels = load_decoded(domains["train"], domains.classes, 32, tmp_path / "cache").pixels
    assert np.array_equal(pixels, train["data"].reshape(9, 3, 32, 32))
    (tmp_path / dataset.base_folder / "train").write_bytes(b"torn")
    with pytest.raises(DataError, match="not found or corrupted"):
        make(tmp_path, download=False, verify=False)


def test_nothing_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as reported:
        cifar100(tmp_path / "nowhere", download=False)
    assert str(tmp_path / "nowhere") in str(reported.value)
    assert "train/<class>/" in str(reported.value) and "download=true" in str(reported.value)


def test_a_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    with pytest.raises(DataError, match="CIFAR-100 is not in"):
        cifar100(tmp_path, download=True)


@pytest.mark.parametrize("error", [tarfile.ReadError("unexpected end of data"), zlib.error("invalid block type")])
def test_a_damaged_archive_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(CIFAR100, "download", Mock(side_effect=error))
    with pytest.raises(DataError, match=rf"CIFAR-100 is not in .*\({error}\)"):
        cifar100(tmp_path, download=True)


def test_of_two_commands_one_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official(tmp_path / "server", monkeypatch, CIFAR100, "fine_labels", "fine_label_names")
    root, downloads = tmp_path / "root", []

    both = threading.Barrier(2)

    @contextmanager
    def meeting(path: Path) -> Iterator[bool]:
        """Taken when the other command has found nothing, too."""
        both.wait(60)
        with locked(path) as held:
            yield held

    def download(data: CIFAR100) -> None:
        if not data._check_integrity():
            downloads.append(data)
            shutil.copytree(tmp_path / "server", data.root, dirs_exist_ok=True)

    monkeypatch.setattr(CIFAR100, "download", download)
    monkeypatch.setattr("da_wa.data.cifar.locked", meeting)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: cifar100(root, verify=False), range(2)))
    assert [[len(domain.images) for domain in domains.domains] for domains in found] == [[9, 6], [9, 6]]
    assert len(downloads) == 1
    shutil.rmtree(tmp_path / "server")
    assert len(cifar100(root, verify=False).classes) == 3
