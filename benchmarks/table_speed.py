"""Time a six-pair table of one norm: this project's way against the usual way, in one run.

The usual way is six separate source->target fine-tunes that decode JPEGs with PIL in every epoch, through
torchvision's transforms and a DataLoader, in eager float32 with all cores as threads. Both sides start
from the same checkpoint and use the same network, split, batch size, epochs and evaluations. This project's
time is that of its whole command, start of processes, first decoding and report included.

    uv run benchmarks/table_speed.py --root data/office31 --epochs 6
    uv run benchmarks/table_speed.py --root data/office31 --epochs 2 --model resnet50 --size 64
    uv run benchmarks/table_speed.py --root DIR --epochs 1 --model tf_efficientnet_lite0 --size 224 --norm keep

Both use the GPU when there is one, the usual way in its usual settings: float32 (TF32 convolutions), a batch
copied at each step. ResNet50 has no shipped networks, so both start from scratch; another name is a network of timm,
with the weights of --weights or none. From this project's time per
epoch follows that of Table VI: ten norms, three sources, five seeds, thirty epochs.
"""

import argparse
import json
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

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.config.tree import available
from da_wa.data.splits import Full
from da_wa.models.checkpoint import load_backbone
from da_wa.records.provenance import machine
from da_wa.runs.jobs import PretrainJob
from da_wa.runs.plan import plan
from da_wa.train.recipe import make_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {"A": "amazon", "W": "webcam", "D": "dslr"}


def ours(options: list[str], work: Path, cache: Path | None) -> tuple[float, list[dict]]:
    """Seconds of the whole command, and what its runs say they took."""
    started = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "run_office31.py"),
            *options,
            f"out={work / 'out'}",
            f"cache_dir={cache or work / 'cache'}",
        ],
        check=True,
    )
    seconds = time.perf_counter() - started
    return seconds, [json.loads(path.read_text())["cost"] for path in (work / "out").glob("runs/*/record.json")]


def usual(options: list[str], root: Path) -> float:
    """Seconds of six separate fine-tunes."""
    experiment = compose(options)
    cfg, norms = experiment.cfg, experiment.norms
    (name, norm), tune = next(iter(norms.items())), cfg["finetune"]
    networks = [job for job in plan(experiment, [], Path(), Path("missing")) if isinstance(job, PretrainJob)]
    size, device = cfg["data"]["size"], "cuda" if torch.cuda.is_available() else "cpu"
    expected = make(cfg["model"]["build"])(make(norm), 2).expects
    mean, std = cfg["normalize"].values() if expected is None else (expected.mean, expected.std)
    normalize = transforms.Normalize(mean, std)
    at_once = max(50, 500 * 32**2 // size**2)  # as this project evaluates
    plain = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalize])
    augmented = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.RandomCrop(size, size // 8),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            normalize,
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
                DataLoader(Subset(held, split.holdout.tolist()), at_once, num_workers=2),
                DataLoader(test, at_once, num_workers=2),
            ]
            model = make(cfg["model"]["build"])(make(norm), 2)
            if networks:
                load_backbone(networks[0].checkpoint, model)
            model.head = model.make_head(31)
            model.to(device)
            optimizer = make_recipe(tune).optimizer(model.parameters())
            for epoch in range(1, tune["epochs"] + 1):
                model.train()
                for images, labels in loader:
                    loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if epoch % max(1, tune["epochs"] // tune["evaluations"]) == 0 or epoch == tune["epochs"]:
                    model.eval()
                    with torch.inference_mode():
                        correct = sum(
                            int((model(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in evaluated[1]
                        )
                        for x, _ in evaluated[0]:
                            model(x.to(device))
            print(f"  {name} {source}->{target}: {correct} of {len(test)}", flush=True)
    return time.perf_counter() - started


def _network(name: str, weights: str | None) -> list[str]:
    """The options of a network of this project, or of timm."""
    if name in dict(available("model")):
        return [f"model={name}", *([] if name == "resnet20" else ["pretrain=none"])]
    return ["model=timm", f"model.name={name}", f"model.weights={weights or 'null'}", "pretrain=none"]


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="Office-31")
    parser.add_argument("--norm", default="bn")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--model", default="resnet20", help="resnet20 starts from the shipped network")
    parser.add_argument("--weights", help="of a network of timm: imagenet or a file")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--cache", type=Path, help="decoded images; by default decoding is part of the time")
    parser.add_argument("--ours-only", action="store_true", help="leave the usual way out")
    arguments = parser.parse_args()
    options = [
        "experiment=quick",
        f"norms=[{arguments.norm}]",
        f"data.root={arguments.root}",
        f"finetune.epochs={arguments.epochs}",
        f"data.size={arguments.size}",
        *_network(arguments.model, arguments.weights),
    ]
    with tempfile.TemporaryDirectory() as work:
        our_seconds, timings = ours(options, Path(work), arguments.cache)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    found = machine()
    print(f"{found['cpu']}, {found['cores']} cores, {device}, torch {found['torch']}, commit {found['commit']}")
    setting = f"{arguments.model} at {arguments.size}x{arguments.size}"
    print(f"six pairs, {arguments.norm}, {setting}, {arguments.epochs} epochs, {arguments.root.name}")
    print(f"this project  {our_seconds:8.1f} s")
    computing = sum(t["train_s"] + t["eval_s"] for t in timings)
    mfu = sum(t["compute_bound_s"] for t in timings) / computing
    print(f"  of it in steps and evaluations {computing:.1f} s, MFU {mfu:.3f}")
    print(f"  Table VI, 10 norms, 5 seeds, 30 epochs: {50 * computing * 30 / arguments.epochs:.0f} s of computing")
    if not arguments.ours_only:
        usual_seconds = usual(options, arguments.root)
        print(f"the usual way {usual_seconds:8.1f} s")
        print(f"ratio         {usual_seconds / our_seconds:8.2f}")


if __name__ == "__main__":
    main()
