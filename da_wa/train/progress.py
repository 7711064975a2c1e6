"""Lightning callbacks of every training: a clock, and saved state to resume from."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from da_wa.records.files import remove_drafts, replaced
from da_wa.train.flops import wait

Notify = Callable[[int, int], None]
"""Called with (epochs done, epochs) whenever an epoch ends."""


class Clock(pl.Callback):
    """Seconds in training, in evaluation and in total; saved with the state that a training resumes from.

    Attributes:
        train_s: seconds in epochs, without evaluations.
        train_cpu_s: seconds of processors in epochs, with evaluations inside them.
        eval_s: seconds in evaluations.
    """

    def __init__(self) -> None:
        self.train_s = self.train_cpu_s = self.eval_s = self._before_s = 0.0
        self._started = time.perf_counter()
        self._epoch = self._evaluation = self._cpu = 0.0
        self._inside = 0.0

    @property
    def total_s(self) -> float:
        """Seconds since the start, including those before an interruption."""
        return self._before_s + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, float]:
        return {key: getattr(self, key) for key in ("train_s", "train_cpu_s", "eval_s", "total_s")}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.train_s, self.eval_s, self._before_s = (state_dict[key] for key in ("train_s", "eval_s", "total_s"))
        self.train_cpu_s = state_dict.get("train_cpu_s", math.nan)  # older states have none

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch, self._cpu, self._inside = _now(trainer), time.process_time(), 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train_s += _now(trainer) - self._epoch - self._inside
        self.train_cpu_s += time.process_time() - self._cpu

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation = _now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        spent = _now(trainer) - self._evaluation
        self.eval_s += spent
        self._inside += spent

    on_test_start, on_test_end = on_validation_start, on_validation_end


class Computed(pl.Callback):
    """What computes a training; saved with its state, because another process may resume it on another machine.

    Attributes:
        known: values by name, such as ``precision``; ``32-true, then bf16-mixed`` after a process with another value.
    """

    def __init__(self, **now: str) -> None:
        self.known = now

    def state_dict(self) -> dict[str, str]:
        return self.known

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        self.known = {name: _then(state_dict.get(name, now), now) for name, now in self.known.items()}


def _then(before: str, now: str) -> str:
    return before if before.split(", then ")[-1] == now else f"{before}, then {now}"


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


def epochs_in(path: Path, history: Collection[str] = ("curve",)) -> int:
    """Finished epochs of a saved training state; 0 if no state can be read.

    Args:
        path: the file.
        history: names of what the module keeps beside its weights; a state without one is of an older version.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return len(state["history"]["curve"]) if set(history) <= state["history"].keys() else 0
    except FileNotFoundError:
        return 0
    except Exception as error:  # an unreadable state: start from the first epoch
        warnings.warn(f"{path} cannot be read ({error}); the run starts from its first epoch", stacklevel=2)
        return 0
