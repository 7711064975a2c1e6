"""What a normalisation costs: the time of a training step and of inference, relative to ``bn``.

Every norm is timed side by side with a ``bn`` network of its own. The two take turns, and the median of the
rounds' ratios is printed, so that a machine that slows down meanwhile slows both. Prints Markdown tables.

    uv run benchmarks/norm_cost.py                                  # all norms, ResNet50 at 32², batch 64 and 4
    uv run benchmarks/norm_cost.py --norms wa bn_wa --batch 64 --repeats 30 --channels-last
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from da_wa.norm import NormalizedConv2d, fold, fold_batch_norm, named
from da_wa.records.provenance import machine
from da_wa.shipped import conf_dir

REFERENCE = "bn"
CLASSES = 100


def network(name: str, options: argparse.Namespace) -> nn.Module:
    """The benchmark's model with the norm ``name``."""
    build = instantiate(OmegaConf.load(conf_dir() / "model" / f"{options.model}.yaml").build)
    model: nn.Module = build(named(name), CLASSES)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    return model.to(memory_format=layout).to(options.device)


def training_step(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """Forward, backward and update of ``model.train()``."""
    optimiser = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    labels = torch.arange(len(x), device=x.device) % CLASSES

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimiser.step()

    return step


def inference(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """A forward pass of a network in evaluation mode."""
    return torch.inference_mode()(lambda: model(x))


def seconds(actions: Sequence[Callable[[], object]], options: argparse.Namespace) -> np.ndarray:
    """The time of each action in every round, (rounds, actions), after two rounds that do not count.

    They take turns, in the opposite order in every second round.
    """
    taken = np.zeros((2 + options.repeats, len(actions)))
    for number, times in enumerate(taken):
        for place in range(len(actions))[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            actions[place]()
            if options.device == "cuda":
                torch.cuda.synchronize()
            times[place] = time.perf_counter() - started
    return taken[2:]


def relative(times: np.ndarray) -> np.ndarray:
    """The median over rounds of each action's time in the first one's of the same round."""
    return np.median(times / times[:, :1], axis=0)


def row(name: str, batch: int, options: argparse.Namespace) -> str:
    """A line of the table: ``name`` against the reference."""
    reference, model = network(REFERENCE, options), network(name, options)
    x = torch.randn(batch, 3, options.size, options.size, device=options.device)
    if options.channels_last:
        x = x.to(memory_format=torch.channels_last)
    times = seconds([training_step(reference, x), training_step(model, x)], options)
    cells = [f"{1e3 * np.median(times[:, 1]):.1f}", f"{relative(times)[1]:.3f}"]

    forms = {"as it is": model.eval()}
    if any(isinstance(module, NormalizedConv2d) for module in model.modules()):
        forms["folded"] = fold(model)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        forms["with BN folded"] = fold_batch_norm(model)
    times = seconds([inference(form, x) for form in (reference.eval(), *forms.values())], options)
    ratios = dict(zip(forms, relative(times)[1:], strict=True))
    cells.append(f"{1e3 * np.median(times[:, 1]):.1f}")
    cells += [f"{ratios[form]:.3f}" if form in ratios else "–" for form in ("as it is", "folded", "with BN folded")]
    return f"| {named(name).label} | {' | '.join(cells)} |"


def main() -> None:
    """Time every norm and print a table for each batch size."""
    norms, models = (sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in ("norm", "model"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--norms", nargs="+", choices=norms, default=norms, metavar="NORM", help=", ".join(norms))
    parser.add_argument("--model", choices=models, default="resnet50")
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 4])
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()

    found = machine()
    where = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"{found['cpu']}, {torch.get_num_threads()} threads"
    )
    print(f"{where}, torch {found['torch']}, commit {found['commit']}{' with changes' if found['dirty'] else ''}")
    print(f"{options.model} at {options.size}², float32{', channels_last' if options.channels_last else ''};", end=" ")
    print(f"milliseconds, and × the time of {REFERENCE}: medians of {options.repeats} rounds")
    for batch in options.batch:
        print(f"\nbatch {batch}\n")
        print("| norm | training step | × | inference | × | folded × | with BN folded × |")
        print("| --- |" + " ---: |" * 6)
        for name in options.norms:
            print(row(name, batch, options), flush=True)


if __name__ == "__main__":
    main()
