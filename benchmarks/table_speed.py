"""Time a six-pair table of one norm: this project's way against the usual way, in one run.

The usual way is six separate source->target fine-tunes that decode JPEGs with PIL in every epoch, through
torchvision's transforms and a DataLoader, in eager float32 with all cores as threads. Both sides start
from the same checkpoint and use the same network, split, batch size, epochs and evaluations. This project's
time is that of its whole command, start of processes, first decoding and report included.

    uv run benchmarks/table_speed.py --root data/office31 --epochs 6
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from da_wa._conf import compose_experiment
from da_wa.data.splits import Full
from da_wa.models.checkpoint import load_backbone
from da_wa.runs.build import part
from da_wa.runs.ledger import Ledger
from da_wa.runs.plan import plan
from da_wa.train.environment import machine

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {"A": "amazon", "W": "webcam", "D": "dslr"}


def ours(options: list[str], work: Path) -> float:
    """Seconds of the whole command."""
    started = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "run_office31.py"),
            *options,
            f"out={work / 'out'}",
            f"cache_dir={work / 'cache'}",
        ],
        check=True,
    )
    return time.perf_counter() - started


def usual(options: list[str], root: Path) -> float:
    """Seconds of six separate fine-tunes."""
    cfg, norms = compose_experiment(options)
    (name, norm), tune = next(iter(norms.items())), cfg["finetune"]
    checkpoint = plan(cfg, norms, [], Ledger(Path()), Path("missing"))[0].checkpoint
    normalise = transforms.Normalize(**cfg["normalise"])
    plain = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor(), normalise])
    augmented = transforms.Compose(
        [
            transforms.Resize((32, 32)),
            transforms.RandomCrop(32, 4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalise,
        ]
    )
    started = time.perf_counter()
    for source in FOLDERS:
        for target in FOLDERS:
            if source == target:
                continue
            folders = [root / FOLDERS[d] / "images" for d in (source, source, target)]
            train, held, test = (ImageFolder(f, t) for f, t in zip(folders, (augmented, plain, plain), strict=True))
            split = Full().source(source, torch.tensor(train.targets).numpy(), 0)
            loader = DataLoader(
                Subset(train, split.train.tolist()), tune["batch_size"], True, num_workers=2, drop_last=True
            )
            evaluated = [
                DataLoader(Subset(held, split.held.tolist()), 500, num_workers=2),
                DataLoader(test, 500, num_workers=2),
            ]
            model = part(cfg["model"]["build"])(part(norm), 2)
            load_backbone(checkpoint, model)
            model.head = model.make_head(31)
            optimizer = part(tune["optimizer"])(model.parameters())
            for epoch in range(1, tune["epochs"] + 1):
                model.train()
                for images, labels in loader:
                    loss = F.cross_entropy(model(images), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if epoch % max(1, tune["epochs"] // tune["evaluations"]) == 0 or epoch == tune["epochs"]:
                    model.eval()
                    with torch.inference_mode():
                        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in evaluated[1])
                        for x, _ in evaluated[0]:
                            model(x)
            print(f"  {name} {source}->{target}: {correct} of {len(test)}", flush=True)
    return time.perf_counter() - started


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="Office-31")
    parser.add_argument("--norm", default="bn")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    options = [
        "experiment=quick",
        f"norms=[{arguments.norm}]",
        f"data.root={arguments.root}",
        f"finetune.epochs={arguments.epochs}",
    ]
    with tempfile.TemporaryDirectory() as work:
        our_seconds = ours(options, Path(work))
    usual_seconds = usual(options, arguments.root)
    found = machine()
    print(f"{found['cpu']}, {found['cores']} cores, torch {found['torch']}, commit {found['commit']}")
    print(f"six pairs, {arguments.norm}, ResNet20 at 32x32, {arguments.epochs} epochs, {arguments.root.name}")
    print(f"this project  {our_seconds:8.1f} s")
    print(f"the usual way {usual_seconds:8.1f} s")
    print(f"ratio         {usual_seconds / our_seconds:8.2f}")


if __name__ == "__main__":
    main()
