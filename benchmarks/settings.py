"""Time a training step under every precision, memory layout and way to compile, for the defaults of ``trainer``.

    uv run benchmarks/settings.py --norms bn gn in ln --threads 1
    uv run benchmarks/settings.py --compile default reduce-overhead        # modes of torch.compile, beside eager

Prints, for every norm, the median seconds of a step and its ratio to float32 in the contiguous layout, eager; the
variants take turns, so that a busy machine slows all of them alike. See ``Settings.resolve``.
"""

import argparse
import statistics
import time
from itertools import product

import torch
from torch.nn import functional as F

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.records.provenance import machine
from da_wa.train.settings import Settings


def main() -> None:
    """Print one line per norm and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--norms", nargs="+", default=["none", "bn", "gn", "in", "ln"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", nargs="*", default=[], metavar="MODE", help="modes of torch.compile to add")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    experiment = compose([f"model={arguments.model}", f"norms=[{','.join(arguments.norms)}]"])
    cfg, norms = experiment.cfg, experiment.norms
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    labels = torch.randint(0, 31, (arguments.batch,), device=device)
    found = machine()
    print(f"{found['cpu']}, {arguments.device}, {arguments.threads} threads, torch {found['torch']}")
    print(f"commit {found['commit']}; {arguments.model}, {arguments.size}x{arguments.size}, batch {arguments.batch}")
    variants = list(product(("32-true", "bf16-mixed"), (False, True), (False, *arguments.compile)))
    settings = [Settings(arguments.device, precision, last, mode) for precision, last, mode in variants]
    for name, norm in norms.items():
        models = [make(cfg["model"]["build"])(make(norm), 31).to(device) for _ in settings]
        for model, how in zip(models, settings, strict=True):
            how.prepare(model)
        seconds: list[list[float]] = [[] for _ in settings]
        for repeat in range(arguments.repeats + 1):
            for model, how, times in zip(models, settings, seconds, strict=True):
                started = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=how.precision == "bf16-mixed"):
                    loss = F.cross_entropy(model(images).float(), labels)
                model.zero_grad()
                loss.backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first round warms up, and compiles
                    times.append(time.perf_counter() - started)
        reference = statistics.median(seconds[0])
        for how, times in zip(settings, seconds, strict=True):
            median = statistics.median(times)
            layout = "channels_last" if how.channels_last else "contiguous"
            print(
                f"{name:8} {how.precision:10} {layout:13} {how.compile or 'eager':15} "
                f"{median:8.4f} s  {median / reference:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
