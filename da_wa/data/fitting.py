"""Rectangular images in a square: squashed, or cropped in the middle.

``squash`` changes the aspect ratio, as TLL does; ``crop`` keeps it and drops the ends of the longer side, as
torchvision's ``Resize`` and ``CenterCrop`` do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

from da_wa.data.domains import DomainSet
from da_wa.data.images import Images, Progress, Resize, resized

Way = Literal["squash", "crop"]
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def cropped(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """An RGB image as (3, size, size) uint8: the shorter side resized to ``size``, then the centre.

    >>> cropped(Image.new("RGB", (300, 200), (255, 0, 0)), 32).shape
    (3, 32, 32)
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return resized(image, size, resample, box=(left, top, left + side, top + side))


def fitted(domains: DomainSet, way: Way = "squash", interpolation: str = "bilinear") -> DomainSet:
    """The same domains, decoded in another way; another way has other digests, so results are not mixed.

    Args:
        domains: the domains.
        way: ``squash`` or ``crop``.
        interpolation: ``bilinear`` or ``bicubic``.
    """
    if (way, interpolation) == ("squash", "bilinear"):
        return domains
    changed = (replace(domain, images=Fitted(domain.images, way, interpolation)) for domain in domains.domains)
    return replace(domains, domains=tuple(changed))


@dataclass(frozen=True)
class Fitted:
    """Images that are decoded in another way than squashed and bilinear.

    >>> from da_wa.data.images import ImageArray
    >>> wide = ImageArray(np.zeros((1, 3, 8, 16), np.uint8), ("a",))
    >>> Fitted(wide, "crop", "bicubic").decode(0, 4).shape
    (3, 4, 4)
    """

    images: Images
    way: Way
    interpolation: str

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The name of the image."""
        return self.images.name(index)

    def fingerprint(self) -> str:
        """A hash of the images' fingerprint and the way."""
        return self._of(self.images.fingerprint())

    def digest(self, progress: Progress | None = None) -> str:
        """A hash of the images' digest and the way."""
        return self._of(self.images.digest(progress))

    def decode(self, index: int, size: int, resize: Resize | None = None) -> np.ndarray:
        """The image, in this way."""
        how = {"squash": resized, "crop": cropped}[self.way]
        return self.images.decode(index, size, resize or partial(how, resample=INTERPOLATIONS[self.interpolation]))

    def _of(self, whole: str) -> str:
        return hashlib.blake2b(f"{whole} {self.way} {self.interpolation}".encode(), digest_size=16).hexdigest()
