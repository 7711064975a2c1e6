"""Semantic segmentation: cross entropy over pixels with a class, confusion matrices of images as metric state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from da_wa.data.augment import Normalize
from da_wa.data.datamodule import epoch_seed
from da_wa.data.mask_augment import ScaleCropFlip
from da_wa.data.masks import VOID, Masked, MaskedImages
from da_wa.errors import ConfigError, Diverged
from da_wa.train.engine import device_name, engine, interruptible, peak_memory_mb
from da_wa.train.progress import Clock, Computed, Notify, SaveState, epochs_in
from da_wa.train.running import RunningMean
from da_wa.train.schedule import poly
from da_wa.train.settings import Settings


class ImageConfusion(Metric):
    """A confusion matrix of pixels for every image; void pixels are not counted.

    >>> metric = ImageConfusion(2)
    >>> metric.update(predicted=torch.tensor([[0, 1, 1]]), truth=torch.tensor([[0, 0, 255]]))
    >>> metric.compute().tolist()
    [[[1, 1], [0, 0]]]
    """

    full_state_update = False
    confusion: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add images: (n, …) predicted and true labels."""
        n, k = len(truth), self.num_classes
        image = torch.arange(n, device=truth.device).view(-1, *[1] * (truth.ndim - 1))
        place = (image * k + truth.long()) * k + predicted.long()
        counted = torch.bincount(place[truth != VOID], minlength=n * k * k)
        self.confusion.append(counted.view(n, k, k))

    def compute(self) -> Tensor:
        """(images, k, k) int64 by true and predicted class, in the order of the updates."""
        return dim_zero_cat(self.confusion)


@dataclass(frozen=True)
class SegmentationRecipe:
    """How a network is trained: SGD with the poly schedule.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, two or more: the image pooling of DeepLabv3 has one value per image to normalize.
        lr: the first learning rate, of all layers.
        momentum: of SGD.
        weight_decay: of all parameters.
        power: of the schedule.
        crop: height and width of training windows in pixels.
        scale: the smallest and the largest random factor.
        flip: mirror half of the images.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    power: float
    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool = True


class Segmenter(LightningModule):
    """Trains a network of pixels and evaluates it once, at the end.

    Args:
        model: images (n, 3, h, w) -> logits (n, classes, h, w).
        num_classes: classes of pixels.
        recipe: how to train.
        normalize: of the images.
        seed: with the epoch's number it fixes augmentation and dropout.
        shown: how many of the first images' predictions are kept.

    Attributes:
        order: draws the order of the training images.
        curve: one row an epoch: epoch (from 1), loss, lr.
        predicted: (shown, h, w) uint8, after the evaluation; void beside smaller images.
        largest: the largest absolute logit of each evaluated batch and size of image.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        recipe: SegmentationRecipe,
        normalize: Normalize,
        seed: int,
        shown: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.normalize, self.seed, self.shown = model, recipe, normalize, seed, shown
        self.augment = ScaleCropFlip(recipe.crop, recipe.scale, recipe.flip)
        self.order = torch.Generator().manual_seed(epoch_seed(seed, 0, stream=3))
        self.confusion = ImageConfusion(num_classes)
        self.loss = RunningMean()
        self.curve: list[dict[str, float]] = []
        self.predicted: list[Tensor] = []
        self.largest: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        """SGD over all parameters, poly schedule per step."""
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            self.model.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        schedule = poly(optimizer, int(self.trainer.estimated_stepping_batches), recipe.power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch, stream=1))

    def training_step(self, batch: Masked, batch_idx: int) -> Tensor:
        images, masks, sizes = batch
        with torch.no_grad():
            images, masks = self.augment(self.normalize(images), masks, sizes)
        loss = pixel_cross_entropy(self.model(images).float(), masks)
        self.loss.update(loss)
        return loss

    def on_train_epoch_end(self) -> None:
        loss, epoch = self.loss.compute(), self.current_epoch + 1
        self.loss.reset()
        if not math.isfinite(loss):
            raise Diverged(f"the loss of epoch {epoch} is {loss}", epoch, self.curve)
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.curve.append({"epoch": epoch, "loss": loss, "lr": rate})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = {"curve": self.curve, "order": self.order.get_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = checkpoint["history"]["curve"]
        self.order.set_state(checkpoint["history"]["order"])

    def test_step(self, batch: Masked, batch_idx: int) -> None:
        images, masks, sizes = batch
        images, labels = self.normalize(images), torch.full_like(masks, VOID)
        for height, width in dict.fromkeys(map(tuple, sizes.tolist())):  # without what is beside a smaller image
            own = (sizes == sizes.new_tensor([height, width])).all(1)
            with torch.compiler.set_stance("force_eager"):  # see Settings.compile
                logits = self.model(images[own, :, :height, :width])
            labels[own, :height, :width] = logits.argmax(1).to(labels.dtype)
            self.largest.append(logits.abs().max())  # NaN where a logit is
        self.confusion.update(labels, masks)
        kept = sum(map(len, self.predicted))
        if kept < self.shown:
            self.predicted.append(labels[: self.shown - kept].cpu())

    def on_test_epoch_end(self) -> None:
        if not torch.stack(self.largest).isfinite().all():
            epoch = len(self.curve)
            raise Diverged(f"logits after epoch {epoch} are not finite", epoch, self.curve)


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """The mean over pixels with a class; 0 where a batch has none.

    Pixels are rows, because torch has no deterministic kernel for maps on GPUs.

    Args:
        logits: (n, classes, h, w) float32.
        masks: (n, h, w).
    """
    rows = logits.movedim(1, -1).flatten(0, 2)
    labels = masks.flatten().long()
    return F.cross_entropy(rows, labels, ignore_index=VOID, reduction="sum") / (labels != VOID).sum().clamp(min=1)


@dataclass(frozen=True)
class Segmented:
    """What a training gave.

    Attributes:
        confusion: (images, k, k) of the evaluated images, in their order.
        predicted: (shown, h, w) uint8 labels of the first ones; void beside smaller images.
        curve: see :class:`Segmenter`.
        cost: seconds of training and evaluation, of processors while training, images trained per second of both.
    """

    confusion: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.uint8]
    curve: Sequence[dict[str, float]]
    cost: dict[str, Any]


