"""Every launcher gives the same table, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from da_wa.cli import main
from tests.launchers.test_slurm import on_slurm

OPTIONS = [
    "experiment=demo", "norms=[bn,bn_wa]", "sources=[P]", "finetune.epochs=1", "trainer.accelerator=cpu",
    "data.per_class=20", "report.images=false", "report.select=[]", "launcher.threads=1",
]  # fmt: skip

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("engines"),  # one at a time: they share the machine's SLURM and ports
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the experiment with more options; returns its table."""
    root = tmp_path_factory.mktemp("same")

    def run(name: str, *options: str) -> bytes:
        out = root / name
        assert main([*OPTIONS, *options, f"out={out}", f"cache_dir={root / 'cache'}"]) == 0
        return (out / "accuracy.csv").read_bytes()

    return run


@pytest.fixture(scope="module")
def table(run) -> bytes:
    """By one worker in this process."""
    return run("local", "launcher.workers=1")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


@on_slurm
def test_slurm(run, table):
    options = ["launcher=slurm", "launcher.workers=2", "launcher.cpus_per_worker=1", "launcher.gpus_per_worker=0"]
    assert run("slurm", *options) == table


def test_ray_on_two_nodes(run, table):
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        assert run("ray", "launcher=ray", f"launcher.address={cluster.address}") == table
    finally:
        cluster.shutdown()
