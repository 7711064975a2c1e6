"""Batches of labelled source and unlabelled target images, as a LightningDataModule."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from da_wa.data.datamodule import DomainDataModule, Subset, epoch_seed, passes, unchanged
from da_wa.data.loader import Batch, number_of_batches
from da_wa.data.splits import check_batch

Order = Literal["shuffled", "sorted"]
TARGET_ORDER = 4
"""The stream of :func:`~da_wa.data.datamodule.epoch_seed` for the order of target images."""


class Unlabelled(NamedTuple):
    """Target images; there is no field for labels.

    Attributes:
        images: (n, 3, h, w); uint8 from the loader, then augmented and normalised, float32.
        raw: the images before augmentation, uint8.
        position: in the target subset, (n,) int64.
    """

    images: Tensor
    raw: Tensor
    position: Tensor


class Paired(NamedTuple):
    """A source batch (None for methods without source images) and a target batch."""

    source: Batch | None
    target: Unlabelled


class PairedDataModule(DomainDataModule):
    """Trains on a target subset without labels, and on a source subset if there is one.

    An epoch is one pass over the source's training images, as without adaptation; the target is drawn in random order,
    again and again if it is shorter. Without source images an epoch is one pass over the target; its last batch is
    filled from the next pass, except for a stream, which shows every image once. If the last batch of a stream would be
    one image, it is merged into the one before: norms with batch statistics need two. Orders are functions of seed,
    epoch and domain.

    Args:
        train: the source's training images, or None.
        target: the target's images; their labels are not read.
        evaluate: see :class:`~da_wa.data.datamodule.DomainDataModule`.
        mixed: likewise.
        seed: of the orders.
        batch_size: images of each domain per step.
        augment: uint8 batch -> uint8 batch.
        strong: likewise, stronger, for methods that compare two views.
        plain: likewise, for images that are not augmented.
        epoch_steps: training steps in an epoch with source images; None: one pass over them.
        normalize: uint8 batch -> float32 batch.
        resident_gb: see there.
        stream: show every target image once, not augmented.
        order: of a stream: ``sorted`` as the files are, by class.

    Raises:
        ConfigError: fewer images of a domain than one batch.
    """

    def __init__(
        self,
        train: Subset | None,
        target: Subset,
        evaluate: Sequence[Subset],
        mixed: Sequence[Subset] = (),
        *,
        seed: int,
        batch_size: int,
        augment: Callable[[Tensor], Tensor],
        strong: Callable[[Tensor], Tensor],
        plain: Callable[[Tensor], Tensor] = unchanged,
        normalize: Callable[[Tensor], Tensor],
        epoch_steps: int | None = None,
        resident_gb: float = 8.0,
        stream: bool = False,
        order: Order = "shuffled",
    ) -> None:
        super().__init__(
            target if train is None else train,
            evaluate,
            mixed,
            seed=seed,
            batch_size=batch_size,
            augment=augment,
            plain=plain,
            normalize=normalize,
            epoch_steps=None if train is None else epoch_steps,
            resident_gb=resident_gb,
        )
        check_batch(target.domain.name, len(target), batch_size, "target")
        self.target, self.with_source, self.strong = target, train is not None, strong
        self.stream, self.order = stream, order

    @property
    def steps_per_epoch(self) -> int:
        if self.with_source:
            return super().steps_per_epoch
        return number_of_batches(len(self.target), self.batch_size, drop_last=False, least=self._least)

    @property
    def _least(self) -> int:
        """The smallest last batch of target images."""
        return 2 if self.stream and self.batch_size > 1 else 1

    @property
    def images_per_epoch(self) -> int:
        """Images of both domains."""
        if self.stream:
            return len(self.target)
        return self.steps_per_epoch * self.batch_size * (2 if self.with_source else 1)

    @property
    def images_in_target_order(self) -> int:
        """Positions in :meth:`target_order`."""
        return len(self.target) if self.stream else self.steps_per_epoch * self.batch_size

    def target_order(self) -> Tensor:
        """Positions in the target subset for one epoch, (steps · batch size,) int64; of a stream (n,)."""
        if self.stream and self.order == "sorted":
            return torch.arange(len(self.target))
        return self._random_order(self.images_in_target_order)

    def _random_order(self, images: int) -> Tensor:
        """Positions in the target subset, again and again: a function of seed, epoch and domain."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        stream = TARGET_ORDER + (zlib.crc32(self.target.domain.name.encode(errors="surrogateescape")) << 8)
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, stream))
        return passes(len(self.target), images, generator)

    def train_dataloader(self) -> Any:
        source = super().train_dataloader() if self.with_source else None
        target = self._batches(
            self.target,
            self.target_order,
            self.batch_size,
            self.images_in_target_order,
            drop_last=False,
            least=self._least,
        )
        return PairedBatches(source, target, torch.from_numpy(self.target.index), self.steps_per_epoch)

    def target_in_order(self) -> Iterator[Tensor]:
        """All target images without augmentation, normalised, in the order of the subset, on the device."""
        return self._plain(self._in_order(self.target))

    def target_shuffled(self) -> Iterator[Tensor]:
        """Likewise, in the random order of the seed; no batch is smaller than half of the others."""
        n, size = len(self.target), self.eval_batch_size
        return self._plain(
            self._batches(self.target, lambda: self._random_order(n), size, n, drop_last=False, least=(size + 1) // 2)
        )

    def _plain(self, batches: Iterable[Batch]) -> Iterator[Tensor]:
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        for images, _, _ in batches:
            yield self.normalize(self.plain(images.to(device)))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and normalize on the device, a whole batch at a time."""
        if not isinstance(batch, Paired):
            return super().on_after_batch_transfer(batch, dataloader_idx)
        source = None if batch.source is None else super().on_after_batch_transfer(batch.source, dataloader_idx)
        _, raw, position = batch.target
        images = self.plain(raw) if self.stream else self.augment(raw)
        return Paired(source, Unlabelled(self.normalize(images), raw, position))

    def strong_view(self, raw: Tensor) -> Tensor:
        """A strongly augmented view, (n, 3, h, w) uint8 -> float32, normalised."""
        return self.normalize(self.strong(raw))


class PairedBatches:
    """Zips source batches with target batches, whose labels end here.

    Args:
        source: batches of one epoch, or None.
        target: at least as many batches.
        numbers: (n,) int64 sorted, the numbers of the target subset's images in their domain.
        steps: batches in an epoch.
    """

    def __init__(self, source: Iterable[Batch] | None, target: Iterable[Batch], numbers: Tensor, steps: int) -> None:
        self.source, self.target, self.numbers, self.steps = source, target, numbers, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Paired]:
        sources = iter(self.source) if self.source is not None else None
        for _, (images, _, numbers) in zip(range(self.steps), self.target, strict=False):
            index = torch.searchsorted(self.numbers.to(numbers.device), numbers)
            yield Paired(None if sources is None else next(sources), Unlabelled(images, images, index))
