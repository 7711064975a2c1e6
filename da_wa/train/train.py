"""One training, for pre-training and fine-tuning: model, images and recipe in, outputs and cost out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from da_wa.data.augment import View
from da_wa.data.datamodule import DomainDataModule, epoch_seed
from da_wa.data.paired import PairedDataModule
from da_wa.errors import Diverged
from da_wa.models.backbone import Backbone
from da_wa.records.outputs import DomainOutputs, Outputs, from_logits
from da_wa.train.adaptation import Adaptation, Adapter, Calibrator, Stream
from da_wa.train.classifier import HISTORY, Classifier, cross_entropy
from da_wa.train.engine import device_name, engine, interruptible, peak_memory_mb
from da_wa.train.flops import count_flops, matrix_rate, matrix_type
from da_wa.train.progress import AfterEpoch, Clock, Computed, Notify, SaveState, epochs_in
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import Subsets


@dataclass(frozen=True)
class Cost:
    """Time and arithmetic of a training, including time before an interruption.

    Attributes:
        settings: trainer settings with every ``auto`` resolved.
        device: the name of the GPU, or the kind of device; it and the precision may be several, see
            :class:`~da_wa.train.progress.Computed`.
        train_s: seconds in training steps.
        eval_s: seconds in evaluations.
        total_s: seconds in all.
        images_per_s: training images per second.
        peak_memory_mb: of the GPU, else of the process.
        flops: operations of training and evaluation; None for an adaptation, whose method may look at images more often
            than a step and an evaluation do.
        matrix_rate: operations per second of the device, see ``flops.py``.
    """

    settings: Settings
    device: str
    train_s: float
    eval_s: float
    total_s: float
    images_per_s: float
    peak_memory_mb: float
    flops: int | None
    matrix_rate: float

    @property
    def arithmetic(self) -> dict[str, float]:
        """Operations, the lower bound of the seconds that they take on this device, and MFU; nothing if not known.

        MFU, model-FLOPs utilisation, is this bound over the measured seconds.
        """
        if self.flops is None:
            return {}
        bound = self.flops / self.matrix_rate
        mfu = bound / max(self.train_s + self.eval_s, 1e-9)
        return {"flops": self.flops, "compute_bound_s": round(bound, 4), "mfu": round(mfu, 5)}

    def values(self) -> dict[str, float]:
        """Plain values for a record."""
        return {
            "total_s": round(self.total_s, 2),
            "train_s": round(self.train_s, 2),
            "eval_s": round(self.eval_s, 2),
            "images_per_s": round(self.images_per_s, 1),
            **self.arithmetic,
            "matrix_rate": round(self.matrix_rate),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
        }

    def environment(self) -> dict[str, Any]:
        """Device and settings as plain values for a record."""
        settings = self.settings
        return {
            "device": self.device,
            "precision": settings.precision,
            "channels_last": settings.channels_last,
            "compile": settings.compile,
            "fused": settings.fused,
            "threads": torch.get_num_threads(),
        }


@dataclass(frozen=True)
class Task:
    """What to train, and on what.

    Attributes:
        model: with a head for the classes of the training images; it holds the result.
        subsets: images to train on and to evaluate; with an ``adaptation`` there are target images.
        normalize: of the images.
        settings: device, precision, memory layout; they change the rounding only.
        seed: of everything random: order, augmentation, dropout.
        state: the file of the training state, for recipes that have one; a training resumes from it where it exists.
        facts: what the network is, beside its weights: plain values.
        cache: the folder of features, for recipes that compute them.
        adaptation: the adaptation method.
        precision: in which images that are features were computed; None: images are pixels.
        notify: called after every epoch.
        after_epoch: called with the number of every epoch, before a state is saved that resumes after it.
        loggers: Lightning loggers.
        logged: hyperparameters for the loggers.
    """

    model: Backbone
    subsets: Subsets
    normalize: Callable[[Tensor], Tensor]
    settings: Settings
    seed: int
    state: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    cache: Path | None = None
    adaptation: Adaptation | None = None
    precision: str | None = None
    notify: Notify = lambda done, epochs: None
    after_epoch: Callable[[int], None] = lambda epoch: None
    loggers: Sequence[Logger] = ()
    logged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """The result of a training; the trained weights are in the model.

    Attributes:
        curve: one row an epoch: epoch, loss, accuracy, lr, terms.
        outputs: of every evaluated subset, by the name of its domain.
        resumed_from: epochs that an earlier process had finished.
        cost: time and arithmetic.
        online: of a stream: positions in the target subset (n,) and logits (n, k) from when the images arrived.
    """

    curve: list[dict[str, Any]]
    outputs: Outputs
    resumed_from: int
    cost: Cost
    online: tuple[Tensor, Tensor] | None = None


def train(recipe: Recipe, task: Task) -> Trained:
    """Train a network by gradient descent and evaluate it during training.

    Args:
        recipe: epochs, batch size, optimiser, schedule, augmentation, number of evaluations.
        task: network and images.

    Raises:
        Diverged: the training loss or logits are not finite; there is no state to resume from.
        ConfigError: fewer training images than one batch, or an operation without a deterministic kernel.
        KeyboardInterrupt: Ctrl-C; the saved state is kept to resume from.
    """
    model, subsets, state, adaptation = task.model, task.subsets, task.state, task.adaptation
    settings = task.settings if adaptation is None else replace(task.settings, compile=None)
    settings = settings.resolve(model)
    gc.collect()  # an earlier training of this process may be in reference cycles that hold its images
    if settings.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    view = recipe.view_for(model)
    data = _data(recipe, task, view)
    flops = None
    if adaptation is None:
        channels, _, stored = data.train.domain.pixels.shape[1:]
        flops = count_flops(model, (channels, view.side(stored), view.side(stored)))
    module = _module(recipe, task)
    precision, device = task.precision or settings.precision, device_name(settings.accelerator)
    clock, computed = Clock(), Computed(precision=precision, device=device)
    settings.prepare(model)
    module.fused = bool(settings.fused)
    trainer = engine(
        settings,
        max_epochs=recipe.epochs,
        check_val_every_n_epoch=recipe.evaluate_every,
        num_sanity_val_steps=0,
        logger=list(task.loggers) or False,
        callbacks=[
            clock,
            computed,
            AfterEpoch(task.after_epoch),
            SaveState(state, settings.save_every_s, task.notify, recipe.epochs),
        ],
    )
    for logger in task.loggers:
        logger.log_hyperparams(dict(task.logged))
    resumed_from = epochs_in(state, HISTORY)
    with interruptible():
        try:
            if adaptation is None or adaptation.method.trains:
                trainer.fit(module, data, ckpt_path=state if resumed_from else None, weights_only=True)
            if recipe.epochs not in module.logits:
                trainer.validate(module, data, verbose=False)
        except Diverged as error:
            state.unlink(missing_ok=True)
            error.computed = computed.known
            raise
    trained = data.images_per_epoch * len(module.curve)
    evaluated = len(module.logits) * sum(map(len, (*subsets.evaluate, *(made.images for made in subsets.mixed))))
    cost = Cost(
        settings=replace(settings, precision=computed.known["precision"]),
        device=computed.known["device"],
        train_s=clock.train_s,
        eval_s=clock.eval_s,
        total_s=clock.total_s,
        images_per_s=trained / clock.train_s if clock.train_s else 0.0,
        peak_memory_mb=peak_memory_mb(settings.accelerator),
        flops=None if flops is None else trained * flops.training + evaluated * flops.prediction,
        matrix_rate=matrix_rate(settings.device, matrix_type(settings.precision), torch.get_num_threads()),
    )
    online = (module.online_index, module.online) if isinstance(module, Stream) else None
    outputs = packed(subsets, module.logits, module.features, module.mixed_logits)
    return Trained(module.curve, outputs, resumed_from, cost, online)


def _data(recipe: Recipe, task: Task, view: View) -> DomainDataModule:
    subsets, adaptation = task.subsets, task.adaptation
    common: dict[str, Any] = {
        "evaluate": subsets.evaluate,
        "mixed": [made.images for made in subsets.mixed],
        "seed": task.seed,
        "batch_size": recipe.batch_size,
        "augment": view,
        "plain": view.plain,
        "normalize": task.normalize,
        "epoch_steps": recipe.epoch_steps,
        "resident_gb": task.settings.resident_gb,
    }
    if adaptation is None:
        assert subsets.train is not None, "training on the source needs source images"
        return DomainDataModule(subsets.train, **common)
    assert subsets.target is not None, "adaptation needs target images"
    stream = adaptation.method.phase == "stream"
    return PairedDataModule(
        subsets.train, subsets.target, strong=view.strong, stream=stream, order=adaptation.order, **common
    )


def _module(recipe: Recipe, task: Task) -> Classifier:
    model, subsets, adaptation = task.model, task.subsets, task.adaptation
    names = [subset.domain.name for subset in subsets.evaluate]
    classes = len(subsets.evaluate[0].domain.classes)
    mixed = [made.images.domain.name for made in subsets.mixed]
    sample = [torch.from_numpy(s.index[rows]) for s, rows in zip(subsets.evaluate, subsets.sample, strict=False)]
    objective = cross_entropy(recipe.label_smoothing)
    common: tuple[Any, ...] = (model, classes, objective, recipe.optimizer, recipe.schedule, names, mixed, sample)
    options: dict[str, Any] = {
        "seed": task.seed,
        "backbone_rate": recipe.backbone_rate,
        "frozen_statistics": recipe.frozen_statistics,
    }
    if adaptation is None:
        return Classifier(*common, **options)
    assert subsets.target is not None, "adaptation needs target images"
    method = adaptation.method
    torch.manual_seed(epoch_seed(task.seed, 0, stream=5))
    method.build(model, classes, len(subsets.target))
    kind = Stream if method.phase == "stream" else Adapter if method.trains else Calibrator
    return kind(
        *common,
        adaptation=adaptation,
        target=subsets.target.domain.name,
        **options,
    )


ByEpoch = Mapping[int, Sequence[Tensor]]
"""Evaluated epoch -> one tensor a subset."""


def packed(subsets: Subsets, logits: ByEpoch, features: ByEpoch, mixed_logits: ByEpoch) -> Outputs:
    """What every evaluated epoch gave, by domain.

    Args:
        subsets: the evaluated subsets.
        logits: of each subset, (n, k).
        features: of the sample of each subset, (m, d) float16.
        mixed_logits: of each subset of mixtures, (p, k) float16.
    """
    epochs = sorted(logits)
    mixed = {made.images.domain.name: (made.first, k) for k, made in enumerate(subsets.mixed)}
    domains: dict[str, DomainOutputs] = {}
    for k, subset in enumerate(subsets.evaluate):
        outputs = from_logits(subset.index, subset.labels, _stacked(logits, epochs, k))
        if subsets.sample:
            seen = _stacked(features, epochs, k)
            outputs = replace(outputs, feature_index=outputs.index[subsets.sample[k]], features=seen)
        if subset.domain.name in mixed:
            first, row = mixed[subset.domain.name]
            of_mixtures = _stacked(mixed_logits, epochs, row)
            outputs = replace(outputs, mixed_index=outputs.index[first], mixed_logits=of_mixtures)
        domains[subset.domain.name] = outputs
    return Outputs(np.array(epochs, np.int32), domains)


def _stacked(by_epoch: ByEpoch, epochs: Sequence[int], k: int) -> np.ndarray:
    """(p, …) what the loader number *k* gave after each epoch."""
    return np.stack([by_epoch[epoch][k].numpy() for epoch in epochs])
