"""Augmentations against plain loops over images."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from da_wa.data.augment import Augment, Normalize, color_jitter, random_crop, random_erase, random_flip


def batch(n: int = 64, size: int = 8) -> torch.Tensor:
    """Images that name themselves: every pixel is unique, none is zero."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def test_a_crop_is_one_of_the_shifts_of_its_image():
    images, padding = batch(), 2
    torch.manual_seed(1)
    cropped = random_crop(images, padding)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    assert cropped.is_contiguous()  # a layout of its own would decide that of every activation
    seen = set()
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for image, result in zip(padded, cropped, strict=True):
        shifts = [
            (i, j)
            for i in range(2 * padding + 1)
            for j in range(2 * padding + 1)
            if torch.equal(image[:, i : i + 8, j : j + 8], result)
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 15  # of 25: rows and columns are drawn apart, an image at a time
    assert all({shift[axis] for shift in seen} == set(range(2 * padding + 1)) for axis in (0, 1))


def test_about_half_are_mirrored():
    images = batch(400)
    torch.manual_seed(1)
    flipped = random_flip(images)
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(images, flipped, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, flipped, strict=True)])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations of a fair coin


def test_erasing_blanks_one_rectangle_of_the_right_size():
    images = batch(300, 32)
    torch.manual_seed(1)
    erased = random_erase(images, 0.5)
    boxes = []  # top, left, height, width
    for before, after in zip(images, erased, strict=True):
        blank = (after == 0).all(0)
        if not blank.any():
            assert torch.equal(before, after)
            continue
        rows, cols = blank.any(1), blank.any(0)
        boxes.append([*(int(side.int().argmax()) for side in (rows, cols)), int(rows.sum()), int(cols.sum())])
        assert torch.equal(blank, rows[:, None] & cols[None, :])  # a rectangle
        assert torch.equal(after[:, ~blank], before[:, ~blank])
    assert 100 < len(boxes) < 200
    top, left, tall, wide = torch.tensor(boxes, dtype=torch.float64).unbind(1)
    inner = (tall < 32) & (wide < 32)  # else clipped
    share, ratio = (tall * wide / 32**2)[inner], (tall / wide)[inner]
    assert 0.01 < share.min() < 0.06 and 0.28 < share.max() < 0.36  # sides are rounded
    assert 0.2 < ratio.min() < 0.5 and 2 < ratio.max() < 4.2 and abs(ratio.log().mean()) < 0.3
    for start, free in (top, 32 - tall), (left, 32 - wide):
        assert (start == 0).any() and (start == free)[free > 0].any()
        assert abs((start / free)[free > 0].mean() - 0.5) < 0.1


def test_jitter_is_torchvisions_brightness_contrast_and_saturation():
    images, strength = batch(20), 0.5
    torch.manual_seed(1)
    jittered = color_jitter(images, strength)
    torch.manual_seed(1)
    factors = 1 + strength * (2 * torch.rand(3, len(images)) - 1)
    for image, ours, (brightness, contrast, saturation) in zip(images, jittered, factors.T.tolist(), strict=True):
        theirs = tv.adjust_contrast(tv.adjust_brightness(image.float() / 255, brightness), contrast)
        theirs = 255 * tv.adjust_saturation(theirs, saturation)
        assert (ours.float() - theirs).abs().max() < 0.6  # rounding, and theirs has other digits of the grey


def test_a_strong_view_is_the_weak_one_with_other_colours_and_a_blank():
    images, view = batch(), Augment()
    torch.manual_seed(1)
    strong = view.strong(images)
    torch.manual_seed(1)
    assert torch.equal(strong, random_erase(color_jitter(view(images), 0.5), 1.0))


def test_every_part_can_be_switched_off():
    images = batch()
    assert torch.equal(Augment(crop=0, flip=False, erase=0)(images), images)


def test_the_seed_repeats_it():
    augment = Augment(erase=0.5)
    torch.manual_seed(3)
    first = augment(batch())
    torch.manual_seed(3)
    assert torch.equal(first, augment(batch()))


def test_normalising_gives_zero_mean_and_unit_deviation():
    images = batch(200)
    scaled = images.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    out = Normalize(mean.tolist(), std.tolist())(images)
    assert out.dtype == torch.float32
    expected = (scaled - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5])
def test_odd_sizes(size):
    torch.manual_seed(0)
    assert Augment(crop=0.125, erase=1.0)(batch(4, size)).shape == (4, 3, size, size)
