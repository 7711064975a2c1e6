"""Decoded once, never wrong: whatever happens to images or cache, the pixels are those of the images."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from da_wa.data.cache import DecodedDomain, load_decoded
from da_wa.data.domains import Domain, DomainSet
from da_wa.data.folders import from_folders
from da_wa.data.images import ImageArray, ImageFiles
from da_wa.errors import ConfigError, DataError, ReadFailed

SIZE = 16


@pytest.fixture
def root(tmp_path: Path, draw_tree: Callable[..., Path]) -> Path:
    return draw_tree(tmp_path / "root", domains=("a", "b"), per_class=4)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(root: Path, cache_dir: Path, **options: object) -> DecodedDomain:
    domains = from_folders(root)
    return load_decoded(domains["a"], domains.classes, SIZE, cache_dir, **options)  # type: ignore[arg-type]


def entries(cache_dir: Path) -> list[Path]:
    return sorted(path for path in cache_dir.glob("*") if path.is_dir() and path.name not in ("digests", "manifests"))


@contextmanager
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the images that are decoded meanwhile."""
    decoded: list[str] = []
    original = ImageFiles.decode

    def watched(self: ImageFiles, index: int, size: int) -> np.ndarray:
        decoded.append(self.paths[index])
        return original(self, index, size)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "decode", watched)
        yield decoded


def truth(domains: DomainSet, name: str) -> np.ndarray:
    images = domains[name].images
    return np.stack([images.decode(i, SIZE) for i in range(len(images))])


def test_pixels_are_those_of_the_images(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root)
    pixels = load(root, cache_dir)
    assert np.array_equal(pixels.pixels, truth(domains, "a"))
    assert isinstance(pixels.pixels, np.memmap)
    assert not pixels.pixels.flags.writeable
    assert (pixels.name, pixels.classes, len(pixels)) == ("a", ("mug", "pen", "ruler"), 12)
    assert pixels.labels.tolist() == domains["a"].labels.tolist()
    assert pixels.names[5] == "pen/001.png"


def test_images_are_decoded_once(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root, cache_dir)
    monkeypatch.setattr(ImageFiles, "decode", None)
    monkeypatch.setattr(ImageFiles, "digest", None)  # remembered as well
    again = load(root, cache_dir)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.digest == again.digest


def test_a_moved_folder_is_not_decoded_again(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root, cache_dir)
    moved = root.rename(root.with_name("moved"))
    with decoding(monkeypatch) as decoded:
        assert load(moved, cache_dir).digest == first.digest
    assert decoded == []


def test_another_size_is_another_entry(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root)
    for size in (8, 24):
        assert load_decoded(domains["a"], domains.classes, size, cache_dir).pixels.shape == (12, 3, size, size)
    assert len(entries(cache_dir)) == 2


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_changed_images_are_decoded_again(root: Path, cache_dir: Path, change: str) -> None:
    before = load(root, cache_dir)
    old, folder = root / "a" / "pen" / "001.png", root / "a" / "pen"
    if change == "content":
        old.write_bytes((root / "a" / "mug" / "000.png").read_bytes())
    elif change == "added":
        shutil.copy(old, folder / "extra.png")
    elif change == "removed":
        old.unlink()
    else:
        old.rename(folder / "zzz.png")
    after = load(root, cache_dir)
    assert after.digest != before.digest
    assert np.array_equal(after.pixels, truth(from_folders(root), "a"))


