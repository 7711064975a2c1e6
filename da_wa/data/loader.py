"""Batches of a decoded domain: from a tensor in device memory, or from a DataLoader if the domain does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (n, 3, h, w) uint8, labels (n,) int64, and the images' numbers in their domain (n,) int64."""

Order = Callable[[], Tensor]
"""Gives the positions of one epoch, in order: int64. A position may occur more than once."""


class ResidentBatches:
    """Slices of a tensor in memory; only the batch itself is copied.

    Args:
        images: (n, 3, h, w) uint8, on the device that computes.
        labels: (n,) int64, there too.
        numbers: (n,) int64, the images' numbers in their domain, there too.
        order: called at the start of every pass.
        batch_size: images per batch.
        drop_last: leave out a last, smaller batch.
        length: positions in ``order``; default: the number of images.

    >>> images, labels, numbers = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5), torch.arange(5)
    >>> batches = ResidentBatches(images, labels, numbers, lambda: torch.arange(5).flip(0), 2, drop_last=True)
    >>> [labels.tolist() for _, labels, _ in batches]
    [[4, 3], [2, 1]]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        numbers: Tensor,
        order: Order,
        batch_size: int,
        drop_last: bool,
        length: int | None = None,
    ) -> None:
        self.length = len(images) if length is None else length
        self.images, self.labels, self.numbers = images, labels, numbers
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last

    def __len__(self) -> int:
        return self._batches(self.length)

    def __iter__(self) -> Iterator[Batch]:
        order = self.order().to(self.images.device)
        for batch in range(self._batches(len(order))):
            picked = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield self.images[picked], self.labels[picked], self.numbers[picked]

    def _batches(self, images: int) -> int:
        full, rest = divmod(images, self.batch_size)
        return full + (rest > 0 and not self.drop_last)


class _Rows(Dataset[Batch]):
    """Whole batches from a memory-mapped array, addressed by lists of positions."""

    def __init__(self, images: np.ndarray, labels: Tensor, numbers: Tensor) -> None:
        self.images, self.labels, self.numbers = images, labels, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, positions: list[int]) -> Batch:
        numbers = self.numbers[positions]
        rows = np.sort(numbers.numpy())  # ascending: the disk is read in one direction
        images = torch.from_numpy(self.images[rows])
        back = torch.searchsorted(torch.from_numpy(rows), numbers)
        return images[back], self.labels[positions], numbers


class _Order(torch.utils.data.Sampler[int]):
    def __init__(self, order: Order, length: int) -> None:
        self.order, self.length = order, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())


def streamed_batches(
    images: np.ndarray,
    labels: Tensor,
    numbers: Tensor,
    order: Order,
    batch_size: int,
    drop_last: bool,
    workers: int,
    length: int | None = None,
) -> DataLoader[Batch]:
    """The same batches as :class:`ResidentBatches`, read from a memory-mapped array by worker processes.

    Args:
        images: (N, 3, h, w) uint8, all images of the domain; row ``numbers[i]`` belongs to ``labels[i]``.
        labels: (n,) int64.
        numbers: (n,) int64.
        order: called at the start of every pass.
        batch_size: images per batch.
        drop_last: leave out a last, smaller batch.
        workers: processes that read ahead.
        length: positions in ``order``; default: the number of images.

    >>> images, labels, numbers = np.zeros((5, 3, 8, 8), np.uint8), torch.arange(5), torch.arange(5)
    >>> loader = streamed_batches(images, labels, numbers, lambda: torch.arange(5), 2, drop_last=False, workers=0)
    >>> [labels.tolist() for _, labels, _ in loader]
    [[0, 1], [2, 3], [4]]
    """
    sampler = BatchSampler(_Order(order, len(numbers) if length is None else length), batch_size, drop_last)
    return DataLoader(_Rows(images, labels, numbers), sampler=sampler, batch_size=None, num_workers=workers)
