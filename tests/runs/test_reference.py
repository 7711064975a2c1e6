"""From images to published counts, beside a second implementation.

A plain loop with its own split, order, augmentation, normalisation, loss, SGD, schedule and evaluation, which shares
nothing with ``da_wa`` but the network's modules.

Its only inputs are the configuration's numbers, the images and labels as drawn, the shipped weights, and the seeds as
they are documented: stream 0 orders an epoch, 1 augments it, 2 initialises the network, 3 its head.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from da_wa.config.compose import compose
from da_wa.data.digits import digits
from da_wa.models.fixup import Bias, Multiplier
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm, group_norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.runs.execute import execute
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import UnitJob
from da_wa.runs.plan import plan
from da_wa.shipped import CHECKPOINTS

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
LR, MOMENTUM, DECAY, BATCH, EPOCHS, SMOOTHING = 0.02, 0.9, 0.05, 16, 3, 0.1
NORMS = {
    "bn_wa": partial(Norm, "BN + WA", WeightAlignConv2d, nn.BatchNorm2d),
    "gn": partial(Norm, "GN", nn.Conv2d, partial(group_norm, groups=32)),
    "none": partial(Norm, "Baseline"),
}


def seeded(seed: int, epoch: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0] >> 1)


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The same fraction of every class is held out, rounded half up."""
    draw, held_out = np.random.default_rng(seed), set()
    for label in sorted(set(labels.tolist())):
        members = draw.permutation([i for i, found in enumerate(labels) if found == label])
        held_out |= set(members[: math.floor(fraction * len(members) + 0.5)].tolist())
    return [i for i in range(len(labels)) if i not in held_out], sorted(held_out)


def augmented(images: np.ndarray) -> np.ndarray:
    """Image by image: shift by up to an eighth over zeros, then mirror half of them."""
    n, channels, height, width = images.shape
    pad = height // 8
    shifts = torch.randint(0, 2 * pad + 1, (2, n, 1)).reshape(2, n).tolist()
    mirrored = (torch.rand(n, 1, 1, 1) < 0.5).reshape(n).tolist()
    out = np.empty_like(images)
    for k in range(n):
        canvas = np.zeros((channels, height + 2 * pad, width + 2 * pad), images.dtype)
        canvas[:, pad : pad + height, pad : pad + width] = images[k]
        top, left = shifts[0][k], shifts[1][k]
        window = canvas[:, top : top + height, left : left + width]
        out[k] = window[:, :, ::-1] if mirrored[k] else window
    return out


def normalized(images: np.ndarray) -> torch.Tensor:
    channels = [(images[:, c] / np.float32(255) - np.float32(MEAN[c])) / np.float32(STD[c]) for c in range(3)]
    return torch.from_numpy(np.stack(channels, 1).astype(np.float32))


