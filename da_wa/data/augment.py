"""Augmentation of whole batches on the device: crop, flip, erase, then normalize.

All randomness comes from torch's global generator of the batch's device, so an epoch can be repeated
from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.errors import ConfigError


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Shift every image by up to ``padding`` pixels along each axis, zeros beyond the border.

    (n, c, h, w) -> (n, c, h, w); the usual "pad, then crop at random" of CIFAR training.

    >>> random_crop(torch.ones(2, 3, 8, 8), padding=1).shape
    torch.Size([2, 3, 8, 8])
    """
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)  # (n, h)
    cols = left + torch.arange(width, device=images.device)  # (n, w)
    picked = torch.arange(n, device=images.device)[:, None, None]
    # Indices on both sides of a slice put it last, (n, h, w, c); left so, its layout would spread through the network.
    return padded[picked, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_flip(images: Tensor) -> Tensor:
    """Mirror every image left-right with probability one half, (n, c, h, w) -> (n, c, h, w).

    >>> random_flip(torch.ones(2, 3, 8, 8)).sum().item()
    384.0
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def random_erase(images: Tensor, probability: float) -> Tensor:
    """Random Erasing (Zhong et al. 2020): blank one rectangle of an image, with zeros.

    The rectangle covers a share of the image drawn from [0.02, 0.33]; its aspect ratio is log-uniform in
    [0.3, 3.3] and sides are clipped to the image's. (n, c, h, w) -> (n, c, h, w).

    >>> bool((random_erase(torch.ones(2, 3, 8, 8), probability=1.0) == 0).any())
    True
    """
    n, _, height, width = images.shape
    draw = torch.rand(5, n, 1, 1, 1, device=images.device)
    share = 0.02 + (0.33 - 0.02) * draw[0]
    aspect = torch.exp(math.log(0.3) + draw[1] * math.log(3.3 / 0.3))
    tall = (share * height * width * aspect).sqrt().round().clamp(1, height)
    wide = (share * height * width / aspect).sqrt().round().clamp(1, width)
    top = (draw[2] * (height - tall + 1)).floor()
    left = (draw[3] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)[:, None]
    col = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + tall) & (col >= left) & (col < left + wide)
    return images.masked_fill(inside & (draw[4] < probability), 0)


def color_jitter(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation of every image by factors from [1 - strength, 1 + strength].

    (n, 3, h, w) uint8 -> uint8. Contrast is around the mean gray of an image, saturation around each pixel's gray
    (ITU-R 601), as in torchvision.

    >>> color_jitter(torch.full((1, 3, 2, 2), 9, dtype=torch.uint8), strength=0.0).unique().item()
    9
    """
    brightness, contrast, saturation = (
        1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, device=images.device) - 1)
    ).unbind()
    x = (images.float() * brightness).clamp(0, 255)
    x = torch.lerp(_gray(x).mean((2, 3), keepdim=True), x, contrast).clamp(0, 255)
    x = torch.lerp(_gray(x), x, saturation)
    return x.round().clamp(0, 255).to(torch.uint8)


def _gray(x: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 1, h, w)."""
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


class View:
    """How images are shown to a network: augmented in training, plain in evaluation. Both map uint8 to uint8.

    Attributes:
        option: of a recipe, where the side of the network's input is set if it is not that of the stored images.
    """

    option: ClassVar[str] = "augment"

    @property
    def crops_nothing(self) -> bool:
        """Whether it should crop training images at random, and each crop is the whole image; ``auto`` is resolved."""
        return False

    def __call__(self, images: Tensor) -> Tensor:
        """Training images, (n, 3, s, s) -> (n, 3, side, side)."""
        raise NotImplementedError

    def plain(self, images: Tensor) -> Tensor:
        """Images to evaluate, (n, 3, s, s) -> (n, 3, side, side)."""
        return images

    def side(self, stored: int) -> int:
        """The side of the network's input for images that are stored at ``stored`` pixels."""
        return stored

    def resolved(self, crop: float, interpolation: str) -> View:
        """With the network's values for ``auto``: the share of a side that its crop shows, and its interpolation."""
        return self

    def strong(self, images: Tensor) -> Tensor:
        """A second view of training images, see :class:`StrongAugment`."""
        return StrongAugment(self)(images)


@dataclass(frozen=True)
class Stored(View):
    """Images as they are stored, also in training; they may be features, (n, d, 1, 1) float32.

    >>> Stored()(torch.ones(2, 5, 1, 1)).shape
    torch.Size([2, 5, 1, 1])
    """

    def __call__(self, images: Tensor) -> Tensor:
        return images

    def strong(self, images: Tensor) -> Tensor:
        raise ConfigError(
            "the method compares two views of each image, and this recipe does not augment images; "
            "use finetune=default or finetune=imagenet with it"
        )


@dataclass(frozen=True)
class Changed(View):
    """A view whose training images are made by any callable, uint8 batch -> uint8 batch.

    >>> Changed(random_flip).side(32)
    32
    """

    change: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.change(images)


@dataclass(frozen=True)
class Augment(View):
    """Augmentation of training images; every operation can be switched off.

    Attributes:
        crop: padding of the random crop as a fraction of the image side (CIFAR's 4 pixels of 32 are 1/8).
        flip: mirror half of the images.
        erase: probability of random erasing.
    """

    crop: float = 0.125
    flip: bool = True
    erase: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a uint8 batch, (n, 3, h, w) -> (n, 3, h, w)."""
        padding = round(self.crop * images.shape[-1])
        if padding:
            images = random_crop(images, padding)
        if self.flip:
            images = random_flip(images)
        if self.erase:
            images = random_erase(images, self.erase)
        return images


@dataclass(frozen=True)
class StrongAugment:
    """A weak augmentation, then color jitter and random erasing: the second view of FixMatch.

    Attributes:
        weak: uint8 batch -> uint8 batch.
        jitter: see :func:`color_jitter`.
        erase: probability of random erasing.
    """

    weak: Callable[[Tensor], Tensor]
    jitter: float = 0.5
    erase: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a uint8 batch, (n, 3, h, w) -> (n, 3, h, w)."""
        return random_erase(color_jitter(self.weak(images), self.jitter), self.erase)


@dataclass(frozen=True)
class Normalize:
    """uint8 in 0…255 -> float32 with zero mean and unit standard deviation per channel.

    Attributes:
        mean: per channel, in units of 0…1.
        std: likewise.

    >>> Normalize([0.5] * 3, [0.25] * 3)(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).unique().item()
    2.0
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) uint8 -> (n, 3, h, w) float32."""
        mean, std = _on_device(tuple(self.mean), tuple(self.std), images.device)
        return (images.float() - mean) / std


@cache
def _on_device(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Both in units of 0…255 as (3, 1, 1); copied once, since a copy makes the host wait for the device."""
    with torch.inference_mode(False):
        first, second = (255 * torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    return first, second
