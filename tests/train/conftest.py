"""A small training: three domains of 40 images at 8×8, a residual network of two blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.splits import Full
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import transfer
from da_wa.train.train import Task, Trained, train

BN_WA = Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d)
SETTINGS = Settings(accelerator="cpu", precision="32-true", channels_last=False, save_every_s=0.0)


@pytest.fixture(autouse=True, scope="module")
def everywhere(one_thread: None) -> None:
    """Every module of this folder has one thread."""


@pytest.fixture(scope="session")
def domains() -> list[DecodedDomain]:
    """Three classes shown by which colour channel is bright; the domains differ in contrast."""
    made = []
    for k, (name, contrast) in enumerate([("A", 200), ("W", 150), ("D", 100)]):
        draw = np.random.default_rng(k)
        labels = np.arange(40) % 3
        pixels = draw.integers(0, 50, (40, 3, 8, 8), np.uint8)
        pixels[np.arange(40), labels] += np.uint8(contrast)
        made.append(DecodedDomain(name, pixels, labels, tuple(map(str, range(40))), name, ("r", "g", "b")))
    return made


def _recipe(lr: float = 0.05, epochs: int = 4, **kwargs: Any) -> Recipe:
    return Recipe(
        epochs,
        batch_size=8,
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9),
        schedule=schedule.cosine,
        augment=Augment(),
        **{"evaluations": 2, **kwargs},
    )


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    return _recipe


@pytest.fixture
def training(domains: Sequence[DecodedDomain]) -> Callable[..., Trained]:
    """Trains on A with the state in a folder; every part can be another."""

    def run(
        folder: Path,
        *,
        norm: Norm = BN_WA,
        recipe: Recipe | None = None,
        seed: int = 0,
        model: nn.Module | None = None,
        settings: Settings = SETTINGS,
        images: Sequence[DecodedDomain] = domains,
        **kwargs: Any,
    ) -> Trained:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        task = Task(
            model or ResNet(norm, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8]),
            transfer(images, "A", Full(0.1), seed),
            Normalize([0.5] * 3, [0.25] * 3),
            settings,
            seed,
            folder / "last.ckpt",
            **kwargs,
        )
        return train(recipe or _recipe(), task)

    return run
