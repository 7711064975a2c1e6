"""Whatever kind of image lies on disk, its pixels are those it shows; a broken one is named."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from da_wa.data.images import ImageFiles
from da_wa.errors import DataError

RED = (230, 40, 20)


def decode(path: Path, size: int) -> np.ndarray:
    return ImageFiles(path.parent, (path.name,)).decode(0, size)


def smooth(height: int, width: int) -> np.ndarray:
    """A smooth picture (height, width, 3) uint8 with a different course in every channel."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.stack([255 * x, 255 * y, 127 + 90 * np.sin(5 * x + 3 * y)], axis=-1).astype(np.uint8)


def test_an_image_of_its_own_size_is_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for suffix in (".png", ".bmp", ".webp"):
        path = tmp_path / f"image{suffix}"
        Image.fromarray(pixels).save(path, lossless=True)
        assert np.array_equal(decode(path, 32), pixels.transpose(2, 0, 1)), suffix


@pytest.mark.parametrize("shape", [(200, 200), (333, 97), (97, 333), (20, 24)])
def test_resizing_is_bilinear_and_antialiased(tmp_path: Path, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    batch = torch.from_numpy(noise).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(batch, (32, 32), mode="bilinear", antialias=True)[0].numpy()
    # The box reduction before large reductions (reducing_gap) is not exact; nearest-neighbour would be off by 60.
    assert np.abs(decode(tmp_path / "noise.png", 32) - expected).mean() < 2.0


def test_draft_mode_shows_the_same_picture(tmp_path: Path) -> None:
    picture = smooth(1000, 1000)
    Image.fromarray(picture).save(tmp_path / "large.jpg", quality=95)
    batch = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(batch, (32, 32), mode="bilinear", antialias=True)[0].numpy()
    assert np.abs(decode(tmp_path / "large.jpg", 32) - expected).max() < 4.0


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "expected"),
    [
        ("L", ".jpg", 90, (90, 90, 90)),
        ("L", ".png", 90, (90, 90, 90)),
        ("1", ".png", 1, (255, 255, 255)),
        ("LA", ".png", (90, 128), (90, 90, 90)),
        ("RGBA", ".png", (*RED, 128), RED),
        ("RGBA", ".webp", (*RED, 255), RED),
        ("CMYK", ".jpg", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", ".png", 0x8001, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, suffix: str, colour: object, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new(mode, (48, 48), colour).save(path)  # type: ignore[arg-type]
    pixels = decode(path, 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.array(expected)[:, None, None]).max() <= 3


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40), RED)
    image.paste((0, 0, 255), (0, 0, 40, 20))
    image.quantize(4).save(tmp_path / "palette.png", transparency=0)
    assert Image.open(tmp_path / "palette.png").mode == "P"
    pixels = decode(tmp_path / "palette.png", 40)
    assert np.abs(pixels[:, 30, 20].astype(int) - RED).max() <= 2
    assert np.abs(pixels[:, 10, 20].astype(int) - (0, 0, 255)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_respected(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = smooth(64, 48)
    stored = {  # the inverse of what a viewer does, EXIF 2.3, tag 0x0112
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    Image.fromarray(upright).save(tmp_path / "upright.png")
    difference = np.abs(decode(path, 24).astype(int) - decode(tmp_path / "upright.png", 24))
    assert difference.mean() < 3.0


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x0103, 2, 1, 0),  # a number as text
        (0x0111, 1, 4, 0),  # a number as bytes
        (0x8769, 4, 1, 2**32 - 1),  # a block of entries beyond the end
        (0x9999, 77, 1, 0),  # an unknown type
    ],
)
def test_odd_entries_beside_the_orientation_do_no_harm(tmp_path: Path, suffix: str, entry: tuple[int, ...]) -> None:
    """Pixels are readable, whatever else a camera or an editor wrote."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", *entry)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    upright = smooth(64, 48)
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / f"odd{suffix}", exif=exif, quality=95)
    Image.fromarray(upright).save(tmp_path / "upright.png")
    difference = np.abs(decode(tmp_path / f"odd{suffix}", 24).astype(int) - decode(tmp_path / "upright.png", 24))
    assert difference.mean() < 3.0


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}[suffix])
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    content = encoded(suffix)
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=f"cut{suffix}: "):
        decode(path, 32)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "zero bytes"),
        (b"this is text", "not a JPEG, PNG, WebP or BMP image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        (None, "no such file"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None, reported: str) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.jpg: {reported}"):
        decode(path, 32)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(encoded(".png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png: .*decompression bomb"):
        decode(tmp_path / "bomb.png", 32)
