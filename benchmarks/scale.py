"""Measure what does not depend on the network: thousands of units, and sets of many images.

    uv run benchmarks/scale.py --units 10000 --workers 8 --report
    uv run benchmarks/scale.py --units 0 --speed --images 4000 60000 600000      # Linux

The units are those of the digits, with random logits in place of training: planned by the command's own planner,
claimed, recorded and told by its own workers, and reported by its own report.

``--speed`` compares training from the cache on disk with training from memory, ResNet20 at 32², in turns. ``--images``
decodes sets of JPEGs (a few thousand files under many names) and trains a small network for an epoch from the cache,
each in a process of its own, whose memory is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch.nn import functional as F

from da_wa.config.compose import compose
from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain, load_decoded, open_decoded
from da_wa.data.domains import Domain
from da_wa.data.images import ImageFiles
from da_wa.data.loader import Batch, ResidentBatches, StreamedBatches
from da_wa.data.splits import Full
from da_wa.launchers.events import Reader, writer
from da_wa.launchers.launch import Planned, prepare
from da_wa.launchers.watch import Watch
from da_wa.launchers.worker import work
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm import named
from da_wa.records.outputs import DomainOutputs, Outputs, from_logits
from da_wa.records.provenance import machine
from da_wa.records.schema import EpochCurve, Evaluation, Images, Record, parse_plan
from da_wa.report import write_report
from da_wa.runs.jobs import Job, UnitJob
from da_wa.train import schedule
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import transfer
from da_wa.train.train import Task, train

NORMS = ("none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa")
IMAGES, CLASSES = 90, 10


@cache
def logits(seed: int) -> DomainOutputs:
    """Random outputs of one domain."""
    rng = np.random.default_rng(seed)
    index = np.arange(IMAGES)
    return from_logits(index, index % CLASSES, rng.normal(size=(1, IMAGES, CLASSES)).astype(np.float32))


def record(job: Job) -> None:
    """What remains of a unit without its training."""
    assert isinstance(job, UnitJob)
    unit = parse_plan(job.config["unit"], job.id)
    outputs = {name: logits(hash((job.id, name)) % 64) for name in unit.domains}
    finished = Record(
        id=job.id,
        status="finished",
        **unit.model_dump(),
        classes=[str(k) for k in range(CLASSES)],
        images={name: Images(digest="x", n=IMAGES) for name in unit.domains},
        experiment=job.config["experiment"],
        evaluations=[
            Evaluation(
                domain=name,
                role="source" if name == unit.source else "target",
                epoch=unit.factors.epochs or 1,
                correct=int(found.correct[-1]),
                n=IMAGES,
            )
            for name, found in outputs.items()
        ],
        curve=[EpochCurve(epoch=k, loss=1.0, accuracy=0.5, lr=0.1) for k in range(1, 4)],
    )
    job.directory.finish(finished, Outputs(np.array([unit.factors.epochs or 1], np.int32), outputs))


def worker(jobs: Sequence[Job], out: Path) -> None:
    """The loop of a worker, without torch."""
    work(jobs, lambda job, notify: record(job), writer(out, "scale"), "scale")


def plan(units: int, out: Path) -> Planned:
    """An experiment of at least so many units."""
    seeds = list(range(-(-units // (3 * len(NORMS)))))
    options = ["experiment=demo", f"norms=[{','.join(NORMS)}]", f"seeds={seeds}", f"out={out}", "report.images=false"]
    return prepare(compose([*options, f"cache_dir={out / 'cache'}"]), Console(quiet=True))


def draw(folder: Path, images: int, size: int, files: int = 4000) -> Domain:
    """A set of JPEGs of random colours, the first ``files`` of them drawn, the others links to these."""
    rng, names = np.random.default_rng(0), [f"{number:06d}.jpg" for number in range(images)]
    folder.mkdir()
    for name in names[:files]:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((size, size), Image.Resampling.BILINEAR).save(folder / name)
    for number, name in enumerate(names[files:]):
        os.link(folder / names[number % files], folder / name)
    return Domain("S", ImageFiles(folder, tuple(names)), np.arange(images) % CLASSES)


def decoded(folder: Path, images: int, size: int) -> DecodedDomain:
    """The same in a cache."""
    classes = [str(k) for k in range(CLASSES)]
    return load_decoded(draw(folder / "images", images, size), classes, size, folder / "cache")


def compare_speed(rounds: int = 15, steps: int = 10, batch: int = 128) -> None:
    """Print the speed of training and of reading alone, from the cache relative to memory.

    The file has been read for its checksum: it is in the file cache of the system, as in every epoch but the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        domain = decoded(Path(folder), 8000, 32)
        labels, numbers = torch.from_numpy(domain.labels), torch.arange(len(domain))
        shared = (labels, numbers, partial(torch.randperm, len(domain)), batch, True)
        loaders = [
            ResidentBatches(torch.from_numpy(np.array(domain.pixels)), *shared),
            StreamedBatches(domain.pixels, *shared),
        ]
        torch.manual_seed(0)
        model = ResNet(named("bn"), CLASSES, block=BasicBlock, depths=[3, 3, 3], widths=[16, 32, 64])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def training(batches: Iterator[Batch]) -> None:
            for images, wanted, _ in islice(batches, steps):
                optimizer.zero_grad()
                F.cross_entropy(model(images.float() / 255), wanted).backward()
                optimizer.step()

        def reading(batches: Iterator[Batch]) -> None:
            for _ in islice(batches, steps):
                pass

        for name, work in (("training ResNet20", training), ("reading alone", reading)):
            taken = np.zeros((rounds, 2, 2))
            for number in range(rounds):
                for place in (0, 1) if number % 2 else (1, 0):
                    cpu, wall = time.process_time(), time.perf_counter()
                    work(iter(loaders[place]))
                    taken[number, place] = time.process_time() - cpu, time.perf_counter() - wall
            memory, cached = (steps * batch / np.median(taken[:, place, 0]) for place in (0, 1))
            ratio = np.median(taken[:, 0] / taken[:, 1], axis=0)
            print(
                f"{name}, 32², batch {batch}: {memory:.0f} images per CPU second from memory, {cached:.0f} from the "
                f"cache: {ratio[0]:.2f} of the speed in CPU time, {ratio[1]:.2f} in wall-clock time",
                flush=True,
            )