def loss_of(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = torch.full_like(log_p, SMOOTHING / log_p.shape[1])
    target[range(len(labels)), labels.tolist()] += 1 - SMOOTHING
    return -(target * log_p).sum(1).mean()


class Sgd:
    """``v <- m·v + (g + decay·w)``, ``w <- w - rate·v`` (Sutskever et al. 2013), Fixup's scalars at a tenth."""

    def __init__(self, model: nn.Module) -> None:
        self.tenth = {id(m.value) for m in model.modules() if isinstance(m, (Bias, Multiplier))}
        self.velocity = {p: torch.zeros_like(p) for p in model.parameters()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for p, velocity in self.velocity.items():
            velocity.mul_(MOMENTUM).add_(p.grad + DECAY * p)
            p.sub_((rate / 10 if id(p) in self.tenth else rate) * velocity)
            p.grad = None


def reference(
    norm: str, source: str, seed: int, start: Path | None
) -> dict[int, dict[str, tuple[list[int], np.ndarray]]]:
    """Evaluated epoch -> domain -> its evaluated images and their logits."""
    drawn = digits(per_class=6)
    pixels = {d.name: np.stack([d.images.decode(i, 32) for i in range(len(d.labels))]) for d in drawn.domains}
    labels = {d.name: d.labels for d in drawn.domains}
    torch.manual_seed(seeded(seed, 0, 2))
    model = ResNet(NORMS[norm](), 2, block=BasicBlock, depths=[3, 3, 3], widths=[16, 32, 64])
    if start is not None:
        weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(start).items()}
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("head.")}, strict=False)
    torch.manual_seed(seeded(seed, 0, 3))
    model.head = nn.Linear(64, 10)
    if norm == "none":  # Fixup's classifier starts at zero
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    train, held_out = split(labels[source], 1 / 6, seed)
    evaluated = {name: held_out if name == source else list(range(len(labels[name]))) for name in labels}
    optimizer, steps, found = Sgd(model), len(train) // BATCH, {}
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seeded(seed, epoch, 0)))
        torch.manual_seed(seeded(seed, epoch, 1))
        model.train()
        for batch in range(steps):
            picked = [train[i] for i in order[batch * BATCH : (batch + 1) * BATCH].tolist()]
            images = normalized(augmented(pixels[source][picked]))
            loss_of(model(images), labels[source][picked]).backward()
            progress = (epoch * steps + batch) / (EPOCHS * steps)
            optimizer.step(LR * (1 + math.cos(math.pi * progress)) / 2)
        if epoch + 1 in (2, 3):  # two evaluations of three epochs: the second, and always the last
            model.eval()
            with torch.no_grad():
                found[epoch + 1] = {
                    name: (chosen, model(normalized(pixels[name][chosen])).numpy())
                    for name, chosen in evaluated.items()
                }
    return found


pytestmark = pytest.mark.usefixtures("one_thread")  # the last digits of a sum depend on their number


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("norm", "source", "seed", "pretrained"),
    [("bn_wa", "N", 1, True), ("gn", "P", 0, False), ("none", "H", 2, True)],
)
def test_a_record_holds_what_a_plain_loop_finds(norm, source, seed, pretrained, tmp_path):
    start = ["pretrain=cifar100_short", f"pretrain.checkpoint={CHECKPOINTS}"] if pretrained else ["pretrain=none"]
    experiment = compose(
        [
            *start,
            "data=digits", "data.per_class=6", "model=resnet20", f"norms=[{norm}]", f"sources=[{source}]",
            f"seeds=[{seed}]",
            f"protocol.holdout={1 / 6}", f"finetune.epochs={EPOCHS}", f"finetune.batch_size={BATCH}",
            f"finetune.optimizer.lr={LR}", f"finetune.optimizer.weight_decay={DECAY}",
            f"finetune.label_smoothing={SMOOTHING}", "finetune.evaluations=2",
            "finetune.schedule.name=cosine",
            "trainer.accelerator=cpu", "trainer.precision=32-true", f"cache_dir={tmp_path}/cache",
        ]
    )  # fmt: skip
    inputs = Inputs(experiment.cfg["data"], tmp_path / "cache")
    assert len(inputs.decoded) == 3
    (job,) = plan(experiment, inputs.manifests, tmp_path / "out", tmp_path / "networks")
    assert isinstance(job, UnitJob)
    assert (job.start is not None) == pretrained
    job.register()
    execute(job, lambda done, epochs: None)
    record, outputs = job.directory.record(), job.directory.outputs()
    labels = {d.name: d.labels for d in digits(per_class=6).domains}
    expected = reference(norm, source, seed, job.start)
    assert outputs.epochs.tolist() == list(expected) == [2, 3]
    for k, (epoch, by_domain) in enumerate(expected.items()):
        for name, (chosen, logits) in by_domain.items():
            ours = outputs.domains[name]
            assert ours.index.tolist() == chosen
            assert ours.labels.tolist() == labels[name][chosen].tolist()
            np.testing.assert_allclose(ours.logits[k].astype(np.float32), logits, atol=0.02, err_msg=f"{name} {epoch}")
            (row,) = (r for r in record.evaluations if (r.domain, r.epoch) == (name, epoch))
            right = logits.argmax(1) == labels[name][chosen]
            second, first = np.sort(logits, axis=1)[:, -2:].T
            assert row.role == ("source" if name == source else "target")
            assert row.n == len(chosen)
            assert abs(row.correct - right.sum()) <= (first - second < 0.04).sum()
    for row in record.results:
        if row.selection == "last":
            assert row.epoch == 3
