"""One source, many targets, as a LightningDataModule over decoded domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from da_wa.data.cache import DecodedDomain
from da_wa.data.loader import Batch, Order, ResidentBatches, StreamedBatches, whole_map
from da_wa.data.splits import check_batch


def passes(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """The first ``wanted`` positions of passes over ``n`` images, each in another random order, (wanted,) int64.

    >>> passes(2, 5, torch.Generator().manual_seed(0)).shape
    torch.Size([5])
    """
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-wanted // n))])[:wanted]


def unchanged(images: Tensor) -> Tensor:
    """The same images."""
    return images


@dataclass(frozen=True)
class Subset:
    """Some images of a domain: ``index`` (n,) int64 are their numbers in it.

    >>> pixels, labels = np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    >>> domain = DecodedDomain("A", pixels, labels, ("a", "b", "c", "d"), "digest", ("mug", "pen"))
    >>> Subset(domain, np.array([1, 2])).labels.tolist()
    [1, 0]
    """

    domain: DecodedDomain
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        labels: np.ndarray = self.domain.labels[self.index]
        return labels


class DomainDataModule(LightningDataModule):
    """Trains on one subset of a source domain and evaluates on subsets of any domains.

    Batches are ``(images, labels, numbers)``: float32 (n, 3, h, w), augmented when training and
    normalised, both on the device; int64 (n,); and the images' numbers in their domain, int64 (n,).

    Args:
        train: the source's training images.
        evaluate: what is evaluated, in this order: validation and prediction get a loader for each.
        mixed: likewise, with loaders after those of ``evaluate``.
        seed: with the epoch's number it fixes the order of the training images.
        batch_size: images per training step; a last, smaller batch is left out.
        augment: uint8 batch -> uint8 batch, for training images.
        plain: likewise, for all other images; by default unchanged.
        epoch_steps: training steps in an epoch; None: one pass over the training images.
        normalize: uint8 batch -> float32 batch.
        resident_gb: domains up to this size are held in the memory of the device that computes; larger ones are read
            from the cache, batch by batch.

    Attributes:
        eval_batch_size: images per evaluation step: 500 at 32×32 and fewer at larger sizes (same number of pixels), but
            at least 50.

    Raises:
        ConfigError: fewer training images than one batch.
    """

    def __init__(
        self,
        train: Subset,
        evaluate: Sequence[Subset],
        mixed: Sequence[Subset] = (),
        *,
        seed: int,
        batch_size: int,
        augment: Callable[[Tensor], Tensor],
        plain: Callable[[Tensor], Tensor] = unchanged,
        normalize: Callable[[Tensor], Tensor],
        epoch_steps: int | None = None,
        resident_gb: float = 8.0,
    ) -> None:
        super().__init__()
        check_batch(train.domain.name, len(train), batch_size)
        self.train, self.evaluate, self.mixed = train, tuple(evaluate), tuple(mixed)
        height, width = train.domain.pixels.shape[2:]
        self.seed, self.batch_size = seed, batch_size
        self.eval_batch_size = max(50, 500 * 32**2 // (height * width))
        self.augment, self.plain, self.normalize = augment, plain, normalize
        self.epoch_steps, self.resident_bytes = epoch_steps, int(resident_gb * 2**30)

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in an epoch."""
        return self.epoch_steps or len(self.train) // self.batch_size

    @property
    def images_per_epoch(self) -> int:
        """Images that are trained on in an epoch."""
        return self.steps_per_epoch * self.batch_size

    @property
    def images_in_order(self) -> int:
        """Positions in :meth:`epoch_order`."""
        return len(self.train) if self.epoch_steps is None else self.epoch_steps * self.batch_size

    def epoch_order(self) -> Tensor:
        """The training images of the current epoch in random order: a function of seed and epoch alone."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        return passes(len(self.train), self.images_in_order, generator)

    def train_dataloader(self) -> Iterable[Batch]:
        return self._batches(self.train, self.epoch_order, self.batch_size, self.images_in_order, drop_last=True)

    def val_dataloader(self) -> list[Iterable[Batch]]:
        return [self._in_order(subset) for subset in (*self.evaluate, *self.mixed)]

    def predict_dataloader(self) -> list[Iterable[Batch]]:
        return [self._in_order(subset) for subset in self.evaluate]

    def _in_order(self, subset: Subset) -> Iterable[Batch]:
        return self._batches(
            subset, lambda: torch.arange(len(subset)), self.eval_batch_size, len(subset), drop_last=False
        )

    def _batches(
        self, subset: Subset, order: Order, batch_size: int, length: int, *, drop_last: bool, least: int = 1
    ) -> Iterable[Batch]:
        labels, numbers = torch.from_numpy(subset.labels), torch.from_numpy(subset.index)
        pixels = subset.domain.pixels
        if pixels.nbytes > self.resident_bytes and whole_map(pixels):
            return StreamedBatches(pixels, labels, numbers, order, batch_size, drop_last, length, least)
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        images = torch.from_numpy(pixels[subset.index])
        images, labels, numbers = images.to(device), labels.to(device), numbers.to(device)
        return ResidentBatches(images, labels, numbers, order, batch_size, drop_last, length, least)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment and normalize on the device, a whole batch at a time."""
        images, labels, numbers = batch
        training = self.trainer is not None and self.trainer.training
        images = self.augment(images) if training else self.plain(images)
        return self.normalize(images), labels, numbers


def epoch_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """A well-mixed 63-bit seed for one epoch of one run; a different ``stream`` for each use.

    >>> epoch_seed(0, 1) == epoch_seed(0, 1), epoch_seed(0, 1) == epoch_seed(0, 1, stream=2)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0] >> 1)
