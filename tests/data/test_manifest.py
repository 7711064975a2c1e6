"""Plan from manifests, train from the cache: no pixels are read to plan, no images are needed to train."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from da_wa.data.cache import decode_domains, load_decoded, open_decoded, read_manifest, read_manifests
from da_wa.data.domains import Domain, DomainSet
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageArray, ImageFiles
from da_wa.data.manifest import DomainManifest, load_manifest
from da_wa.errors import DataError

SIZE = 16


@pytest.fixture
def root(tmp_path: Path, draw_tree: Callable[..., Path]) -> Path:
    """Two domains with the same file names and number of images, so that nothing but their content differs."""
    return draw_tree(tmp_path / "root", domains=("a", "b"), per_class=4)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def truth(domains: DomainSet, name: str) -> np.ndarray:
    images = domains[name].images
    return np.stack([images.decode(i, SIZE) for i in range(len(images))])


def entry(cache_dir: Path, manifest: DomainManifest) -> Path:
    return cache_dir / f"{manifest.images}-{SIZE}"


def exchange(first: Path, second: Path) -> None:
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)


# planning


def test_planning_decodes_nothing_and_reads_no_pixels(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = from_folders(root)
    monkeypatch.setattr(ImageFiles, "decode", None)
    planned = read_manifests(domains, SIZE, cache_dir)
    monkeypatch.undo()
    decoded = decode_domains(domains, SIZE, cache_dir)
    monkeypatch.setattr(np.lib.format, "open_memmap", None)
    monkeypatch.setattr(ImageFiles, "digest", None)
    again = read_manifests(domains, SIZE, cache_dir)
    for manifests in (planned, again):
        assert [m.digest for m in manifests] == [d.digest for d in decoded]
        assert [m.names for m in manifests] == [d.names for d in decoded]
        assert [(m.name, m.classes, len(m)) for m in manifests] == [(d.name, d.classes, len(d)) for d in decoded]
        for manifest, domain in zip(manifests, decoded, strict=True):
            assert np.array_equal(manifest.labels, domain.labels)


def test_the_digest_is_that_of_earlier_versions(root: Path, cache_dir: Path) -> None:
    """Ids of finished runs contain it: blake2b of the image digest, the classes' repr and the labels."""
    domains = from_folders(root)
    files = hashlib.blake2b(digest_size=16)
    for path in sorted(p.relative_to(root / "a").as_posix() for p in (root / "a").rglob("*.png")):
        content = hashlib.blake2b((root / "a" / path).read_bytes(), digest_size=16).hexdigest()
        files.update(f"\n{path}\0{content}".encode())
    whole = hashlib.blake2b(f"{files.hexdigest()} ('mug', 'pen', 'ruler')".encode(), digest_size=16)
    whole.update(np.repeat(np.arange(3, dtype="<i8"), 4).tobytes())
    assert read_manifest(domains["a"], domains.classes, SIZE, cache_dir).digest == whole.hexdigest()


def test_bad_images_are_known_only_after_decoding(root: Path, cache_dir: Path) -> None:
    (root / "a" / "mug" / "000.png").write_bytes(b"")
    domain, classes = from_folders(root)["a"], ("mug", "pen", "ruler")
    assert len(read_manifest(domain, classes, SIZE, cache_dir)) == 12  # nothing was decoded yet
    skipping = read_manifest(domain, classes, SIZE, cache_dir, "skip")
    decoded = load_decoded(domain, classes, SIZE, cache_dir, "skip")
    assert len(skipping) == 11
    assert (skipping.digest, skipping.names) == (decoded.digest, decoded.names)
    with pytest.raises(DataError, match="1 of 12 images cannot be read"):  # now it is known
        read_manifest(domain, classes, SIZE, cache_dir)


