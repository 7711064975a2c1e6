"""Measure what does not depend on the network: thousands of units.

    uv run benchmarks/scale.py --units 10000 --workers 8

The units are those of the digits, with random logits in place of training: planned by the command's own planner,
claimed, recorded and told by its own workers, and reported by its own report.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from rich.console import Console

from da_wa.config.compose import compose
from da_wa.launchers.events import Reader, writer
from da_wa.launchers.launch import Planned, prepare
from da_wa.launchers.watch import Watch
from da_wa.launchers.worker import work
from da_wa.records.outputs import DomainOutputs, Outputs, from_logits
from da_wa.records.schema import EpochCurve, Evaluation, Images, Record, parse_plan
from da_wa.report import write_report
from da_wa.runs.jobs import Job, UnitJob

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


def main() -> None:
    """Plan, run and report synthetic units."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--report", action="store_true", help="write the report too")
    given = parser.parse_args()
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


if __name__ == "__main__":
    main()
