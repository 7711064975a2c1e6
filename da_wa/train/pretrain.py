"""Pre-training: the same fit, with CIFAR as the source and a checkpoint as the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import DomainDataModule, Subset
from da_wa.models import checkpoint
from da_wa.models.backbone import Backbone
from da_wa.train.classifier import Classifier
from da_wa.train.environment import environment
from da_wa.train.fitting import Notify, fit
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings


def pretrain(
    model: Backbone,
    train: DecodedDomain,
    test: DecodedDomain,
    *,
    recipe: Recipe,
    normalize: Normalize,
    seed: int,
    settings: Settings,
    path: Path,
    described: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    notify: Notify = lambda done, epochs: None,
) -> None:
    """Train ``model`` on every training image and leave it as a checkpoint.

    Args:
        model: initialised, with a head for the classes of ``train``.
        train: the training images.
        test: the test images, evaluated when the training ends and used for nothing else.
        recipe: how to train.
        normalize: of the images.
        seed: of order and augmentation.
        settings: how to compute.
        path: where the checkpoint goes; the state to resume from lies beside it meanwhile.
        described: the recipe as plain values, for the checkpoint's header.
        dtype: the type that the weights are stored in.
        notify: told of every epoch.

    Raises:
        Diverged: the training loss is not finite; no checkpoint is written.
    """
    resume_from = path.with_suffix(".ckpt")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = DomainDataModule(
        Subset(train, np.arange(len(train.labels))),
        [Subset(test, np.arange(len(test.labels)))],
        seed=seed,
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        normalize=normalize,
        resident_gb=settings.resident_gb,
    )
    module = Classifier(
        model,
        len(train.classes),
        recipe.optimizer,
        recipe.schedule,
        [test.name],
        seed=seed,
        label_smoothing=recipe.label_smoothing,
    )
    fitted = fit(
        module,
        data,
        epochs=recipe.epochs,
        evaluate_every=recipe.evaluate_every,
        settings=settings,
        resume_from=resume_from,
        notify=notify,
    )
    predicted = module.predictions[recipe.epochs][0].numpy()
    result = {
        "correct": int((predicted == test.labels).sum()),
        "n": len(test.labels),
        "epochs": recipe.epochs,
        "curve": module.curve,
        "data": {"train": train.digest, "test": test.digest},
        "timing": fitted.timing(),
        "environment": environment(fitted),
    }
    checkpoint.save(path, model, checkpoint.Header(described, result), dtype)
    resume_from.unlink(missing_ok=True)