def train_segmentation(
    model: nn.Module,
    training: MaskedImages,
    evaluated: MaskedImages,
    num_classes: int,
    recipe: SegmentationRecipe,
    settings: Settings,
    normalize: Normalize,
    seed: int,
    state: Path,
    notify: Notify = lambda done, epochs: None,
    shown: int = 0,
) -> Segmented:
    """Train a network and evaluate it after the last epoch.

    Args:
        model: images (n, 3, h, w) -> logits (n, classes, h, w).
        training: images and masks to train on.
        evaluated: images and masks to evaluate.
        num_classes: classes of pixels.
        recipe: how to train.
        settings: device, precision, memory layout.
        normalize: of the images.
        seed: of order, augmentation and dropout.
        state: the file of the training state; a training resumes from it where it exists.
        notify: called after every epoch.
        shown: how many of the first images' predictions are returned.

    Raises:
        ConfigError: fewer training images than a batch has.
        Diverged: the loss or the logits are not finite; there is no state to resume from.
        KeyboardInterrupt: Ctrl-C; the saved state is kept to resume from.
    """
    if len(training) < recipe.batch_size:
        raise ConfigError(f"recipe.batch_size={recipe.batch_size} is more than the {len(training)} training images")
    settings = settings.resolve(model)
    settings.prepare(model)
    segmenter = Segmenter(model, num_classes, recipe, normalize, seed, shown)
    clock, save = Clock(), SaveState(state, settings.save_every_s, notify, recipe.epochs)
    computed = Computed(precision=settings.precision, device=device_name(settings.accelerator))
    trainer = engine(settings, max_epochs=recipe.epochs, logger=False, callbacks=[clock, computed, save])
    batches: DataLoader[Masked] = DataLoader(
        training, recipe.batch_size, shuffle=True, drop_last=True, generator=segmenter.order, collate_fn=_as_it_is
    )
    tests: DataLoader[Masked] = DataLoader(evaluated, recipe.batch_size, collate_fn=_as_it_is)
    with interruptible():
        try:
            trainer.fit(segmenter, batches, ckpt_path=state if epochs_in(state) else None, weights_only=True)
            trainer.test(segmenter, tests, verbose=False)
        except Diverged as error:
            state.unlink(missing_ok=True)
            error.computed = computed.known
            raise
    images = len(batches) * recipe.batch_size * recipe.epochs
    cost = {
        "train_s": clock.train_s,
        "eval_s": clock.eval_s,
        "train_cpu_s": clock.train_cpu_s,
        "images_per_s": images / max(clock.train_s, 1e-9),
        "images_per_cpu_s": images / max(clock.train_cpu_s, 1e-9),
        **computed.known,
        "peak_memory_mb": peak_memory_mb(settings.accelerator),
    }
    predicted = torch.cat(segmenter.predicted).numpy() if segmenter.predicted else np.zeros((0, 0, 0), np.uint8)
    return Segmented(segmenter.confusion.compute().cpu().numpy(), predicted, segmenter.curve, cost)


def _as_it_is(batch: Any) -> Any:
    """``MaskedImages.__getitems__`` has made the batch."""
    return batch
