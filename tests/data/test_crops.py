"""Crops on the device agree with torchvision's, and rectangles with its Resize and CenterCrop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from da_wa.data.crops import Crops, crop_at_random, random_resized_crop, resized_boxes
from da_wa.data.digits import digits
from da_wa.data.fitting import cropped, fitted
from da_wa.errors import ConfigError


def images(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_box_at_a_new_size_is_torchvisions_resized_crop():
    batch = images(3, 40)
    boxes = torch.tensor([[0, 0, 40, 40], [3, 7, 20, 31], [30, 30, 10, 5]])
    ours = resized_boxes(batch, boxes, 24)
    for image, box, found in zip(batch, boxes.tolist(), ours, strict=True):
        theirs = v2.functional.resized_crop(image, *box, [24, 24], antialias=False)
        assert (found.int() - theirs.int()).abs().max() <= 1  # rounding


def test_a_share_of_the_area_gives_windows_of_stored_pixels():
    """As docs/backbones.md writes it for any network."""
    across = torch.arange(256).expand(256, 256)
    batch = torch.stack([across, across.T, across]).to(torch.uint8).expand(20, -1, -1, -1)
    torch.manual_seed(0)
    found = Crops(224, crop=1.0, scale=[0.7656, 0.7656], ratio=[1, 1], flip=False)(batch).int()
    first = found[:, :, :1, :1]
    assert torch.equal(found - first, batch[:1, :, :224, :224].int().expand_as(found))
    assert 0 <= first.min() < first.max() <= 32


def drawn(n: int, side: int, scale: tuple[float, float], ratio: tuple[float, float]) -> torch.Tensor:
    """Left, top, width and height of random boxes, (4, n): a map of coordinates shows which were drawn."""
    across = torch.arange(side).expand(side, side)
    batch = torch.stack([across, across.T, across]).to(torch.uint8).expand(n, -1, -1, -1)
    torch.manual_seed(0)
    found = random_resized_crop(batch, 16, scale, ratio)[:, :2].double()
    low, high = found.amin((2, 3)).T, found.amax((2, 3)).T  # at the centres of outer pixels
    sides = (high - low) * 16 / 15
    return torch.cat([low + 0.5 - sides / 32, sides])


def test_random_boxes_have_the_shares_and_ratios_that_were_asked_for():
    n, side = 4000, 64
    left, top, wide, tall = drawn(n, side, (0.25, 0.64), (3 / 4, 4 / 3))
    share, ratio = wide * tall / side**2, wide / tall
    for place in left / (side - wide), top / (side - tall):
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.std() == pytest.approx(1 / np.sqrt(12), rel=0.1)  # uniform
    assert share.min() > 0.22 and share.max() < 0.69
    assert share.mean() == pytest.approx((0.25 + 0.64) / 2, abs=0.015)  # uniform
    assert ratio.log().mean() == pytest.approx(0, abs=0.02)  # log-uniform
    assert ratio.log().std() == pytest.approx(2 * np.log(4 / 3) / np.sqrt(12), rel=0.15)


def test_boxes_that_do_not_fit_are_drawn_again_and_at_last_the_whole_image_is_shown():
    _, _, wide, tall = drawn(500, 64, (0.8, 1.0), (1 / 2, 2.0))  # half of the first boxes are too long
    assert (wide * tall).min() > 0.76 * 64**2
    assert drawn(50, 64, (0.9, 1.0), (4.0, 5.0))[2:].min() >= 62


@pytest.mark.parametrize("interpolation", [v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC])
def test_the_plain_view_is_torchvisions_resize_and_centre_crop(interpolation):
    batch = images(2, 40)
    theirs = v2.Compose([v2.Resize(32, interpolation, antialias=True), v2.CenterCrop(28)])(batch.float())
    ours = Crops(28, interpolation=interpolation.value).plain(batch)
    assert (ours - theirs.clamp(0, 255)).abs().max() <= 0.51  # rounding
    stored = images(2, 32)
    assert torch.equal(Crops(28).plain(stored), v2.CenterCrop(28)(stored))  # nothing is resized


def test_a_random_crop_is_a_part_of_its_image():
    batch = images(50, 12)
    torch.manual_seed(0)
    found = crop_at_random(batch, 8)
    places = [
        next((y, x) for y in range(5) for x in range(5) if torch.equal(image[:, y : y + 8, x : x + 8], crop))
        for image, crop in zip(batch, found, strict=True)
    ]
    assert {y for y, _ in places} == {x for _, x in places} == set(range(5))


def test_half_of_the_crops_are_mirrored():
    batch = images(400, 8)
    torch.manual_seed(0)
    shown = Crops(8, crop=1.0, flip=True)(batch)
    mirrored = [torch.equal(crop, image.flip(2)) for image, crop in zip(batch, shown, strict=True)]
    kept = [torch.equal(crop, image) for image, crop in zip(batch, shown, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250  # of 400 coins, fewer or more once in a million
    assert torch.equal(Crops(8, crop=1.0, flip=False)(batch), batch)


def test_crops_of_a_scale_show_that_share_of_the_area():
    """A quarter of the area of a ramp: half of its height, half of its width."""
    ramp = (3 * torch.arange(64)).to(torch.uint8).expand(20, 3, 64, 64)
    torch.manual_seed(0)
    for picture in (ramp, ramp.transpose(2, 3)):
        shown = Crops(32, scale=(0.25, 0.25), ratio=(1, 1), flip=False)(picture).float()
        assert (shown.amax((1, 2, 3)) - shown.amin((1, 2, 3)) == 3 * 31).all()


def test_random_crops_are_of_resized_images():
    view, batch = Crops(28, flip=False), images(20, 40)
    resized = v2.Resize(32, antialias=True)(batch).int()
    torch.manual_seed(0)
    for image, crop in zip(resized, view(batch).int(), strict=True):
        windows = image.unfold(1, 28, 1).unfold(2, 28, 1).permute(1, 2, 0, 3, 4)
        assert (windows - crop).abs().amax((2, 3, 4)).min() <= 1


def test_images_smaller_than_a_crop_are_refused():
    with pytest.raises(ConfigError, match=r"write data\.size=256"):
        Crops(224).side(128)


def test_a_rectangle_is_squashed_or_cropped_in_the_middle():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    theirs = v2.Compose([v2.Resize(20), v2.CenterCrop(20)])(image)
    assert np.abs(cropped(image, 20).transpose(1, 2, 0).astype(int) - np.asarray(theirs).astype(int)).max() <= 2


def test_another_way_of_resizing_is_another_data_set():
    domains = digits(per_class=1)
    assert fitted(domains) is domains
    ways = [fitted(domains, way, how)["H"].images for way in ("squash", "crop") for how in ("bilinear", "bicubic")]
    assert len({images.digest() for images in ways}) == len({images.fingerprint() for images in ways}) == 4
