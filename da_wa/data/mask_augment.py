"""Joint augmentation of images and masks on their device: scale, crop and flip by one map of coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from da_wa.data.masks import VOID


@dataclass(frozen=True)
class ScaleCropFlip:
    """Scale every image by a random factor, crop a random window, and mirror half of them.

    The window may reach beyond the scaled image: there images are 0, the mean of normalized images, and masks are void.
    All randomness comes from torch's global generator of the device.

    Attributes:
        size: height and width of the window in pixels.
        scale: the smallest and the largest factor; uniform between them.
        flip: mirror left-right with probability one half.

    >>> images, masks = torch.ones(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    >>> images, masks = ScaleCropFlip((4, 6))(images, masks, sizes=torch.tensor([[8, 8], [5, 7]]))
    >>> images.shape, masks.shape
    (torch.Size([2, 3, 4, 6]), torch.Size([2, 4, 6]))
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True

    def __call__(self, images: Tensor, masks: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) float32, (n, h, w) and each image's own (n, 2) height and width -> (n, c, H, W) and (n, H, W).

        Smaller images are at the upper left; what is beside them is not part of the image.
        """
        height, width = sizes.float().unsqueeze(-1).unbind(1)
        draw = torch.rand(4, len(images), 1, device=images.device)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draw[0]
        y = _window(height, self.size[0], scale, draw[1])
        x = _window(width, self.size[1], scale, draw[2])
        if self.flip:
            x = torch.where(draw[3] < 0.5, width - x, x)
        return sample(images, masks, sizes, y, x)


def _window(length: Tensor, size: int, scale: Tensor, where: Tensor) -> Tensor:
    """Coordinates (n, size) of windows' pixels along one axis of images, whose edges are at 0 and ``length`` (n, 1)."""
    free = (scale * length).round() - size
    start = (where * (free.abs() + 1)).floor().clamp(max=free.abs()) * free.sign()
    return (start + torch.arange(size, device=scale.device) + 0.5) / scale


def sample(images: Tensor, masks: Tensor, sizes: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images (bilinear) and masks (nearest) at the same coordinates.

    Args:
        images: (n, c, h, w) float32.
        masks: (n, h, w).
        sizes: (n, 2) height and width of each image, which is at the upper left.
        y: (n, H) rows: the first is 0…1, its centre 0.5.
        x: (n, W) columns likewise.

    Returns:
        (n, c, H, W) and (n, H, W); 0 and void outside of the images.
    """
    height, width = sizes.unsqueeze(-1).unbind(1)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    rows = _on_canvas(y, height, images.shape[2])[:, :, None].expand(-1, -1, x.shape[1])
    columns = _on_canvas(x, width, images.shape[3])[:, None, :].expand(-1, y.shape[1], -1)
    grid = torch.stack([columns, rows], -1)
    pixels = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    row, column = y.floor().long().clamp(min=0).minimum(height - 1), x.floor().long().clamp(min=0).minimum(width - 1)
    labels = masks[torch.arange(len(masks), device=masks.device)[:, None, None], row[:, :, None], column[:, None, :]]
    return torch.where(inside[:, None], pixels, 0), torch.where(inside, labels, VOID)


def _on_canvas(place: Tensor, length: Tensor, canvas: int) -> Tensor:
    """Coordinates for ``grid_sample``; those beyond the last pixel of a smaller image are moved to its centre."""
    own = torch.where(length < canvas, place.minimum(length - 0.5), place)
    return 2 * own / canvas - 1
