"""Lightning's loggers for Weights & Biases and MLflow; a run has the name of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

from da_wa.locks import locked


def wandb(save_dir: Path, **options: Any) -> WandbLogger:
    """Weights & Biases, with a separate run for every job of a process.

    Args:
        save_dir: the run's folder.
        options: of ``WandbLogger``, e.g. ``project``.
    """
    return WandbLogger(name=save_dir.name, save_dir=save_dir, reinit="create_new", **options)


def mlflow(save_dir: Path, **options: Any) -> MLFlowLogger:
    """MLflow.

    Args:
        save_dir: the run's folder.
        options: of ``MLFlowLogger``, e.g. ``experiment_name`` and ``tracking_uri``.
    """
    LightningEnvironment().set_global_rank(0)  # a single process, also as a SLURM task
    with locked(save_dir.parent / "mlflow.lock"):  # the first of all runs makes the database and the experiment
        logger = MLFlowLogger(run_name=save_dir.name, **options)
        _ = logger.experiment
    return logger
