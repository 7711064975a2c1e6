"""Lightning callbacks of every training: a clock, and saved state to resume from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from da_wa.records.files import remove_drafts, replaced
from da_wa.train.flops import wait

Notify = Callable[[int, int], None]
"""Called with (epochs done, epochs) whenever an epoch ends."""


class Clock(pl.Callback):
    """Seconds in training, in evaluation and in total; saved with the state that a training resumes from."""

    def __init__(self) -> None:
        self.train_s = self.eval_s = self._before_s = 0.0
        self._started = time.perf_counter()
        self._epoch = self._evaluation = 0.0
        self._inside = 0.0

    @property
    def total_s(self) -> float:
        """Seconds since the start, including those before an interruption."""
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
    """Seconds, once the device has finished all queued work."""
    wait(trainer.strategy.root_device.type)
    return time.perf_counter()


class AfterEpoch(Checkpoint):
    """Calls a function with the number of every finished epoch; before :class:`SaveState` in the list of callbacks."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self.call = call

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.call(trainer.current_epoch + 1)


class SaveState(Checkpoint):
    """Saves the whole training state at the end of an epoch, at most every ``every_s`` seconds, atomically.

    Raises:
        DataError: the disk is full, or the file cannot be written.
        LeaseLost: another process has taken over the job.
    """

    def __init__(self, path: Path, every_s: float, notify: Notify, epochs: int) -> None:
        self.path, self.every_s, self.notify, self.epochs = path, every_s, notify, epochs
        self._saved = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        remove_drafts(self.path)  # of a process that was killed while writing

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if time.monotonic() - self._saved >= self.every_s and done < self.epochs:
            with replaced(self.path) as draft:
                trainer.save_checkpoint(draft)
            self._saved = time.monotonic()
        self.notify(done, self.epochs)
