"""Run the demo on this machine, on SLURM and on a Ray cluster of two nodes, and compare the tables byte for byte.

    .ci/slurm start DIR; source DIR/environment
    uv run benchmarks/launchers.py local slurm ray

Options of the form ``key=value`` are passed on to each of them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # before Ray is imported; see da_wa/launchers/ray.py

from da_wa.cli import main
from da_wa.records.provenance import machine

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def local() -> Iterator[list[str]]:
    """Two workers of this machine."""
    yield ["launcher.workers=2"]


@contextmanager
def slurm() -> Iterator[list[str]]:
    """An array of two workers."""
    yield ["launcher=slurm", "launcher.workers=2", "launcher.cpus_per_worker=1", "launcher.gpus_per_worker=0"]


@contextmanager
def ray() -> Iterator[list[str]]:
    """A head and a second node, of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield ["launcher=ray", f"launcher.address={cluster.address}"]
    finally:
        cluster.shutdown()


LAUNCHERS = {"local": local, "slurm": slurm, "ray": ray}


def run(arguments: list[str]) -> int:
    """Run the demo by every launcher that is named; 1 if a table differs."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = [word for word in arguments if "=" in word]
    print(", ".join(f"{key} {value}" for key, value in machine().items() if key in ("torch", "cpu", "commit")))
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        for name in (word for word in arguments if "=" not in word):
            out, started = Path(folder) / name, time.perf_counter()
            with LAUNCHERS[name]() as chosen:
                words = ["experiment=demo", "trainer.accelerator=cpu", "launcher.threads=1", *chosen, *options]
                status = main([*words, f"out={out}", f"cache_dir={folder}/cache"])
            if status:
                return status
            table = (out / "accuracy.csv").read_bytes()
            rows, digest = table.count(b"\n") - 1, hashlib.sha256(table).hexdigest()
            digests.add(digest)
            print(f"{name}: {rows} rows of accuracy.csv, sha256 {digest[:16]}, {time.perf_counter() - started:.0f} s")
    print("the tables are equal" if len(digests) == 1 else "THE TABLES DIFFER")
    return int(len(digests) != 1)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
