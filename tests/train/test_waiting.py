"""The host does not wait for the device within an epoch, and MFU is what it says.

What makes it wait are reads of a value (``_local_scalar_dense``: ``item``, ``float``, ``if tensor``) and
copies of host numbers to the device (``lift_fresh``: ``torch.tensor``). Both can be counted on a CPU.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import Subset
from da_wa.models.backbone import Backbone
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.flops import count_flops
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import Subsets
from da_wa.train.train import Task, Trained, train

WAITS = ("aten._local_scalar_dense", "aten.lift_fresh")


class Waits(TorchDispatchMode):
    """Counts the operations that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(WAITS):
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def trained(folder, n: int, settings: Settings, make=torch.optim.SGD) -> tuple[Trained, Backbone]:
    """One epoch of ``n`` images in batches of four, and an evaluation of eight."""
    labels = np.arange(n) % 3
    pixels = np.random.default_rng(0).integers(0, 255, (n, 3, 8, 8), np.uint8)
    domain = DecodedDomain("A", pixels, labels, tuple(map(str, range(n))), "A", ("r", "g", "b"))
    torch.manual_seed(0)
    model = ResNet(Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d), 3, block=BasicBlock, depths=[1], widths=[4])
    task = Task(
        model,
        Subsets(Subset(domain, np.arange(n)), [Subset(domain, np.arange(8))]),
        Normalize([0.5] * 3, [0.25] * 3),
        settings,
        seed=0,
        state=folder / "x.ckpt",
    )
    return train(Recipe(1, 4, partial(make, lr=0.05, momentum=0.9), schedule.cosine, Augment(erase=0.5)), task), model


PLAIN = Settings(accelerator="cpu", precision="32-true", channels_last=False)


def test_steps_do_not_make_the_host_wait(tmp_path):
    counts = []
    trained(tmp_path, 8, PLAIN)  # what is copied or measured once per process
    for n in (16, 48):
        with Waits() as waits:
            trained(tmp_path, n, PLAIN)
        counts.append(waits.counts)
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 0  # the end of an epoch reads the loss: the counting works


def test_the_recorded_operations_are_those_of_steps_and_evaluations(tmp_path):
    took, model = trained(tmp_path, 18, PLAIN)
    each = count_flops(model, (3, 8, 8))
    assert took.cost.flops == 16 * each.training + 8 * each.prediction  # two images are left out of the last batch
    cost = replace(took.cost, flops=3_000_000, matrix_rate=1e6, train_s=10.0, eval_s=2.0)
    assert cost.arithmetic == {"flops": 3_000_000, "compute_bound_s": 3.0, "mfu": 0.25}
    assert cost.arithmetic.items() <= cost.values().items()
    assert not {"flops", "compute_bound_s", "mfu"} & replace(cost, flops=None).values().keys()


def test_an_optimiser_that_can_is_fused_where_asked(tmp_path):
    made: list[torch.optim.Optimizer] = []

    class Noted(torch.optim.SGD):
        def __init__(self, params, lr, momentum, fused=None) -> None:
            super().__init__(params, lr, momentum, fused=fused)
            made.append(self)

    for asked in (True, False):
        trained(tmp_path, 8, Settings(accelerator="cpu", precision="32-true", fused=asked), Noted)
    assert [optimizer.defaults["fused"] for optimizer in made] == [True, None]
    trained(tmp_path, 8, Settings(accelerator="cpu", precision="32-true", fused=True), _Plain)  # has no such option


def test_fused_is_for_gpus_unless_asked_for():
    model = nn.Linear(1, 1)
    assert Settings(accelerator="cpu").resolve(model).fused is False
    assert Settings(accelerator="gpu").resolve(model).fused is True
    assert Settings(accelerator="gpu", fused=False).resolve(model).fused is False


class _Plain(torch.optim.SGD):
    """An optimiser that knows nothing of fused kernels."""

    def __init__(self, params, lr: float, momentum: float) -> None:
        super().__init__(params, lr, momentum)