def test_a_change_that_keeps_length_and_modification_time_is_seen(root: Path, cache_dir: Path) -> None:
    paths = [root / "a" / name / "000.png" for name in ("mug", "pen")]
    for path in paths:
        Image.open(path).save(path, compress_level=0)
    before, stat = load(root, cache_dir), paths[1].stat()
    paths[1].write_bytes(paths[0].read_bytes())
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (paths[1].stat().st_size, paths[1].stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = load(root, cache_dir)
    assert after.digest != before.digest
    assert np.array_equal(after.pixels[4], after.pixels[0])


def test_the_digest_tells_labels_and_classes_apart(cache_dir: Path) -> None:
    images = ImageArray(np.zeros((2, 3, SIZE, SIZE), np.uint8), ("x", "y"))
    digests = {
        load_decoded(Domain("d", images, np.array(labels)), classes, SIZE, cache_dir).digest
        for labels, classes in (([0, 1], "ab"), ([1, 0], "ab"), ([0, 1], "ac"))
    }
    assert len(digests) == 3


# damage


def flip_a_bit(entry: Path) -> None:
    with open(entry / "pixels.npy", "r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 4]))


def cut(name: str, kept: float) -> Callable[[Path], None]:
    return lambda entry: os.truncate(entry / name, int(kept * (entry / name).stat().st_size))


def rewrite_meta(**changes: object) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps(meta | changes))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        cut("pixels.npy", 0.0),
        cut("pixels.npy", 0.5),
        cut("pixels.npy", 0.001),
        cut("meta.json", 0.0),
        cut("meta.json", 0.9),
        rewrite_meta(digest="0" * 32),
        rewrite_meta(decoder=0),
        rewrite_meta(bad={"0": "?"}),
        rewrite_meta(names=["x"] * 12),
        rewrite_meta(bad=None),
        lambda entry: (entry / "meta.json").write_text("[]"),
        lambda entry: (entry / "meta.json").unlink(),
        lambda entry: (entry / "pixels.npy").unlink(),
        lambda entry: np.save(entry / "pixels.npy", np.zeros((12, 3, SIZE, SIZE), np.uint8)),
        lambda entry: np.save(entry / "pixels.npy", np.zeros((12, 3, SIZE, SIZE), np.float32)),
        lambda entry: np.save(entry / "pixels.npy", np.array([None, {}]), allow_pickle=True),
        lambda entry: np.save(entry / "pixels.npy", np.asfortranarray(np.load(entry / "pixels.npy"))),
        lambda entry: np.save(entry / "pixels.npy", np.load(entry / "pixels.npy").reshape(12, SIZE, SIZE, 3)),
    ],
)
def test_a_damaged_cache_is_rebuilt(root: Path, cache_dir: Path, damage: Callable[[Path], None]) -> None:
    load(root, cache_dir)
    (entry,) = entries(cache_dir)
    damage(entry)
    assert np.array_equal(load(root, cache_dir).pixels, truth(from_folders(root), "a"))
    assert entries(cache_dir) == [entry]


def test_a_torn_memo_of_a_digest_is_not_used(root: Path, cache_dir: Path) -> None:
    whole = load(root, cache_dir)
    (memo,) = (cache_dir / "digests").iterdir()
    for torn in (b"", b"abc", b"\xff" * 32, b"/" * 32):
        memo.write_bytes(torn)
        assert load(root, cache_dir).digest == whole.digest


def test_what_a_killed_process_left_is_cleared(root: Path, cache_dir: Path) -> None:
    load(root, cache_dir)
    (entry,) = entries(cache_dir)
    half = entry.rename(entry.with_name(f"{entry.name}.partial"))
    (half / "meta.json").unlink()
    assert np.array_equal(load(root, cache_dir).pixels, truth(from_folders(root), "a"))
    assert entries(cache_dir) == [entry]


def test_images_that_change_meanwhile_are_refused(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ImageFiles.decode

    def meddling(self: ImageFiles, index: int, size: int) -> np.ndarray:
        os.utime(root / "a" / "pen" / "001.png", ns=(1, 1))
        return original(self, index, size)

    monkeypatch.setattr(ImageFiles, "decode", meddling)
    with pytest.raises(DataError, match="changed while they were read"):
        load(root, cache_dir)
    assert entries(cache_dir) == []


# bad images


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / "a" / name).write_bytes(b"")


def test_every_bad_image_is_named(root: Path, cache_dir: Path) -> None:
    spoil(root, "mug/000.png", "ruler/003.png")
    (root / "a" / "pen" / "002.png").write_text("no image")
    with pytest.raises(DataError) as reported:
        load(root, cache_dir)
    lines = str(reported.value).splitlines()
    assert lines[0] == "a: 3 of 12 images cannot be read:"
    assert lines[1].endswith("mug/000.png: zero bytes")
    assert lines[2].endswith("pen/002.png: not a JPEG, PNG, WebP or BMP image")
    assert lines[3].endswith("ruler/003.png: zero bytes")
    assert "data.on_bad=skip" in lines[4]
    assert [entry.suffix for entry in entries(cache_dir)] == [".partial"]  # for the next command