def test_known_bad_images_need_no_second_decoding(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a" / "mug" / "000.png").write_bytes(b"")
    domains = from_folders(root)
    first = read_manifests(domains, SIZE, cache_dir, "skip")
    monkeypatch.setattr(ImageFiles, "decode", None)
    assert [m.digest for m in read_manifests(domains, SIZE, cache_dir, "skip")] == [m.digest for m in first]


def test_every_phase_shows_progress(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root)
    seen: list[tuple[str, int, int]] = []
    read_manifests(domains, SIZE, cache_dir, progress=lambda *step: seen.append(step))
    decode_domains(domains, SIZE, cache_dir, progress=lambda *step: seen.append(step))
    last = {step: (done, total) for step, done, total in seen}
    assert last == {f"{step} {name}": (12, 12) for step in ("Checking", "Decoding") for name in "ab"}
    assert [step for step, *_ in seen] == sorted((step for step, *_ in seen), key=list(last).index)


# training


def test_images_may_vanish_after_planning(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root)
    expected = {name: truth(domains, name) for name in domains.names}
    manifests = read_manifests(domains, SIZE, cache_dir)
    decode_domains(domains, SIZE, cache_dir)
    shutil.rmtree(root)
    for manifest in manifests:
        found = open_decoded(manifest.name, manifest.digest, SIZE, cache_dir)
        assert np.array_equal(found.pixels, expected[manifest.name])
        assert isinstance(found.pixels, np.memmap) and not found.pixels.flags.writeable
        assert np.array_equal(found.labels, manifest.labels) and found.labels.dtype == np.int64
        assert (found.name, found.names, found.digest) == (manifest.name, manifest.names, manifest.digest)
        assert found.classes == manifest.classes


def test_opening_checks_all_pixels_once(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domains = from_folders(root)
    manifest = read_manifests(domains, SIZE, cache_dir)[0]
    decode_domains(domains, SIZE, cache_dir)
    checked: list[int] = []

    def counting(content: memoryview, *start: int) -> int:
        checked.append(content.nbytes)
        return original(content, *start)

    original = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", counting)
    open_decoded("a", manifest.digest, SIZE, cache_dir)
    assert checked == [12 * 3 * SIZE * SIZE]


def test_a_domain_may_be_renamed_and_share_its_images(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root, {"X": "a", "Y": "a"})
    first, second = decode_domains(domains, SIZE, cache_dir)
    assert first.digest == second.digest
    assert open_decoded("X", first.digest, SIZE, cache_dir).name == "X"
    assert open_decoded("Y", first.digest, SIZE, cache_dir).name == "Y"


def test_skipped_images_stay_left_out(root: Path, cache_dir: Path) -> None:
    (root / "a" / "mug" / "000.png").write_bytes(b"")
    domains = from_folders(root)
    decoded = load_decoded(domains["a"], domains.classes, SIZE, cache_dir, "skip")
    found = open_decoded("a", decoded.digest, SIZE, cache_dir)
    assert found.names == decoded.names and "mug/000.png" not in found.names
    assert np.array_equal(found.pixels, decoded.pixels) and np.array_equal(found.labels, decoded.labels)


# exchanged and foreign files


@pytest.fixture
def prepared(root: Path, cache_dir: Path) -> tuple[DomainSet, tuple[DomainManifest, ...]]:
    domains = from_folders(root)
    decode_domains(domains, SIZE, cache_dir)
    return domains, read_manifests(domains, SIZE, cache_dir)


def exchange_entries(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    exchange(entry(cache_dir, a), entry(cache_dir, b))


def exchange_pixels(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    exchange(entry(cache_dir, a) / "pixels.npy", entry(cache_dir, b) / "pixels.npy")


def exchange_meta(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    exchange(entry(cache_dir, a) / "meta.json", entry(cache_dir, b) / "meta.json")


def exchange_manifests(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    exchange(*(cache_dir / "manifests" / f"{m.digest}.json" for m in (a, b)))


def exchange_digests(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    first, second = (cache_dir / "digests").iterdir()
    exchange(first, second)


def exchange_digests_but_not_fingerprints(cache_dir: Path, a: DomainManifest, b: DomainManifest) -> None:
    """As by hand: each file keeps its own fingerprint and gets the other's digest."""
    for path in (cache_dir / "digests").iterdir():
        text = path.read_text()
        ours, other = (a, b) if a.images in text else (b, a)
        path.write_text(text.replace(ours.images, other.images))


EXCHANGES = [
    exchange_entries,
    exchange_pixels,
    exchange_meta,
    exchange_manifests,
    exchange_digests,
    exchange_digests_but_not_fingerprints,
]


@pytest.mark.parametrize("swap", EXCHANGES)
def test_exchanged_files_never_give_other_pixels(
    prepared: tuple[DomainSet, tuple[DomainManifest, ...]], cache_dir: Path, swap: Callable[..., None]
) -> None:
    domains, manifests = prepared
    assert not np.array_equal(truth(domains, "a"), truth(domains, "b"))
    swap(cache_dir, *manifests)
    assert [m.digest for m in read_manifests(domains, SIZE, cache_dir)] == [m.digest for m in manifests]
    for decoded in decode_domains(domains, SIZE, cache_dir):
        assert np.array_equal(decoded.pixels, truth(domains, decoded.name))
    for manifest in manifests:  # repaired
        found = open_decoded(manifest.name, manifest.digest, SIZE, cache_dir)
        assert np.array_equal(found.pixels, truth(domains, manifest.name))


@pytest.mark.parametrize("swap", [exchange_entries, exchange_pixels, exchange_meta, exchange_manifests])
def test_a_worker_refuses_exchanged_files(
    prepared: tuple[DomainSet, tuple[DomainManifest, ...]], cache_dir: Path, swap: Callable[..., None]
) -> None:
    _, manifests = prepared
    swap(cache_dir, *manifests)
    for manifest in manifests:
        with pytest.raises(DataError, match="Rerun the command"):
            open_decoded(manifest.name, manifest.digest, SIZE, cache_dir)


def rewrite(cache_dir: Path, manifest: DomainManifest, **changes: object) -> None:
    path = cache_dir / "manifests" / f"{manifest.digest}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder, a, b: rewrite(folder, a, labels=a.labels[::-1].tolist()),
        lambda folder, a, b: rewrite(folder, a, labels="abc"),
        lambda folder, a, b: rewrite(folder, a, labels=[10**30]),
        lambda folder, a, b: rewrite(folder, a, classes=["pen", "mug", "ruler"]),
        lambda folder, a, b: rewrite(folder, a, images=b.images),
        lambda folder, a, b: rewrite(folder, a, format=2),
        lambda folder, a, b: (folder / "manifests" / f"{a.digest}.json").write_text("[]"),
        lambda folder, a, b: (folder / "manifests" / f"{a.digest}.json").write_text("{"),
        lambda folder, a, b: (folder / "manifests" / f"{a.digest}.json").unlink(),
        lambda folder, a, b: shutil.rmtree(entry(folder, a)),
        lambda folder, a, b: (entry(folder, a) / "pixels.npy").unlink(),
    ],
)
def test_a_damaged_or_missing_file_is_refused_then_repaired(
    prepared: tuple[DomainSet, tuple[DomainManifest, ...]], cache_dir: Path, damage: Callable[..., object]
) -> None:
    domains, (a, b) = prepared
    damage(cache_dir, a, b)
    with pytest.raises(DataError, match="Rerun the command"):
        open_decoded("a", a.digest, SIZE, cache_dir)
    decode_domains(domains, SIZE, cache_dir)
    assert np.array_equal(open_decoded("a", a.digest, SIZE, cache_dir).pixels, truth(domains, "a"))


def test_an_interrupted_save_leaves_no_draft(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = DomainManifest("a", ("x",), np.zeros(3, np.int64), "0" * 32)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", interrupted)
        manifest.save(cache_dir)
    assert list((cache_dir / "manifests").iterdir()) == []
    manifest.save(cache_dir)
    assert load_manifest("a", manifest.digest, cache_dir).labels.tolist() == [0, 0, 0]


def test_ten_thousand_classes(cache_dir: Path) -> None:
    n = 10_000
    classes = tuple(f"class {i}" for i in range(n))
    images = ImageArray(np.zeros((n, 3, 2, 2), np.uint8), tuple(map(str, range(n))))
    domain = Domain("many", images, np.arange(n))
    decoded = load_decoded(domain, classes, 2, cache_dir)
    assert open_decoded("many", decoded.digest, 2, cache_dir).classes == classes
