"""Jobs on a real Ray cluster of two nodes in this machine."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from da_wa.errors import ConfigError
from da_wa.launchers.events import Reader
from da_wa.launchers.local import Local
from da_wa.launchers.ray import Ray, _in_order
from da_wa.launchers.worker import Launch
from tests.launchers.fakes import fake, ran, recorded

pytestmark = pytest.mark.xdist_group("engines")  # one at a time: they share the machine's SLURM and ports

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(monkeypatch):
    """A head and a second node of one core each."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    found.shutdown()


@pytest.mark.timeout(300)
def test_an_address_without_ray_is_an_error(tmp_path):
    """First of all tests with Ray: a cluster takes a minute to end."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray._private.services import find_gcs_addresses

    if find_gcs_addresses():
        pytest.skip("another Ray cluster runs on this machine")
    with pytest.raises(ConfigError, match=r"launcher\.address=auto"):
        Ray(address="auto")(Launch("one", [fake("a", tmp_path)], tmp_path))


@pytest.mark.timeout(600)
def test_a_node_is_lost_while_another_command_works_on_the_same_folder(cluster, tmp_path):
    second = cluster.add_node(num_cpus=1)
    jobs = [fake("fine", tmp_path, needs="pre"), fake("pre", tmp_path, pace=0.5), fake("bad", tmp_path, trouble="user")]
    jobs += [fake("never", tmp_path, needs="bad")]
    jobs += [fake(str(k), tmp_path, epochs=3, pace=0.4) for k in range(6)]

    def lose_node() -> None:
        while len({event.worker for event in Reader(tmp_path).read() if event.launch == "one"}) < 2:
            time.sleep(0.05)  # both nodes have worked
        cluster.remove_node(second, allow_graceful=False)

    threads = [
        threading.Thread(target=lose_node),
        threading.Thread(target=Local(workers=2, threads=1), args=[Launch("two", jobs, tmp_path)]),
    ]
    for thread in threads:
        thread.start()
    Ray(address=cluster.address, lease_s=5.0)(Launch("one", jobs, tmp_path, lease_s=5.0))
    for thread in threads:
        thread.join()
    assert Counter(recorded(tmp_path)) == Counter(job.id for job in jobs if job.id not in ("bad", "never"))
    assert ran(tmp_path).index("pre") < ran(tmp_path).index("fine")
    assert "never" not in ran(tmp_path)
    assert "bad, which it starts from, failed" in jobs[3].failed("one").reason


def test_tasks_are_in_order_of_need_whatever_that_of_the_jobs(tmp_path):
    jobs = [fake("c", tmp_path, needs="b"), fake("b", tmp_path, needs="a"), fake("a", tmp_path), fake("d", tmp_path)]
    order = {job.id: [earlier.id for earlier in before] for job, before in _in_order(jobs)}
    assert order == {"a": [], "b": ["a"], "c": ["a", "b"], "d": []}
    assert list(order).index("a") < list(order).index("b") < list(order).index("c")