def test_ten_bad_images_are_named_and_the_others_counted(
    tmp_path: Path, cache_dir: Path, draw_tree: Callable[..., Path]
) -> None:
    root = draw_tree(tmp_path, domains=("a",), per_class=5)
    spoil(root, *(f"{c}/{i:03d}.png" for c in ("mug", "pen", "ruler") for i in range(4)))
    with pytest.raises(DataError, match="12 of 15 images") as reported:
        load(root, cache_dir)
    assert str(reported.value).count("zero bytes") == 10
    assert "… and 2 more" in str(reported.value)


def test_skipped_images_are_named_and_labels_stay_right(
    root: Path, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = load(root, cache_dir)
    spoil(root, "mug/000.png", "pen/002.png")
    kept = [i for i, name in enumerate(good.names) if name not in ("mug/000.png", "pen/002.png")]
    for _ in range(2):  # decoded, then cached
        caplog.clear()
        pixels = load(root, cache_dir, on_bad="skip")
        assert np.array_equal(pixels.pixels, good.pixels[kept])
        assert np.array_equal(pixels.labels, good.labels[kept])
        assert pixels.names == tuple(good.names[i] for i in kept)
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "mug/000.png" in record.getMessage() and "pen/002.png" in record.getMessage()
    with pytest.raises(DataError, match="2 of 12 images cannot be read"):
        load(root, cache_dir)


def test_what_was_decoded_stays_when_bad_images_are_refused(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(root, "mug/000.png")
    with pytest.raises(DataError, match="1 of 12 images cannot be read"):
        load(root, cache_dir)
    monkeypatch.setattr(ImageFiles, "decode", lambda *_: pytest.fail("decoded again"))
    assert len(load(root, cache_dir, on_bad="skip")) == 11


def test_what_was_refused_is_decoded_again_with_another_pillow(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("PIL.__version__", "1.0")
        patch.setattr(ImageFiles, "decode", failing_for("002.png", ImageFiles.decode, DataError("unknown format")))
        with pytest.raises(DataError, match="unknown format"):
            load(root, cache_dir)
    assert len(load(root, cache_dir)) == 12


def failing_for(name: str, function: Callable[..., object], error: Exception) -> Callable[..., object]:
    """A function of a path, or of images and an index, that fails for files of this name."""

    def failing(first: object, *args: object, **options: object) -> object:
        path = first.name(*args[:1]) if isinstance(first, ImageFiles) else str(first)
        if Path(path).name == name:
            raise error
        return function(first, *args, **options)

    return failing


@pytest.mark.parametrize("step", ["open", "Image.open"])  # hashing, decoding
@pytest.mark.parametrize(
    ("on_bad", "code"),
    [("error", errno.EIO), ("skip", errno.EIO), ("skip", errno.ENOTCONN), ("skip", errno.EHOSTDOWN)],
)
def test_a_fault_of_disk_or_network_is_not_one_of_the_image(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, on_bad: str, code: int, step: str
) -> None:
    """Also where the file's state cannot be read either, as when a mount goes away."""
    opened: Callable[..., object] = {"open": open, "Image.open": Image.open}[step]
    error = OSError(code, os.strerror(code))
    with monkeypatch.context() as patch:
        patch.setattr(f"da_wa.data.images.{step}", failing_for("002.png", opened, error), raising=False)
        patch.setattr(Path, "stat", failing_for("002.png", Path.stat, error))
        with pytest.raises(ReadFailed, match=rf"mug/002.png: {os.strerror(code).lower()}. Rerun the command"):
            load(root, cache_dir, on_bad=on_bad)
    later = load(root, cache_dir, on_bad=on_bad)
    assert len(later) == 12
    assert later.digest == load(root, cache_dir / "other").digest


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL])
def test_images_with_a_fault_of_their_own_are_left_out(
    root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """EINVAL: of a seek before the beginning of the file, which a broken header can ask for."""
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr("da_wa.data.images.Image.open", failing_for("002.png", Image.open, error))
    assert len(load(root, cache_dir, on_bad="skip")) == 9


def test_a_class_without_a_readable_image_is_reported(root: Path, cache_dir: Path) -> None:
    spoil(root, *(f"pen/{i:03d}.png" for i in range(4)))
    with pytest.raises(DataError, match="no readable image is left of pen"):
        load(root, cache_dir, on_bad="skip")


def test_a_domain_without_a_readable_image_is_reported(root: Path, cache_dir: Path) -> None:
    spoil(root, *(f"{c}/{i:03d}.png" for c in ("mug", "pen", "ruler") for i in range(4)))
    with pytest.raises(DataError, match="12 of 12 images cannot be read"):
        load(root, cache_dir, on_bad="skip")


# the machine


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """As if the disk were full: writing more than this into one file fails."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_nothing_that_looks_finished(cache_dir: Path) -> None:
    images = ImageArray(np.zeros((200, 3, SIZE, SIZE), np.uint8), tuple(str(i) for i in range(200)))
    domain = Domain("d", images, np.zeros(200, np.int64))
    with pytest.raises(DataError) as reported, files_limited_to(40_000):
        load_decoded(domain, ("c",), SIZE, cache_dir)
    assert "153,600 bytes" in str(reported.value)  # 200 · 3 · 16 · 16
    assert str(cache_dir) in str(reported.value)
    assert "cache_dir=PATH" in str(reported.value)
    assert [entry.suffix for entry in entries(cache_dir)] == [".partial"]
    assert len(load_decoded(domain, ("c",), SIZE, cache_dir)) == 200
    assert [entry.suffix for entry in entries(cache_dir)] == [""]


def test_an_unusable_cache_folder_is_reported(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache_dir=PATH"):
        load(root, tmp_path / "file")


def _load_in_process(root: Path, cache_dir: Path) -> str:
    return load(root, cache_dir).digest


def test_processes_that_want_the_same_do_not_disturb_each_other(root: Path, cache_dir: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.starmap(_load_in_process, [(root, cache_dir)] * 4)
    assert len(set(digests)) == 1
    assert len(entries(cache_dir)) == 1
    assert np.array_equal(load(root, cache_dir).pixels, truth(from_folders(root), "a"))


def test_threads_that_want_the_same_decode_once(root: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with decoding(monkeypatch) as decoded, ThreadPoolExecutor(4) as pool:
        digests = {future.digest for future in pool.map(lambda _: load(root, cache_dir), range(4))}
    assert len(digests) == 1
    assert len(decoded) == 12


def test_progress_ends_with_all_images(cache_dir: Path) -> None:
    images = ImageArray(np.zeros((300, 3, 4, 4), np.uint8), tuple(str(i) for i in range(300)))
    reported: list[tuple[int, int]] = []
    domain = Domain("d", images, np.zeros(300, np.int64))
    load_decoded(domain, ("c",), 4, cache_dir, progress=lambda done, total: reported.append((done, total)))
    assert reported == sorted(reported)
    assert reported[-1] == (300, 300)
    assert len(reported) > 2


def test_images_stay_in_order_when_some_decode_slowly(cache_dir: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 3, 2, 2), dtype=np.uint8)
    images = ImageArray(pixels, tuple(str(i) for i in range(5000)))
    loaded = load_decoded(Domain("d", images, np.zeros(5000, np.int64)), ("c",), 2, cache_dir)
    assert np.array_equal(loaded.pixels, pixels)


def test_senseless_arguments_are_reported(root: Path, cache_dir: Path) -> None:
    domains = from_folders(root)
    with pytest.raises(ConfigError, match=r"data\.size=0"):
        load_decoded(domains["a"], domains.classes, 0, cache_dir)
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        load(root, cache_dir, on_bad="skipp")
    with pytest.raises(DataError, match="Domain e has no images"):
        load_decoded(Domain("e", ImageFiles(root, ()), np.empty(0, np.int64)), ("c",), SIZE, cache_dir)


def test_numpy_reads_the_pixel_file(root: Path, cache_dir: Path) -> None:
    spoil(root, "mug/000.png")
    pixels = load(root, cache_dir, on_bad="skip")
    (entry,) = entries(cache_dir)
    assert np.array_equal(np.load(entry / "pixels.npy"), pixels.pixels)
