"""The field's augmentation of larger images: crops of stored images, on the device, and a central crop to evaluate.

Images are decoded once, larger than the network's input (256 pixels for 224). All randomness comes from torch's global
generator of the batch's device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.data.augment import Stored, View, random_erase, random_flip
from da_wa.errors import ConfigError

ATTEMPTS = 10
"""Boxes that are drawn for an image until one fits; after that, the whole image. As in torchvision."""


@dataclass(frozen=True)
class Central(View):
    """The central crop of resized images, also in training.

    Attributes:
        size: side of the network's input in pixels.
        crop: ``size`` over the side that images are resized to, 224/256 = 0.875; ``auto``: as the network expects.
        interpolation: of that resizing, ``bilinear`` or ``bicubic``; ``auto``: as the network expects. Images that are
            stored at this side are not resized.

    >>> Central(28)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 3, 28, 28])
    """

    size: int
    crop: float | Literal["auto"] = 0.875
    interpolation: str = "bilinear"
    option: ClassVar[str] = "input"

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, s, s) uint8 -> (n, 3, size, size) uint8."""
        return self.plain(images)

    def plain(self, images: Tensor) -> Tensor:
        """The central crop, (n, 3, s, s) uint8 -> (n, 3, size, size) uint8."""
        images = self._resized(images)
        start = (images.shape[-1] - self.size) // 2
        return images[:, :, start : start + self.size, start : start + self.size]

    def side(self, stored: int) -> int:
        if stored < self.size:
            wanted = math.floor(self.size / (0.875 if self.crop == "auto" else self.crop))
            raise ConfigError(
                f"data.size={stored} is smaller than the crops, finetune.{self.option}.size={self.size}; "
                f"write data.size={wanted}, or choose smaller crops"
            )
        return self.size

    def resolved(self, crop: float, interpolation: str) -> Central:
        return replace(
            self,
            crop=crop if self.crop == "auto" else self.crop,
            interpolation=interpolation if self.interpolation == "auto" else self.interpolation,
        )

    @property
    def _resized_side(self) -> int:
        assert self.crop != "auto", "resolved() comes first"
        return max(self.size, math.floor(self.size / self.crop + 1e-6))

    def _resized(self, images: Tensor) -> Tensor:
        side = self._resized_side
        if images.shape[-1] == side:
            return images
        resized = F.interpolate(images.float(), (side, side), mode=self.interpolation, antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Crops(Central):
    """Random crops to train on, the central crop to evaluate.

    Attributes:
        scale: range of the share of an image's area that a crop shows, e.g. (0.08, 1), see :func:`random_resized_crop`;
            None: crops of ``size`` pixels of the resized image, which are the whole of it where ``crop`` is 1.
        ratio: range of width over height of such a crop.
        flip: mirror half of the images.
        erase: probability of random erasing.

    Raises:
        ConfigError: ``scale`` or ``ratio`` is not a range.

    >>> crops, stored = Crops(28), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    >>> crops(stored).shape, crops.plain(stored).shape
    (torch.Size([2, 3, 28, 28]), torch.Size([2, 3, 28, 28]))
    """

    scale: Sequence[float] | None = None
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    flip: bool = True
    erase: float = 0.0
    option: ClassVar[str] = "augment"

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("ratio", self.ratio)):
            if values is not None and not (len(values) == 2 and 0 < values[0] <= values[1]):
                raise ConfigError(f"augment.{name}={list(values)} must be two positive numbers, the smaller one first")

    @property
    def crops_nothing(self) -> bool:
        return self.scale is None and self._resized_side == self.size

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a uint8 batch, (n, 3, s, s) -> (n, 3, size, size)."""
        if self.scale is not None:
            images = random_resized_crop(images, self.size, self.scale, self.ratio)
        else:
            images = crop_at_random(self._resized(images), self.size)
        if self.flip:
            images = random_flip(images)
        return random_erase(images, self.erase) if self.erase else images


def central(size: int | None = None, **options: Any) -> View:
    """The central crop, see :class:`Central`; without a size, images as they are stored.

    >>> central(), central(28)
    (Stored(), Central(size=28, crop=0.875, interpolation='bilinear'))
    """
    return Stored() if size is None else Central(size, **options)


def crop_at_random(images: Tensor, size: int) -> Tensor:
    """A square of ``size`` pixels at a random place of every image, (n, c, h, w) -> (n, c, size, size).

    >>> crop_at_random(torch.ones(2, 3, 9, 8), 8).shape
    torch.Size([2, 3, 8, 8])
    """
    n, _, height, width = images.shape
    top = torch.randint(0, height - size + 1, (n, 1), device=images.device)
    left = torch.randint(0, width - size + 1, (n, 1), device=images.device)
    across = torch.arange(size, device=images.device)
    picked = torch.arange(n, device=images.device)[:, None, None]
    rows, cols = (top + across)[:, :, None], (left + across)[:, None, :]
    return images[picked, :, rows, cols].permute(0, 3, 1, 2).contiguous()


def random_resized_crop(images: Tensor, size: int, scale: Sequence[float], ratio: Sequence[float]) -> Tensor:
    """A random part of every image at a new size (Szegedy et al. 2015, arXiv 1409.4842).

    Its share of the area is uniform in ``scale``, the ratio of width to height log-uniform in ``ratio``, its place
    uniform. (n, c, h, w) uint8 -> (n, c, size, size) uint8, bilinear.

    >>> random_resized_crop(torch.ones(2, 3, 8, 8, dtype=torch.uint8), 4, (0.08, 1.0), (0.75, 1.33)).unique().tolist()
    [1]
    """
    n, _, height, width = images.shape
    draw = torch.rand(4, ATTEMPTS, n, device=images.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draw[0])
    aspect = torch.exp(math.log(ratio[0]) + draw[1] * math.log(ratio[1] / ratio[0]))
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.float().argmax(0)  # of equal values the first
    picked = torch.arange(n, device=images.device)
    whole = ~fits.any(0)
    tall = torch.where(whole, height, tall[first, picked])
    wide = torch.where(whole, width, wide[first, picked])
    top = (draw[2][first, picked] * (height - tall + 1)).floor()
    left = (draw[3][first, picked] * (width - wide + 1)).floor()
    return resized_boxes(images, torch.stack([top, left, tall, wide], 1), size)


def resized_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One box of every image at a new size: bilinear, not antialiased, nothing from outside of the box.

    (n, c, h, w) uint8 and boxes (n, 4) of top, left, height, width in pixels -> (n, c, size, size) uint8.

    >>> resized_boxes(torch.ones(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[0, 0, 4, 4]]), 2).shape
    torch.Size([1, 3, 2, 2])
    """
    height, width = images.shape[2:]
    steps = (torch.arange(size, device=images.device) + 0.5) / size

    def places(start: Tensor, length: Tensor, whole: int) -> Tensor:
        inside = (steps * length[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1)  # (n, size), pixel centres
        return (2 * (start[:, None] + inside) + 1) / whole - 1  # grid_sample's units

    top, left, tall, wide = boxes.float().unbind(1)
    rows, cols = places(top, tall, height), places(left, wide, width)
    grid = torch.stack([cols[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], 3)
    found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)
