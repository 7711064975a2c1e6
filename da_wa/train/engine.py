"""Lightning's trainer as every computation here uses it: one process, one device, quiet, repeatable."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from da_wa.errors import ConfigError
from da_wa.train.settings import Settings

if sys.platform != "win32":
    import resource


class StateFiles(TorchCheckpointIO):
    """Writes a training state straight into its file; Lightning writes it into the system's temporary folder first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch.save into a file hides the reason of a failure, such as a full disk
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())


def engine(settings: Settings, **options: Any) -> pl.Trainer:
    """A trainer on the device and in the precision of ``settings``.

    Args:
        settings: resolved, see :meth:`~da_wa.train.settings.Settings.resolve`.
        options: more arguments of the trainer.
    """
    _quieten()
    environment = LightningEnvironment()  # one process, also inside an allocation of several tasks (SLURM)
    environment.set_global_rank(0)  # SLURM's number of the task would silence the loggers
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        deterministic=settings.deterministic,
        plugins=[environment, StateFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    # Deterministic mode would fill all fresh memory, a debugging aid that slows every step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


@contextmanager
def interruptible() -> Iterator[None]:
    """Computing with a trainer: Ctrl-C raises KeyboardInterrupt, which Lightning turns into a SystemExit.

    Raises:
        ConfigError: an operation has no deterministic kernel on the device.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise ConfigError(
            "The network has no deterministic gradients on this device; write trainer.deterministic=false, with which "
            f"equal commands give slightly different results. torch says: {str(error).splitlines()[0]}"
        ) from error


def device_name(accelerator: str) -> str:
    """The name of the GPU, or the kind of device."""
    return torch.cuda.get_device_name() if accelerator == "gpu" else accelerator


def peak_memory_mb(accelerator: str) -> float:
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
