"""One training: the trainer, its clock, and the states that an interrupted run resumes from."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from da_wa.data.datamodule import DomainDataModule
from da_wa.errors import Diverged, UserError
from da_wa.train.classifier import Classifier
from da_wa.train.flops import count_flops, matrix_rate, matrix_type, wait
from da_wa.train.settings import Settings


@dataclass(frozen=True)
class Fitted:
    """What a fit took. Of an earlier, interrupted process all that was not lost is counted.

    ``flops`` are those of training and evaluation, ``matrix_rate`` the device's operations per second (see
    ``floor.py``). ``features`` holds one tensor (n, d) for each part that the data is asked to extract.
    """

    settings: Settings
    device: str
    train_s: float
    eval_s: float
    total_s: float
    images_per_s: float
    peak_memory_mb: float
    resumed_from: int  # epochs that an earlier process had finished
    flops: int
    matrix_rate: float
    features: list[Tensor]

    @property
    def compute_bound_s(self) -> float:
        """The least seconds that training and evaluation could take on this device."""
        return self.flops / self.matrix_rate

    @property
    def mfu(self) -> float:
        """The share of the floor in the seconds that they took."""
        return self.compute_bound_s / max(self.train_s + self.eval_s, 1e-9)

    def timing(self) -> dict[str, float]:
        """Seconds, images per second, operations and what share of them was unavoidable, for a record."""
        return {
            "total_s": round(self.total_s, 2),
            "train_s": round(self.train_s, 2),
            "eval_s": round(self.eval_s, 2),
            "images_per_s": round(self.images_per_s, 1),
            "flops": self.flops,
            "matrix_rate": round(self.matrix_rate),
            "compute_bound_s": round(self.compute_bound_s, 4),
            "mfu": round(self.mfu, 5),
        }


Notify = Callable[[int, int], None]
"""Called with (epochs done, epochs) whenever an epoch ends."""


class _Clock(pl.Callback):
    """Seconds in training, in evaluation and in all; part of the state that a run resumes from."""

    def __init__(self) -> None:
        self.train_s = self.eval_s = self._before_s = 0.0
        self._started = time.perf_counter()
        self._epoch = self._evaluation = 0.0
        self._inside = 0.0

    @property
    def total_s(self) -> float:
        return self._before_s + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, float]:
        return {"train_s": self.train_s, "eval_s": self.eval_s, "total_s": self.total_s}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.train_s, self.eval_s, self._before_s = (state_dict[key] for key in ("train_s", "eval_s", "total_s"))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch, self._inside = _now(trainer), 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train_s += _now(trainer) - self._epoch - self._inside

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation = _now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        spent = _now(trainer) - self._evaluation
        self.eval_s += spent
        self._inside += spent


def _now(trainer: pl.Trainer) -> float:
    """Seconds, when the device has done all that it was told."""
    wait(trainer.strategy.root_device.type)
    return time.perf_counter()


class _Resume(Checkpoint):
    """Saves the whole training state at the end of an epoch, at most every so many seconds, atomically."""

    def __init__(self, path: Path, every_s: float, notify: Notify, epochs: int) -> None:
        self.path, self.every_s, self.notify, self.epochs = path, every_s, notify, epochs
        self._saved = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if time.monotonic() - self._saved >= self.every_s and done < self.epochs:
            draft = self.path.with_suffix(".tmp")
            try:
                trainer.save_checkpoint(draft)
                os.replace(draft, self.path)
            except OSError as error:
                draft.unlink(missing_ok=True)
                raise UserError(
                    f"{self.path} could not be written ({error}); free some space, then start the same command again"
                ) from error
            self._saved = time.monotonic()
        self.notify(done, self.epochs)


def fit(
    module: Classifier,
    data: DomainDataModule,
    *,
    epochs: int,
    evaluate_every: int,
    settings: Settings,
    resume_from: Path,
    notify: Notify = lambda done, epochs: None,
    loggers: Sequence[Logger] = (),
    logged: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train ``module`` on ``data``; it then holds its curve and predictions.

    Args:
        module: the network and how it learns.
        data: what it learns from, and what is evaluated and extracted.
        epochs: passes over the training images.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        settings: how to compute.
        resume_from: where the training state is kept; training goes on from there when it exists.
        notify: told of every epoch.
        loggers: Lightning's.
        logged: what they are told of the run beside its metrics.

    Raises:
        Diverged: the training loss is not finite; nothing is left to resume from.
    """
    _quieten()
    settings = settings.resolve(module.model)
    gc.collect()  # an earlier fit of this process, whose parts refer to one another, may still hold its images
    if settings.accelerator == "gpu":
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock()
    flops = count_flops(module.model, data.train.domain.pixels.shape[1:])
    settings.prepare(module.model)
    module.fused = bool(settings.fused)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,
        max_epochs=epochs,
        check_val_every_n_epoch=evaluate_every,
        num_sanity_val_steps=0,
        logger=list(loggers) or False,
        callbacks=[clock, _Resume(resume_from, settings.save_every_s, notify, epochs)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Deterministic mode would fill all fresh memory, a debugging aid that slows every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for logger in loggers:
        logger.log_hyperparams(dict(logged or {}))
    resumed = _epochs_in(resume_from)
    try:
        trainer.fit(module, data, ckpt_path=resume_from if resumed else None, weights_only=True)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    except Diverged:
        resume_from.unlink(missing_ok=True)
        raise
    if epochs not in module.predictions:
        trainer.validate(module, data, verbose=False)
    features = [torch.cat(batches).float().cpu() for batches in _per_loader(trainer, module, data)]
    trained = epochs * data.steps_per_epoch * data.batch_size
    evaluated = len(module.predictions) * sum(map(len, data.evaluate))
    return Fitted(
        settings=settings,
        device=_device_name(settings.accelerator),
        train_s=clock.train_s,
        eval_s=clock.eval_s,
        total_s=clock.total_s,
        images_per_s=trained / clock.train_s if clock.train_s else 0.0,
        peak_memory_mb=_peak_memory_mb(settings.accelerator),
        resumed_from=resumed,
        flops=trained * flops.training + evaluated * flops.prediction,
        matrix_rate=matrix_rate(
            trainer.strategy.root_device.type, matrix_type(settings.precision), torch.get_num_threads()
        ),
        features=features,
    )


def _per_loader(trainer: pl.Trainer, module: Classifier, data: DomainDataModule) -> list[list[Tensor]]:
    """Predicted batches of every loader; Lightning leaves out the outer list when there is one loader."""
    if not data.extract:
        return []
    batches: Any = trainer.predict(module, data)
    return [batches] if len(data.extract) == 1 else batches


def _epochs_in(path: Path) -> int:
    """Epochs behind a saved training state; 0 when there is none that can be read."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return len(state["history"]["curve"])
    except FileNotFoundError:
        return 0
    except Exception as error:  # whatever is wrong with it, the run starts over and loses only time
        warnings.warn(f"{path} cannot be read ({error}); the run starts from its first epoch", stacklevel=2)
        return 0


def _device_name(accelerator: str) -> str:
    if accelerator == "gpu":
        return torch.cuda.get_device_name()
    return accelerator


def _peak_memory_mb(accelerator: str) -> float:
    """Peak memory: the device's during this fit on a GPU, resident memory of this process so far elsewhere."""
    if accelerator == "gpu":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _quieten() -> None:
    """Silence Lightning's banners and the advice that does not apply here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*lr_scheduler.step.*",
        ".*smaller than the logging interval.*",
        ".*Experiment logs directory.*",  # a resumed run writes its log anew
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
