"""One training, for pre-training and fine-tuning: model, images and recipe in, outputs and cost out."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers import Logger
from torch import Tensor

from da_wa.data.augment import Normalize, StrongAugment
from da_wa.data.datamodule import DomainDataModule, epoch_seed
from da_wa.data.paired import PairedDataModule
from da_wa.errors import Diverged
from da_wa.models.backbone import Backbone
from da_wa.records.outputs import DomainOutputs, Outputs, from_logits
from da_wa.train.adaptation import Adaptation, Adapter, Calibrator, Stream
from da_wa.train.classifier import Classifier, Objective
from da_wa.train.flops import count_flops, matrix_rate, matrix_type
from da_wa.train.progress import Clock, Notify, SaveState
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import Subsets

if sys.platform != "win32":
    import resource


@dataclass(frozen=True)
class Cost:
    """Time and arithmetic of a training, including time before an interruption.

    Attributes:
        settings: trainer settings with every ``auto`` resolved.
        device: the name of the GPU, or the kind of device.
        train_s: seconds in training steps.
        eval_s: seconds in evaluations.
        total_s: seconds in all.
        images_per_s: training images per second.
        peak_memory_mb: of the GPU, else of the process.
        flops: operations of training and evaluation.
        matrix_rate: operations per second of the device, see ``flops.py``.
    """

    settings: Settings
    device: str
    train_s: float
    eval_s: float
    total_s: float
    images_per_s: float
    peak_memory_mb: float
    flops: int
    matrix_rate: float

    @property
    def compute_bound_s(self) -> float:
        """Lower bound of the seconds for training and evaluation on this device."""
        return self.flops / self.matrix_rate

    @property
    def mfu(self) -> float:
        """Model-FLOPs utilisation: this lower bound over the measured seconds."""
        return self.compute_bound_s / max(self.train_s + self.eval_s, 1e-9)

    def values(self) -> dict[str, float]:
        """Plain values for a record."""
        return {
            "total_s": round(self.total_s, 2),
            "train_s": round(self.train_s, 2),
            "eval_s": round(self.eval_s, 2),
            "images_per_s": round(self.images_per_s, 1),
            "flops": self.flops,
            "matrix_rate": round(self.matrix_rate),
            "compute_bound_s": round(self.compute_bound_s, 4),
            "mfu": round(self.mfu, 5),
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


def train(
    model: Backbone,
    subsets: Subsets,
    objective: Objective,
    recipe: Recipe,
    settings: Settings,
    *,
    adaptation: Adaptation | None = None,
    normalize: Normalize,
    seed: int,
    state: Path,
    notify: Notify = lambda done, epochs: None,
    loggers: Sequence[Logger] = (),
    logged: Mapping[str, Any] | None = None,
) -> Trained:
    """Train ``model``, evaluate it during training, and extract features at the end.

    Args:
        model: with a head for the classes of the training images.
        subsets: images to train on, to evaluate, and to extract features of.
        objective: the training loss.
        recipe: epochs, batch size, optimiser, schedule, augmentation, number of evaluations.
        settings: device, precision, memory layout; they change the rounding only.
        adaptation: the adaptation method; ``subsets`` then has target images.
        normalize: of the images.
        seed: of order, augmentation and dropout.
        state: the file of the training state; a training resumes from it where it exists.
        notify: called after every epoch.
        loggers: Lightning loggers.
        logged: hyperparameters for the loggers.

    Raises:
        Diverged: the training loss is not finite; there is no state to resume from.
        ConfigError: fewer training images than one batch.
        KeyboardInterrupt: Ctrl-C; the saved state is kept to resume from.
    """
    _quieten()
    settings = settings.resolve(model)
    gc.collect()  # an earlier training of this process may be in reference cycles that hold its images
    if settings.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    data = _data(subsets, recipe, settings, adaptation, normalize, seed)
    flops = count_flops(model, data.train.domain.pixels.shape[1:])
    module = _module(model, subsets, objective, recipe, adaptation, seed)
    clock = Clock()
    settings.prepare(model)
    environment = LightningEnvironment()  # one process, also inside an allocation of several tasks (SLURM)
    environment.set_global_rank(0)  # SLURM's number of the task would silence the loggers
    module.fused = bool(settings.fused)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,
        max_epochs=recipe.epochs,
        check_val_every_n_epoch=recipe.evaluate_every,
        num_sanity_val_steps=0,
        logger=list(loggers) or False,
        callbacks=[clock, SaveState(state, settings.save_every_s, notify, recipe.epochs)],
        plugins=[environment],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Deterministic mode would fill all fresh memory, a debugging aid that slows every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for logger in loggers:
        logger.log_hyperparams(dict(logged or {}))
    resumed_from = _epochs_in(state)
    with _interruptible():
        try:
            if adaptation is None or adaptation.method.trains:
                trainer.fit(module, data, ckpt_path=state if resumed_from else None, weights_only=True)
        except Diverged:
            state.unlink(missing_ok=True)
            raise
        if recipe.epochs not in module.logits:
            trainer.validate(module, data, verbose=False)
        features = [torch.cat(batches).float().cpu().numpy() for batches in _per_loader(trainer, module, data)]
    trained = data.images_per_epoch * len(module.curve)
    evaluated = len(module.logits) * sum(map(len, subsets.evaluate))
    cost = Cost(
        settings=settings,
        device=_device_name(settings.accelerator),
        train_s=clock.train_s,
        eval_s=clock.eval_s,
        total_s=clock.total_s,
        images_per_s=trained / clock.train_s if clock.train_s else 0.0,
        peak_memory_mb=_peak_memory_mb(settings.accelerator),
        flops=trained * flops.training + evaluated * flops.prediction,
        matrix_rate=matrix_rate(
            trainer.strategy.root_device.type, matrix_type(settings.precision), torch.get_num_threads()
        ),
    )
    online = (module.online_index, module.online) if isinstance(module, Stream) else None
    return Trained(module.curve, _outputs(module, subsets, features), resumed_from, cost, online)


def _data(
    subsets: Subsets,
    recipe: Recipe,
    settings: Settings,
    adaptation: Adaptation | None,
    normalize: Normalize,
    seed: int,
) -> DomainDataModule:
    common: dict[str, Any] = {
        "evaluate": subsets.evaluate,
        "extract": subsets.extract,
        "seed": seed,
        "batch_size": recipe.batch_size,
        "augment": recipe.augment,
        "normalize": normalize,
        "resident_gb": settings.resident_gb,
    }
    if adaptation is None:
        assert subsets.train is not None, "training on the source needs source images"
        return DomainDataModule(subsets.train, **common)
    assert subsets.target is not None, "adaptation needs target images"
    stream = adaptation.method.phase == "stream"
    strong = StrongAugment(recipe.augment)
    return PairedDataModule(
        subsets.train, subsets.target, strong=strong, stream=stream, order=adaptation.order, **common
    )


def _module(
    model: Backbone,
    subsets: Subsets,
    objective: Objective,
    recipe: Recipe,
    adaptation: Adaptation | None,
    seed: int,
) -> Classifier:
    names = [subset.domain.name for subset in subsets.evaluate]
    classes = len(subsets.evaluate[0].domain.classes)
    common: tuple[Any, ...] = (model, classes, objective, recipe.optimizer, recipe.schedule, names)
    if adaptation is None:
        return Classifier(*common, seed=seed)
    assert subsets.target is not None, "adaptation needs target images"
    method = adaptation.method
    torch.manual_seed(epoch_seed(seed, 0, stream=5))
    method.build(model, classes, len(subsets.target))
    kind = Stream if method.phase == "stream" else Adapter if method.trains else Calibrator
    return kind(*common, adaptation=adaptation, target=subsets.target.domain.name, seed=seed)


def _outputs(module: Classifier, subsets: Subsets, features: Sequence[np.ndarray]) -> Outputs:
    """Logits of every evaluated epoch, and the features of the last, by domain."""
    epochs = sorted(module.logits)
    extracted = {s.domain.name: (s.index, f) for s, f in zip(subsets.extract, features, strict=True)}
    domains: dict[str, DomainOutputs] = {}
    for k, subset in enumerate(subsets.evaluate):
        logits = np.stack([module.logits[epoch][k].numpy() for epoch in epochs])
        feature_index, of_domain = extracted.get(subset.domain.name, (None, None))
        domains[subset.domain.name] = from_logits(subset.index, subset.labels, logits, feature_index, of_domain)
    return Outputs(np.array(epochs, np.int32), domains)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C: Lightning turns it into a SystemExit and ignores later ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


def _per_loader(trainer: pl.Trainer, module: Classifier, data: DomainDataModule) -> list[list[Tensor]]:
    """Predicted batches of every loader; Lightning leaves out the outer list when there is one loader."""
    if not data.extract:
        return []
    batches: Any = trainer.predict(module, data)
    return [batches] if len(data.extract) == 1 else batches


def _epochs_in(path: Path) -> int:
    """Finished epochs of a saved training state; 0 if no state can be read."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return len(state["history"]["curve"]) if "logits" in state["history"] else 0
    except FileNotFoundError:
        return 0
    except Exception as error:  # an unreadable state: start from the first epoch
        warnings.warn(f"{path} cannot be read ({error}); the run starts from its first epoch", stacklevel=2)
        return 0


def _device_name(accelerator: str) -> str:
    if accelerator == "gpu":
        return torch.cuda.get_device_name()
    return accelerator


def _peak_memory_mb(accelerator: str) -> float:
    """Peak memory: the device's during this training on a GPU, resident memory of this process so far elsewhere."""
    if accelerator == "gpu":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _quieten() -> None:
    """Silence Lightning's banners and irrelevant hints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*lr_scheduler.step.*",
        ".*smaller than the logging interval.*",
        ".*Experiment logs directory.*",  # a resumed run writes its log anew
        ".*isinstance.treespec, LeafSpec.*",
        ".*module\\(s\\) in eval mode.*",  # streams set the modes they need
        ".*configure_optimizers. returned .None.*",  # streams step themselves
        ".*srun.*",  # one process by design, also inside a SLURM allocation
    ):
        warnings.filterwarnings("ignore", message)
