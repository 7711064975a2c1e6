"""Kill a small experiment at random moments until it is finished, and compare its table with an undisturbed one.

    uv run benchmarks/kills.py --kills 60

Every experiment decodes, pre-trains, fine-tunes and reports; it is sent SIGKILL or SIGINT (in turn) after a random
time, and then run again, to be killed again. Reported are the phases that were hit, whether tables are identical,
commands that did not end after SIGINT, and files that were left behind.
"""

from __future__ import annotations

import argparse
import collections
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = Path(__file__).resolve().parents[1] / "run_office31.py"
PHASES = ("Checking", "Decoding", "resnet20-", "bn", "The report is in")
"""Words of the output that show how far a command came."""

LEFTOVERS = ("*.part", "*.partial", "*.tmp", "*.ckpt", "*.damaged")
PATIENCE_S = 300
"""Seconds after SIGINT that count as a hang."""


def draw(root: Path, folders: int, classes: int, per_class: int, side: int, seed: int, names: list[str]) -> Path:
    """Class folders of noise around a colour for each class."""
    rng = np.random.default_rng(seed)
    for name in names[:folders]:
        for label in range(classes):
            folder = root / name / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(per_class):
                colour = np.array([label * 40, 255 - label * 40, 128])
                pixels = np.clip(colour + rng.normal(0, 60, (side, side, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


def options(images: Path, work: Path) -> list[str]:
    """A small experiment with every phase."""
    return [
        "data=folders", f"data.root={images / 'domains'}", "data.size=16", "model=resnet20",
        "model.build.widths=[4,8,8]", "model.build.depths=[1,1,1]", "pretrain=cifar100", "pretrain.verify=false",
        f"pretrain.root={images / 'cifar'}", "pretrain.recipe.epochs=4", "pretrain.recipe.batch_size=16",
        "norms=[bn,bn_wa]", "seeds=[0]", "finetune.epochs=6", "finetune.batch_size=16", "finetune.evaluations=2",
        "trainer.save_every_s=0", "launcher.workers=2", "launcher.threads=1", f"out={work / 'out'}",
        f"cache_dir={work / 'cache'}", f"checkpoint_dir={work / 'networks'}",
    ]  # fmt: skip


def phase(output: str) -> str:
    """The last phase that a command's output shows."""
    reached = [word for word in PHASES if word in output]
    return reached[-1].strip("-") if reached else "start"


def main() -> int:
    """Returns 0 if all tables are identical and nothing hung or was left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it, and so would its children
    rng = random.Random(arguments.seed)
    hit: collections.Counter[str] = collections.Counter()
    different = hung = kills = experiments = 0
    left: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root / "images" / "domains", 3, 4, 60, 64, 0, ["one", "two", "three"])
        draw(root / "images" / "cifar", 2, 5, 80, 32, 1, ["train", "test"])
        images = root / "images"
        started = time.monotonic()
        subprocess.run(
            [sys.executable, COMMAND, *options(images, root / "undisturbed")], check=True, stdout=subprocess.DEVNULL
        )
        duration = time.monotonic() - started
        wanted = (root / "undisturbed" / "out" / "accuracy.csv").read_bytes()
        while kills < arguments.kills:
            experiments += 1
            work = root / f"experiment{experiments}"
            fresh = True
            while True:
                began = time.monotonic()
                log = root / "log.txt"
                with log.open("w") as out:
                    process = subprocess.Popen(
                        [sys.executable, COMMAND, *options(images, work)], stdout=out, stderr=out
                    )
                    try:
                        status = process.wait(rng.uniform(0.05, 1.1) * duration)
                        duration = min(duration, time.monotonic() - began) if fresh else duration
                        break  # finished before it was killed
                    except subprocess.TimeoutExpired:
                        pass
                    fresh = False
                    if kills >= arguments.kills:
                        status = process.wait()
                        break
                    how = (signal.SIGKILL, signal.SIGINT)[kills % 2]
                    process.send_signal(how)
                    kills += 1
                    try:
                        process.wait(PATIENCE_S)
                    except subprocess.TimeoutExpired:
                        hung += 1
                        process.kill()
                        process.wait()
                reached = phase(log.read_text())
                hit[f"{reached} ({how.name})"] += 1
                print(f"kill {kills}: {how.name} at {reached!r}", file=sys.stderr, flush=True)
            table = work / "out" / "accuracy.csv"
            if status != 0 or table.read_bytes() != wanted:
                different += 1
            print(f"experiment {experiments}: {different} different, {hung} hung", file=sys.stderr, flush=True)
            left += [str(p.relative_to(work)) for pattern in LEFTOVERS for p in work.rglob(pattern)]
    print(f"{kills} kills in {experiments} experiments of {duration:.0f} s; phases hit:")
    for name, count in sorted(hit.items()):
        print(f"  {count:3d}  {name}")
    print(f"different tables {different}, hangs {hung}, files left behind {len(left)}: {left[:10]}")
    return 1 if different or hung or left else 0


if __name__ == "__main__":
    sys.exit(main())
