"""The host does not wait for the device within an epoch, and MFU is what it says.

What makes it wait are reads of a value (``_local_scalar_dense``: ``item``, ``float``, ``if tensor``) and
copies of host numbers to the device (``lift_fresh``: ``torch.tensor``). Both can be counted on a CPU.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import DomainDataModule, Subset
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.classifier import Classifier
from da_wa.train.fitting import Fitted, fit
from da_wa.train.flops import count_flops
from da_wa.train.settings import Settings

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


def fitted(tmp_path, n: int, settings: Settings, make=torch.optim.SGD) -> tuple[Fitted, Classifier]:
    """One epoch of ``n`` images in batches of four."""
    labels = np.arange(n) % 3
    pixels = np.random.default_rng(0).integers(0, 255, (n, 3, 8, 8), np.uint8)
    domain = DecodedDomain("A", pixels, labels, tuple(map(str, range(n))), "A", ("r", "g", "b"))
    data = DomainDataModule(
        Subset(domain, np.arange(n)),
        [Subset(domain, np.arange(8))],
        seed=0,
        batch_size=4,
        augment=Augment(erase=0.5),
        normalize=Normalize([0.5] * 3, [0.25] * 3),
    )
    torch.manual_seed(0)
    model = ResNet(Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d), 3, block=BasicBlock, depths=[1], widths=[4])
    module = Classifier(model, 3, partial(make, lr=0.05, momentum=0.9), schedule.cosine, ["A"], seed=0)
    took = fit(module, data, epochs=1, evaluate_every=1, settings=settings, resume_from=tmp_path / "x.ckpt")
    return took, module


PLAIN = Settings(accelerator="cpu", precision="32-true", channels_last=False)


def test_steps_do_not_make_the_host_wait(tmp_path):
    counts = []
    fitted(tmp_path, 8, PLAIN)  # what is copied or measured once per process
    for n in (16, 48):
        with Waits() as waits:
            fitted(tmp_path, n, PLAIN)
        counts.append(waits.counts)
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 0  # the end of an epoch reads the loss: the counting works


def test_the_recorded_operations_are_those_of_steps_and_evaluations(tmp_path):
    took, module = fitted(tmp_path, 18, PLAIN)
    each = count_flops(module.model, (3, 8, 8))
    assert took.flops == 16 * each.training + 8 * each.prediction  # two images are left out of the last batch
    assert took.compute_bound_s == pytest.approx(took.flops / took.matrix_rate)
    assert took.mfu == pytest.approx(took.compute_bound_s / (took.train_s + took.eval_s))
    assert {"flops", "matrix_rate", "compute_bound_s", "mfu"} <= took.timing().keys()


def test_an_optimiser_that_can_is_fused_where_asked(tmp_path):
    for asked, make, fused in ((True, torch.optim.SGD, True), (False, torch.optim.SGD, None)):
        _, module = fitted(tmp_path, 8, Settings(accelerator="cpu", precision="32-true", fused=asked), make)
        assert module.trainer.optimizers[0].defaults["fused"] == fused
    _, module = fitted(tmp_path, 8, Settings(accelerator="cpu", fused=True), _Plain)
    assert module.fused


def test_fused_is_for_gpus_unless_asked_for():
    model = nn.Linear(1, 1)
    assert Settings(accelerator="cpu").resolve(model).fused is False
    assert Settings(accelerator="gpu").resolve(model).fused is True
    assert Settings(accelerator="gpu", fused=False).resolve(model).fused is False


class _Plain(torch.optim.SGD):
    """An optimiser that knows nothing of fused kernels."""

    def __init__(self, params, lr: float, momentum: float) -> None:
        super().__init__(params, lr, momentum)
