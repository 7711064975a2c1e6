"""Class, domain and file names may hold anything that a file system allows."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from da_wa.data.cache import load_decoded, open_decoded, read_manifests
from da_wa.data.decoded import from_index, save_index
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageArray
from da_wa.data.splits import Full, Paper
from da_wa.errors import ConfigError, DataError, UserError, printable

LATIN1 = os.fsdecode(b"caf\xe9")
CLASSES = (LATIN1, "A->B", "two\nlines", "tab\t, 'quotes' {braces}")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the file system takes Unicode names only")


@pytest.fixture
def root(tmp_path: Path, draw_tree: Callable[..., Path]) -> Path:
    return draw_tree(tmp_path / "root", domains=(LATIN1, "x->y"), classes=CLASSES, per_class=2)


@pytest.fixture
def log() -> Callable[[], str]:
    """What a strict UTF-8 file would get of the log, as with ``2> log.txt``."""
    raw = io.BytesIO()
    handler = logging.StreamHandler(io.TextIOWrapper(raw, encoding="utf-8", errors="strict"))
    logging.getLogger("da_wa").addHandler(handler)
    yield lambda: raw.getvalue().decode()
    logging.getLogger("da_wa").removeHandler(handler)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (LATIN1, r"caf\xe9"),
        (os.fsdecode(b"\xff\x80/\xc3\xa9"), r"\xff\x80/é"),
        ("größe A->B, 猫", "größe A->B, 猫"),
        ("a\nb\t\x1b[31m", r"a\nb\t\x1b[31m"),
        ("\ud800", r"\ud800"),
        (Path("a") / LATIN1, r"a/caf\xe9"),
    ],
)
def test_printable_names_can_be_written_as_utf8(name: object, shown: str) -> None:
    assert printable(name) == shown
    assert printable(printable(name)) == shown
    shown.encode()


@pytest.mark.parametrize("kind", [UserError, DataError, ConfigError])
def test_every_error_can_be_written_as_utf8_and_keeps_its_lines(kind: type[UserError]) -> None:
    error = kind(f"{LATIN1}: broken:\n  {LATIN1}/1.png")
    assert str(error) == "caf\\xe9: broken:\n  caf\\xe9/1.png"


def test_decoding_and_opening(root: Path, tmp_path: Path) -> None:
    domains = from_folders(root)
    assert set(domains.classes) == set(CLASSES)
    for manifest, domain in zip(read_manifests(domains, 16, tmp_path / "cache"), domains.domains, strict=True):
        decoded = load_decoded(domain, domains.classes, 16, tmp_path / "cache")
        found = open_decoded(domain.name, manifest.digest, 16, tmp_path / "cache")
        assert (found.name, found.classes, found.names) == (domain.name, domains.classes, decoded.names)
        assert np.array_equal(found.pixels, decoded.pixels)
    save_index(domains, tmp_path / "index.json")
    assert from_index(tmp_path / "index.json").classes == domains.classes


def test_generated_images_with_such_names() -> None:
    images = ImageArray(np.zeros((1, 3, 4, 4), np.uint8), (LATIN1,))
    assert len(images.digest()) == 32


def test_every_message_can_be_written(root: Path, tmp_path: Path, log: Callable[[], str]) -> None:
    (root / LATIN1 / LATIN1 / "000.png").write_bytes(b"")
    (root / LATIN1 / LATIN1 / os.fsdecode(b"\xe9.txt")).write_bytes(b"")
    domains = from_folders(root)
    assert r"caf\xe9/\xe9.txt" in log()
    with pytest.raises(DataError) as error:
        load_decoded(domains[LATIN1], domains.classes, 16, tmp_path / "cache")
    assert r"caf\xe9: 1 of 8 images" in str(error.value) and r"caf\xe9/000.png: zero bytes" in str(error.value)
    load_decoded(domains[LATIN1], domains.classes, 16, tmp_path / "cache", "skip")
    assert r"caf\xe9/000.png: zero bytes" in log()
    with pytest.raises(DataError, match=r"caf\\xe9") as error:
        Full().source(LATIN1, np.arange(4), 0)
    with pytest.raises(ConfigError, match=r"protocol\.sizes\.caf\\xe9"):
        Paper(sizes={LATIN1: 9}).source(LATIN1, np.arange(4), 0)
    shutil.rmtree(root / LATIN1 / LATIN1)
    with pytest.raises(DataError, match=r"caf\\xe9 lacks caf\\xe9"):
        from_folders(root)
