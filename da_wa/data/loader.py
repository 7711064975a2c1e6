"""Batches of a decoded domain: from a tensor in device memory, or from the cache if the domain does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from mmap import mmap
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from da_wa.data.ahead import in_order
from da_wa.errors import DataError, printable

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (n, 3, h, w) uint8, labels (n,) int64, and the images' numbers in their domain (n,) int64."""

Order = Callable[[], Tensor]
"""Gives the positions of one epoch, in order: int64. A position may occur more than once."""

AHEAD = 4
"""Batches that are read before they are needed."""

READERS = 2
"""Threads that read them."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of images in an order that each pass draws anew; subclasses say where the images are.

    Args:
        images: see the subclasses.
        labels: (n,) int64.
        numbers: (n,) int64, the images' numbers in their domain.
        order: called at the start of every pass.
        batch_size: images per batch.
        drop_last: leave out a last, smaller batch.
        length: positions in ``order``.
        least: a last batch of fewer images is merged into the one before.
    """

    images: Any
    labels: Tensor
    numbers: Tensor
    order: Order
    batch_size: int
    drop_last: bool
    length: int
    least: int = 1

    def __len__(self) -> int:
        return number_of_batches(self.length, self.batch_size, self.drop_last, self.least)

    def positions(self) -> Iterator[Tensor]:
        """The positions of every batch of a new pass."""
        order = self.order().to(self.labels.device)
        for batch in _slices(len(order), self.batch_size, self.drop_last, self.least):
            yield order[batch]


class ResidentBatches(Batches):
    """Slices of a tensor in memory, (n, 3, h, w) uint8, on the device that computes, as labels and numbers are.

    Only the batch itself is copied.

    >>> images, labels, numbers = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5), torch.arange(5)
    >>> batches = ResidentBatches(images, labels, numbers, lambda: torch.arange(5).flip(0), 2, True, length=5)
    >>> [labels.tolist() for _, labels, _ in batches]
    [[4, 3], [2, 1]]
    """

    def __iter__(self) -> Iterator[Batch]:
        for picked in self.positions():
            yield self.images[picked], self.labels[picked], self.numbers[picked]


class StreamedBatches(Batches):
    """The same batches as :class:`ResidentBatches`, read from the file of a memory map while the network computes.

    ``images`` is the whole of a memory-mapped array, (N, 3, h, w) uint8; row ``numbers[i]`` belongs to ``labels[i]``.
    The file is read, not mapped: memory holds ``AHEAD`` batches, whatever the size of the domain.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     images = np.lib.format.open_memmap(f"{folder}/pixels.npy", "w+", np.uint8, (5, 3, 8, 8))
    ...     images[:, 0, 0, 0] = np.arange(5)
    ...     numbers = torch.tensor([4, 1, 2])
    ...     batches = StreamedBatches(images, numbers, numbers, lambda: torch.arange(3), 2, False, length=3)
    ...     [images[:, 0, 0, 0].tolist() for images, _, _ in batches]
    [[4, 1], [2]]
    """

    def __iter__(self) -> Iterator[Batch]:
        with closing(in_order(self._read, self.positions(), READERS, AHEAD)) as batches:
            for _, batch in batches:
                yield batch

    def _read(self, positions: Tensor) -> Batch:
        numbers = self.numbers[positions]
        return _read_rows(self.images, numbers), self.labels[positions], numbers


def whole_map(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether an array is the whole of a memory-mapped file, which :class:`StreamedBatches` can read.

    >>> whole_map(np.zeros((5, 3, 8, 8), np.uint8))
    False
    """
    return isinstance(images, np.memmap) and isinstance(images.base, mmap)


def _read_rows(images: np.memmap, numbers: Tensor) -> Tensor:
    """``images[numbers]``, from the file and in its order; threads wait for it without holding up others."""
    rows, places = np.unique(numbers.numpy(), return_inverse=True)
    found = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8)
    with open(str(images.filename), "rb", buffering=0) as file:
        for row, image in zip(rows.tolist(), found.flatten(1).numpy(), strict=True):
            file.seek(images.offset + row * image.nbytes)
            if file.readinto(image) != image.nbytes:
                raise DataError(f"{printable(str(images.filename))} has changed. Rerun the command to decode it again.")
    return found[torch.from_numpy(places)]


def number_of_batches(images: int, batch_size: int, drop_last: bool, least: int = 1) -> int:
    """Batches in a pass.

    Args:
        images: positions in all.
        batch_size: images per batch.
        drop_last: leave out a last, smaller batch.
        least: a last batch of fewer images is merged into the one before, if there is one.

    >>> number_of_batches(5, 2, drop_last=False), number_of_batches(5, 2, drop_last=False, least=2)
    (3, 2)
    """
    full, rest = divmod(images, batch_size)
    merged = full > 0 and rest < least
    return full + (rest > 0 and not drop_last and not merged)


def _slices(images: int, batch_size: int, drop_last: bool, least: int) -> Iterator[slice]:
    """The positions of every batch."""
    count = number_of_batches(images, batch_size, drop_last, least)
    for k in range(count):
        rest = k == count - 1 and not drop_last
        yield slice(k * batch_size, images if rest else (k + 1) * batch_size)
