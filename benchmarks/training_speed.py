"""Training images per second of every norm, with and without ``trainer.compile=auto``, in CPU seconds of one thread.

    uv run benchmarks/training_speed.py                       # ResNet20 at 32², batch 128, the norms of Table VI
    uv run benchmarks/training_speed.py --norms gn in --repeats 15 --setting trainer.compile=true

Every variant has a network of its own; they take turns, step by step, in the opposite order in every second round.
Medians are printed. CPU seconds, not wall-clock time: other work on the machine slows them far less.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.norm import named
from da_wa.records.provenance import machine

CLASSES = 100


def training_step(name: str, options: argparse.Namespace, overrides: list[str]) -> Callable[[], object]:
    """Forward, backward and update of a network of the norm ``name``, as the trainer sets it up on a processor."""
    experiment = compose([f"model={options.model}", f"norms=[{name}]", "trainer.accelerator=cpu", *overrides])
    torch.manual_seed(0)
    model = make(experiment.models[options.model]["build"])(named(name), CLASSES)
    settings = make(experiment.cfg["trainer"]).resolve(model)
    settings.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.arange(options.batch) % CLASSES

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            loss = F.cross_entropy(model(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rates(steps: list[Callable[[], object]], options: argparse.Namespace) -> np.ndarray:
    """Images per second of each step in every round, (rounds, steps), after three rounds that do not count."""
    taken = np.zeros((3 + options.repeats, len(steps)))
    for number, times in enumerate(taken):
        for place in range(len(steps))[:: -1 if number % 2 else 1]:
            started = time.process_time()
            steps[place]()
            times[place] = time.process_time() - started
    return options.batch / taken[3:]


def main() -> None:
    """Print a line per norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norms", nargs="+", default=["bn", "bn_wa", "gn", "gn_wa", "ln", "ln_wa", "in", "in_wa"])
    parser.add_argument("--plain", nargs="*", default=["none", "wa"], help="norms without activation norm, to compare")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=11, help="timed rounds")
    parser.add_argument("--setting", default="trainer.compile=auto", help="what to compare with the defaults")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = machine()
    changes = " with changes" if found["dirty"] else ""
    print(f"{found['cpu']}, 1 thread, torch {found['torch']}, commit {found['commit']}{changes}")
    print(f"{options.model} at {options.size}², batch {options.batch}; images per CPU second, medians of", end=" ")
    print(f"{options.repeats} rounds\n")
    print(f"| norm | defaults | {options.setting} | × |\n| --- | ---: | ---: | ---: |")
    for name in [*options.norms, *options.plain]:
        steps = [training_step(name, options, overrides) for overrides in ([], [options.setting])]
        measured = rates(steps, options)
        before, after = np.median(measured, axis=0)
        ratio = np.median(measured[:, 1] / measured[:, 0])
        print(f"| {named(name).label} | {before:.0f} | {after:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
