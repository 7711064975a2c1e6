"""Time a training step under every precision and memory layout, to choose the defaults of ``trainer``.

    uv run benchmarks/settings.py --norms bn gn in ln --threads 1

Prints, for every norm, the median seconds of a step and its ratio to float32 in the contiguous layout; the
variants take turns, so that a busy machine slows all of them alike. See ``Settings.resolve``.
"""

import argparse
import statistics
import time
from itertools import product

import torch
from torch.nn import functional as F

from da_wa._conf import compose_experiment
from da_wa.runs.build import part
from da_wa.train.environment import machine

VARIANTS = list(product((torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last)))


def main() -> None:
    """Print one line per norm and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--norms", nargs="+", default=["none", "bn", "gn", "in", "ln"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    cfg, norms = compose_experiment([f"model={arguments.model}", f"norms=[{','.join(arguments.norms)}]"])
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    labels = torch.randint(0, 31, (arguments.batch,), device=device)
    found = machine()
    print(f"{found['cpu']}, {arguments.device}, {arguments.threads} threads, torch {found['torch']}")
    print(f"commit {found['commit']}; {arguments.model}, {arguments.size}x{arguments.size}, batch {arguments.batch}")
    for name, norm in norms.items():
        models = [
            part(cfg["model"]["build"])(part(norm), 31).to(device=device, memory_format=layout)
            for _, layout in VARIANTS
        ]
        seconds: list[list[float]] = [[] for _ in VARIANTS]
        for repeat in range(arguments.repeats + 1):
            for model, (precision, _), times in zip(models, VARIANTS, seconds, strict=True):
                started = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                    loss = F.cross_entropy(model(images).float(), labels)
                model.zero_grad()
                loss.backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first round warms up
                    times.append(time.perf_counter() - started)
        reference = statistics.median(seconds[0])
        for (precision, layout), times in zip(VARIANTS, seconds, strict=True):
            median = statistics.median(times)
            kind, place = str(precision).removeprefix("torch."), str(layout).removeprefix("torch.")
            print(f"{name:8} {kind:9} {place:18} {median:8.4f} s  {median / reference:5.2f}")


if __name__ == "__main__":
    main()
