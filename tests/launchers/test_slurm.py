"""Jobs on a real SLURM of one machine, see `.ci/slurm`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from da_wa.errors import ConfigError
from da_wa.launchers.events import Reader
from da_wa.launchers.slurm import Slurm
from da_wa.launchers.worker import Launch
from da_wa.runs.jobs import Done
from tests.launchers.fakes import fake, ran, recorded

pytestmark = pytest.mark.xdist_group("engines")  # one at a time: they share the machine's SLURM and ports

ROOT = Path(__file__).parents[2]


on_slurm = pytest.mark.skipif(
    "DA_WA_TEST_SLURM" not in os.environ or find_spec("submitit") is None,
    reason="needs submitit and a SLURM of this machine: .ci/slurm start DIR; source DIR/environment",
)
SMALL = {"threads": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "time": "1:00:00"}


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Workers read pickled jobs of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def tasks(state: str = "PENDING,RUNNING,COMPLETING", array: str | None = None) -> list[str]:
    words = ["squeue", "--noheader", "--array", "--format=%i", f"--states={state}"]
    words += [f"--jobs={array}"] if array is not None else []
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@on_slurm
@pytest.mark.timeout(600)
def test_an_array_runs_every_job_once_in_order_of_need(tmp_path):
    jobs = [fake("fine", tmp_path, needs="pre"), fake("pre", tmp_path), fake("bad", tmp_path, trouble="user")]
    jobs += [fake(str(k), tmp_path, pace=0.3) for k in range(6)]
    Slurm(workers=2, **SMALL)(Launch("one", jobs, tmp_path))
    assert Counter(ran(tmp_path)) == Counter(job.id for job in jobs)
    assert sorted(recorded(tmp_path)) == sorted(job.id for job in jobs if job.id != "bad")
    assert ran(tmp_path).index("pre") < ran(tmp_path).index("fine")
    assert jobs[2].failed("one") is not None
    events = Reader(tmp_path).read()
    for log in {event.log for event in events if event.kind == "start"}:
        assert Path(log).parent == tmp_path / "slurm"
        assert Path(log).exists()


@on_slurm
@pytest.mark.timeout(600)
def test_a_worker_at_its_time_limit_is_requeued_and_resumes(tmp_path):
    """SLURM signals a worker before its limit, which is set once the worker is at work, however long it took to start.

    SLURM looks at limits every 30 seconds, so a signal 25 seconds before may come 55 seconds before.
    """
    job = fake("a", tmp_path, epochs=40_000, pace=0.1)
    Slurm(workers=1, **SMALL | {"time": 10}, signal_s=25, detach=True)(Launch("one", [job], tmp_path))
    [script] = (tmp_path / "slurm").glob("*_submission.sh")
    array = script.name.partition("_")[0]
    while not ran(tmp_path):
        assert tasks(array=array), "it did not start"
        time.sleep(0.2)
    [running] = tasks("RUNNING", array)
    limit(running, minutes=1 + (elapsed(running) + 30) // 60)
    while not (waiting := tasks("PENDING", array)):
        assert tasks(array=array), "it ended without being requeued"
        time.sleep(0.2)
    before = ran(tmp_path)
    assert 0 < len(before) < 40_000
    assert recorded(tmp_path) == []
    limit(waiting[0], minutes=10)
    subprocess.run(["scontrol", "update", f"JobId={waiting[0]}", "StartTime=now"], check=True)
    while len(ran(tmp_path)) == len(before):
        assert tasks(array=array), "it ended"
        time.sleep(0.2)
    assert ran(tmp_path)[len(before)] in (f"a{len(before)}", f"a{len(before) + 1}")  # not from the beginning
    subprocess.run(["scancel", waiting[0]], check=True)


def limit(task: str, minutes: int) -> None:
    subprocess.run(["scontrol", "update", f"JobId={task}", f"TimeLimit={minutes}"], check=True)


def elapsed(task: str) -> int:
    """Seconds since SLURM started it."""
    words = ["squeue", "--noheader", f"--jobs={task}", "--format=%M"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    parts = [int(part) for part in shown.replace("-", ":").split(":")]
    return sum(part * size for part, size in zip(reversed(parts), (1, 60, 3600, 86400), strict=False))


COMMAND = """
import sys
from pathlib import Path
from da_wa.launchers.slurm import Slurm
from da_wa.launchers.worker import Launch
from tests.launchers.fakes import fake

folder = Path(sys.argv[1])
jobs = [fake(str(k), folder, pace=0.5) for k in range(8)]
Slurm(workers=2, threads=1, cpus_per_worker=1, gpus_per_worker=0)(Launch("one", jobs, folder))
"""


@on_slurm
@pytest.mark.timeout(600)
def test_workers_outlive_a_command_that_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", COMMAND, tmp_path]) as command:
        while not ran(tmp_path):
            assert command.poll() is None
            time.sleep(0.1)
        command.send_signal(signal.SIGKILL)
    while len(recorded(tmp_path)) < 8:
        assert tasks(), "the workers ended"
        time.sleep(0.2)
    assert sorted(recorded(tmp_path)) == list("01234567")


@on_slurm
@pytest.mark.timeout(600)
def test_what_slurm_refuses_is_an_error_that_repeats_its_words(tmp_path):
    with pytest.raises(ConfigError, match="invalid partition"):
        Slurm(partition="nowhere", **SMALL)(Launch("one", [fake("a", tmp_path)], tmp_path))


@pytest.mark.parametrize("options", [{"workers": "auto"}, {"time": "soon"}, {"time": "1:2:3:4"}, {"lease_s": -1}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"launcher.{next(iter(options))}"):
        Slurm(**options)


@pytest.mark.parametrize(("time", "signal_s"), [(2, 120), ("2:00", 120), ("00:02:00", 300), (1, 60)])
def test_a_worker_has_time_before_its_signal(time, signal_s):
    """Else it would be requeued for ever; SLURM rounds seconds of a limit up to minutes."""
    with pytest.raises(ConfigError, match=f"launcher.time={time} is .* launcher.signal_s={signal_s} seconds before"):
        Slurm(time=time, signal_s=signal_s)
    Slurm(time=time, signal_s=59)
    Slurm(time="2:01", signal_s=120)


def test_without_slurm_the_error_says_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"slurm cluster\? Run the command on a login node .* launcher=local"):
        Slurm(**SMALL)(Launch("one", [fake("a", tmp_path)], tmp_path))


def test_options_reach_the_array(tmp_path, monkeypatch):
    """Of the submission file that submitit writes; ``sbatch`` is a script that accepts it."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        (programs / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    launcher = Slurm(
        workers=32, detach=True, partition="gpu", account="lab", qos="low", constraint="h100", time="02:00:00",
        gpus_per_worker=1, cpus_per_worker=6, mem_gb=12.5, setup=["module load cuda"], sbatch={"nice": 100},
    )  # fmt: skip
    job, *others = (fake(str(k), tmp_path) for k in range(24))
    launcher(Launch("one", [job, *others], tmp_path))
    (file,) = (tmp_path / "slurm").glob("*_submission.sh")
    lines = file.read_text().splitlines()
    for option in (
        "array=0-23%24", "partition=gpu", "account=lab", "qos=low", "constraint=h100", "time=120", "gpus-per-node=1",
        "cpus-per-task=6", "mem=12800M", "nice=100",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --requeue" in lines
    assert "module load cuda" in lines
    assert any(sys.executable in line and "srun" in line for line in lines)
    assert not isinstance(job.peek(), Done)