def measure_memory(images: int, size: int = 16) -> None:
    """Print the memory of a process that trains on a set of images from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        domain = draw(Path(folder) / "images", images, size)
        print(f"{images} images: drawn in {time.process_time() - cpu:.0f} s of CPU", end="; ", flush=True)
        context = multiprocessing.get_context("spawn")
        for target in (_decode, _train_from_cache):
            process = context.Process(target=target, args=(domain, size, Path(folder) / "cache"))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{target.__name__} ended with {process.exitcode}")
        print(f"{time.perf_counter() - wall:.0f} s in all", flush=True)


def _decode(domain: Domain, size: int, cache_dir: Path) -> None:
    found = load_decoded(domain, [str(k) for k in range(CLASSES)], size, cache_dir)
    (cache_dir / "digest").write_text(found.digest)
    print(f"decoded in {time.process_time():.0f} s of CPU, {found.pixels.nbytes / 2**20:.0f} MB", end="; ", flush=True)


def _train_from_cache(domain: Domain, size: int, cache_dir: Path) -> None:
    """An epoch of a small network, as a worker does it."""
    del domain
    torch.set_num_threads(1)
    before = _memory_mb("VmRSS")
    opened = open_decoded("S", (cache_dir / "digest").read_text(), size, cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            ResNet(named("bn"), CLASSES, block=BasicBlock, depths=[1], widths=[4]),
            transfer([opened], "S", Full(0.1), 0),
            Normalize([0.5] * 3, [0.25] * 3),
            Settings(accelerator="cpu", precision="32-true", resident_gb=0.0),
            seed=0,
            state=Path(folder) / "last.ckpt",
        )
        train(Recipe(1, 500, partial(torch.optim.SGD, lr=0.01), schedule.cosine, Augment()), task)
    peak, mapped = _memory_mb("VmHWM"), _memory_mb("RssFile")
    print(
        f"trained in {time.process_time():.0f} s of CPU, peak memory {peak:.0f} MB, {peak - before:.0f} MB more than "
        f"before the set was opened, mapped files {mapped:.0f} MB",
        end="; ",
        flush=True,
    )


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def run_units(given: argparse.Namespace) -> None:
    """Plan, run and report synthetic units."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        plan(1, out)  # hashes the images once
        cpu, wall = time.process_time(), time.perf_counter()
        jobs = [job for job in plan(given.units, out).jobs if isinstance(job, UnitJob)]
        print(f"plan {len(jobs)} units: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")

        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(16) as pool:  # as the command does
            list(pool.map(lambda job: job.register(), jobs))
        print(f"write their plans: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")

        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=worker, args=(jobs, out)) for _ in range(given.workers)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took = time.perf_counter() - wall
        done = Counter(event.job for event in Reader(out).read() if event.kind == "done")
        print(
            f"claim, record and tell by {given.workers} workers: {1000 * cpu / len(jobs):.1f} ms of CPU a unit, "
            f"{took:.0f} s; {len(done)} done, {sum(done.values()) - len(done)} twice"
        )
        cpu = time.process_time()
        (line,) = Watch(out).lines()
        print(f"status: {line}; {time.process_time() - cpu:.1f} s of CPU")

        cpu, wall = time.process_time(), time.perf_counter()
        again = plan(given.units, out)
        left = len([job for job in again.unfinished if isinstance(job, UnitJob)])
        print(f"plan again: {left} left, {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")
        if given.report:
            cpu, wall = time.process_time(), time.perf_counter()
            write_report(out)
            print(f"report: {time.process_time() - cpu:.1f} s of CPU, {time.perf_counter() - wall:.1f} s")


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--report", action="store_true", help="write the report too")
    parser.add_argument(
        "--speed", action="store_true", help="compare training from the cache with training from memory"
    )
    parser.add_argument("--images", type=int, nargs="*", default=[], help="sizes of sets to decode and to train on")
    given = parser.parse_args()
    found = machine()
    changes = " with changes" if found["dirty"] else ""
    print(
        f"{found['cpu']}, {os.cpu_count()} cores, torch {found['torch']}, commit {found['commit']}{changes}", flush=True
    )
    if given.units:
        run_units(given)
    if given.speed:
        torch.set_num_threads(1)
        compare_speed()
    for images in given.images:
        measure_memory(images)


if __name__ == "__main__":
    main()
