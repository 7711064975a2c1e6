"""Training images per second at batch sizes 64, 8 and 1: the trainer against a bare loop, in CPU seconds of one thread.

    uv run benchmarks/small_batches.py                        # ResNet8 with WA at 32², as in study=table2 scope=small
    uv run benchmarks/small_batches.py --norm gn --repeats 7

The bare loop has forward, backward and SGD of the same network on one batch: no images to fetch, no augmentation, no
metrics. The trainer is measured over its second of three epochs, without an evaluation, with the defaults and with
``trainer.fused=true``. The variants take turns; medians of rounds are printed.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.nn import functional as F

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.splits import Whole
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm import named
from da_wa.records.provenance import machine
from da_wa.train import schedule
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import transfer
from da_wa.train.train import Task, train

CLASSES = 100
SGD = partial(torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=5e-4)


def network(norm: str) -> ResNet:
    """Eight layers of 8 to 32 channels."""
    torch.manual_seed(0)
    return ResNet(named(norm), CLASSES, block=BasicBlock, depths=[1, 1, 1], widths=[8, 16, 32])


def images(name: str, count: int) -> DecodedDomain:
    """Noise."""
    labels = np.arange(count) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    classes = tuple(f"class {label:02}" for label in range(CLASSES))
    return DecodedDomain(name, pixels, labels, tuple(map(str, range(count))), name, classes)


def bare(norm: str, batch: int, steps: int) -> float:
    """CPU seconds of a bare loop."""
    model = network(norm).train().to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters())
    shown, labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % CLASSES
    started = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(shown), labels).backward()
        optimizer.step()
    return time.process_time() - started


def trainer(norm: str, batch: int, steps: int, fused: bool) -> float:
    """CPU seconds of the second epoch of a training."""
    domains = [images("train", batch * steps), images("test", CLASSES)]
    recipe = Recipe(3, batch, SGD, schedule.one_cycle, Augment(crop=0.125, flip=True))
    ends: list[float] = []
    with TemporaryDirectory() as folder:
        task = Task(
            network(norm),
            transfer(domains, "train", Whole(), 0),
            Normalize([0.5] * 3, [0.25] * 3),
            Settings("cpu", "32-true", fused=fused),
            seed=0,
            state=Path(folder, "state"),
            notify=lambda done, epochs: ends.append(time.process_time()),
        )
        train(recipe, task)
    return ends[1] - ends[0]


def main() -> None:
    """Print a line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norm", default="wa")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 8, 1], help="batch sizes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the bare loop in each round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = machine()
    changes = " with changes" if found["dirty"] else ""
    print(f"{found['cpu']}, 1 thread, torch {found['torch']}, commit {found['commit']}{changes}")
    print(
        f"ResNet8 (8 to 32 channels) with {options.norm}; images per CPU second, medians of {options.repeats} rounds\n"
    )
    print("| batch size | bare loop | trainer | bare/trainer time | trainer.fused=true | bare/trainer time |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for batch in options.sizes:
        steps = max(10, round(20 * options.seconds / bare(options.norm, batch, 20)))
        variants: list[Callable[[], float]] = [
            partial(bare, options.norm, batch, steps),
            partial(trainer, options.norm, batch, steps, False),
            partial(trainer, options.norm, batch, steps, True),
        ]
        seconds = np.array([[variant() for variant in variants] for _ in range(options.repeats)])
        rates = np.median(batch * steps / seconds, axis=0)
        first, second = np.median(seconds[:, :1] / seconds[:, 1:], axis=0)
        print(
            f"| {batch} | {rates[0]:.0f} | {rates[1]:.0f} | {first:.2f} | {rates[2]:.0f} | {second:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
