"""What the command does around its workers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.errors import ConfigError, UserError
from da_wa.launchers import launch as launch_module
from da_wa.launchers.events import Reader
from da_wa.launchers.launch import Planned
from da_wa.launchers.slurm import Slurm
from da_wa.launchers.worker import Launch, run_worker
from da_wa.records.store import Store
from da_wa.runs.jobs import Diverged, UnitJob
from tests.launchers.fakes import fake, ran

pytestmark = pytest.mark.timeout(600)
LOCAL = {"_target_": "da_wa.launchers.local.Local"}


def options(tmp_path) -> list[str]:
    return [
        "experiment=demo", "norms=[bn]", "sources=[P]", "finetune.epochs=1", "report.images=false",
        "launcher.threads=1", f"out={tmp_path / 'out'}", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip


def test_a_detached_command_submits_and_another_launcher_finishes(tmp_path, monkeypatch, capsys):
    submitted: list[Launch] = []
    monkeypatch.setattr(Slurm, "_submit", lambda self, launch: submitted.append(launch) or "7")
    assert main([*options(tmp_path), "launcher=slurm", "launcher.detach=true"]) == 0
    printed = capsys.readouterr().out
    assert f"da-wa watch out={tmp_path / 'out'}" in printed
    assert not (tmp_path / "out" / "accuracy.csv").exists()
    (job,) = submitted[0].jobs
    assert job.directory.path.is_absolute()
    assert main([*options(tmp_path), "launcher=local", "launcher.workers=1"]) == 0
    assert (tmp_path / "out" / "accuracy.csv").exists()
    assert main([*options(tmp_path), "launcher=slurm", "launcher.detach=true"]) == 0
    assert len(submitted) == 1  # nothing is left to submit
    assert "The report is in" in capsys.readouterr().out


def test_devices_are_those_of_the_worker(tmp_path, monkeypatch):
    """A login node need not have what the nodes have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Slurm, "__call__", lambda self, launch: run_worker(launch, 1))
    assert main([*options(tmp_path), "trainer.accelerator=gpu", "launcher.workers=1"]) == 2
    assert Reader(tmp_path / "out").read() == []
    assert main([*options(tmp_path), "trainer.accelerator=gpu", "launcher=slurm"]) == 2
    assert [event.kind for event in Reader(tmp_path / "out").read()] == ["lost"]


def test_a_worker_in_a_folder_that_its_machine_lacks_says_so(tmp_path):
    launch = Launch("one", [fake("a", tmp_path)], tmp_path, cwd=tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"elsewhere cannot be opened on .* all machines share"):
        run_worker(launch, 1)
    assert ran(tmp_path) == []


@pytest.mark.parametrize(("launcher", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_without_its_package_names_the_extra(launcher, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*options(tmp_path), f"launcher={launcher}"]) == 2
    assert f"uv sync --extra {launcher} in a clone" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_worker_leaves_torch_as_it_was(tmp_path, monkeypatch):
    """It may run in a notebook, ``api.run``."""
    seen = []

    def training(job, notify):
        seen.append(torch.get_num_threads())
        torch.use_deterministic_algorithms(True)
        raise UserError("failed")

    monkeypatch.setattr("da_wa.runs.execute.execute", training)
    before = torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        run_worker(Launch("one", [fake("a", tmp_path)], tmp_path), before + 1)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    run_worker(Launch("two", [fake("b", tmp_path)], tmp_path), before + 1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before


def test_a_command_whose_runs_are_finished_succeeds_whatever_others_planned(tmp_path, capsys):
    words = [*options(tmp_path), "launcher.workers=1"]
    assert main(words) == 0
    (run,) = Store(tmp_path / "out").runs()
    other = run.config()
    other["unit"]["factors"]["seed"] = 9
    Store(tmp_path / "out").run("bn-P-s9").plan(other)
    assert main(words) == 0
    assert "seed 9: not finished" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "out")]) == 1


def test_networks_that_no_run_needs_any_more_are_deleted_by_the_next_command(tmp_path, monkeypatch):
    """Nobody could delete them when the last run of a detached command ended."""
    store = Store(tmp_path)
    source, adapted = store.run("source"), store.run("adapted")
    job = UnitJob("source", {}, 1.0, source, None, dependents=[adapted])
    for run in (source, adapted):
        run.plan({})
        (run.path / "record.json").write_text("{}")
    job.weights.touch()
    monkeypatch.setattr(UnitJob, "outcome", UnitJob.peek)
    experiment = compose([f"out={tmp_path}"])
    launch_module.launch(Planned(experiment, None, [job]), Console(quiet=True))
    assert not job.weights.exists()


def test_a_damaged_result_is_run_again(tmp_path):
    """Workers trust what others finished; what was damaged before is set aside first."""
    assert main([*options(tmp_path), "launcher.workers=1"]) == 0
    (record,) = (tmp_path / "out" / "runs").glob("*/record.json")
    table = (tmp_path / "out" / "accuracy.csv").read_bytes()
    outputs = record.with_name("outputs.npz")
    outputs.write_bytes(outputs.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged"):
        assert main([*options(tmp_path), "launcher.workers=1"]) == 0
    assert (tmp_path / "out" / "accuracy.csv").read_bytes() == table
    assert record.with_name("record.damaged").exists()


def test_seeds_are_added_until_the_deadline_of_the_command(tmp_path, monkeypatch):
    """Every round has what the rounds before have left."""
    now, limits = [1000.0], []

    def run(planned, console, jobs, launch_id):
        limits.append(planned.experiment.cfg["launcher"]["deadline_s"])
        now[0] += 400
        jobs[0].done = True

    class Endless:
        experiment = SimpleNamespace(auto=True, cfg={"launcher": LOCAL | {"deadline_s": 600}, "report": {}})
        jobs = merged = ()
        detached = False

        @property
        def needed(self):
            return [SimpleNamespace(done=False, waits_for=lambda: None)]

    monkeypatch.setattr(launch_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(launch_module, "_run", run)
    monkeypatch.setattr(launch_module, "state", lambda jobs, contrasts: "")
    launch_module.launch(Endless(), Console(quiet=True))
    assert limits == [600, 200]
    assert Endless.experiment.cfg["launcher"]["deadline_s"] == 600


def test_a_submitted_command_ends_when_only_diverged_runs_have_no_result(tmp_path):
    experiment = compose(["launcher=slurm", "launcher.detach=true"])
    diverged = SimpleNamespace(id="a", done=True, outcome=lambda: Diverged("NaN"), waits_for=lambda: None)
    running = SimpleNamespace(id="b", done=False, outcome=lambda: None, waits_for=lambda: None)
    blocked = SimpleNamespace(id="c", done=False, outcome=lambda: None, waits_for=lambda: "a")
    ended, going = (Planned(experiment, None, jobs) for jobs in ([diverged, blocked], [diverged, running]))
    assert ended.unfinished == [diverged, blocked]
    assert not ended.submitted
    assert going.submitted
