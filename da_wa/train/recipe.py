"""What a training is, apart from its data and its network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from da_wa.errors import ConfigError

MakeOptimizer = Callable[..., Optimizer]
MakeSchedule = Callable[..., LRScheduler]


@dataclass(frozen=True)
class Recipe:
    """How long, how large the steps, and what is done to the images.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        optimizer: parameter groups -> optimiser.
        schedule: (optimiser, total_steps) -> learning-rate schedule, stepped after every batch.
        augment: uint8 batch (n, 3, h, w) -> uint8 batch.
        label_smoothing: of the cross-entropy, in [0, 1).
        evaluations: at most how many points of the training, evenly spaced, at which all domains are
            evaluated; the last epoch is always one.
    """

    epochs: int
    batch_size: int
    optimizer: MakeOptimizer
    schedule: MakeSchedule
    augment: Callable[[Tensor], Tensor]
    label_smoothing: float = 0.0
    evaluations: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluations"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value}; it must be a whole number, 1 or more")

    @property
    def evaluate_every(self) -> int:
        """Epochs between evaluations."""
        return math.ceil(self.epochs / self.evaluations)


def make_recipe(node):
    from functools import partial

    import torch

    from da_wa.data.augment import Augment
    from da_wa.train import schedule as sch

    node = dict(node)
    o = dict(node["optimizer"])
    s = dict(node["schedule"])
    opt = partial({"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[o.pop("name")], **o)
    sc = partial(getattr(sch, s.pop("name")), **s)
    return Recipe(**{**node, "optimizer": opt, "schedule": sc, "augment": Augment(**node["augment"])})
