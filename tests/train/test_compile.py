"""Compiled training: the numbers of eager training, and one compilation for all jobs of an architecture and norm."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import Subset
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import Subsets
from da_wa.train.train import Task, train

pytestmark = pytest.mark.timeout(1800)  # compiling on a loaded machine


def job(folder: Path, seed: int, activation: type[nn.Module], compiled: bool | str) -> list[dict[str, float]]:
    """A training of 12 images, evaluated on 8 others; gives its curve."""
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % 3
    pixels = rng.integers(0, 255, (20, 3, 8, 8), np.uint8)
    domain = DecodedDomain("A", pixels, labels, tuple(map(str, range(20))), "A", ("r", "g", "b"))
    torch.manual_seed(seed)
    task = Task(
        ResNet(Norm("X + WA", WeightAlignConv2d, activation), 3, block=BasicBlock, depths=[1], widths=[4]),
        Subsets(Subset(domain, np.arange(12)), [Subset(domain, np.arange(12, 20))]),
        Normalize([0.5] * 3, [0.25] * 3),
        Settings("cpu", precision="32-true", channels_last=False, compile=compiled, save_every_s=1e9),
        seed=seed,
        state=folder / f"{seed}.ckpt",
    )
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return train(Recipe(3, 4, sgd, schedule.cosine, Augment(), evaluations=3), task).curve


def test_jobs_share_one_compilation_and_get_the_numbers_of_eager_training(tmp_path):
    torch._dynamo.reset()
    counters.clear()
    first = job(tmp_path, 0, nn.BatchNorm2d, True)
    assert counters["stats"]["unique_graphs"] == 1  # the training step; evaluation is not compiled
    second = job(tmp_path, 1, nn.BatchNorm2d, True)
    assert counters["stats"]["unique_graphs"] == 1
    for seed, curve in enumerate((first, second)):
        for ours, eager in zip(curve, job(tmp_path, seed, nn.BatchNorm2d, False), strict=True):
            assert ours == pytest.approx(eager, rel=1e-3)  # kernels add up in another order, step after step
    job(tmp_path, 0, partial(nn.GroupNorm, 2), True)
    assert counters["stats"]["unique_graphs"] == 2  # another norm is another network


def test_a_name_can_be_a_backend(tmp_path):
    torch._dynamo.reset()
    curve = job(tmp_path, 0, nn.BatchNorm2d, "aot_eager")
    assert [row["loss"] for row in curve] == pytest.approx(
        [row["loss"] for row in job(tmp_path, 0, nn.BatchNorm2d, False)], rel=1e-5
    )
