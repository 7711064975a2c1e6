"""The state of a job is what lies on disk, whoever asks."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from da_wa.errors import DataError
from da_wa.launchers.events import Event
from da_wa.launchers.worker import work
from da_wa.records.outputs import Outputs, from_logits
from da_wa.records.schema import Divergence, Evaluation, Factors, Record
from da_wa.records.store import Store
from da_wa.runs.jobs import Diverged, Done, Failed, PretrainJob, Ready, Running, UnitJob, Waiting

FACTORS = Factors(norm="bn", model="resnet20", dataset="digits", protocol="full", size=8, seed=0)


def unit(folder: Path, start: Path | None = None) -> UnitJob:
    plan = {"factors": FACTORS.model_dump(), "source": "A", "domains": ["A", "W"]}
    job = UnitJob("bn-A-s0", {"unit": plan}, 1.0, Store(folder).run("bn-A-s0"), start)
    job.register()
    return job


def pretraining(folder: Path) -> PretrainJob:
    job = PretrainJob("net", {}, 1.0, folder / "networks" / "net.safetensors")
    job.register()
    return job


def finish(job: UnitJob, error: Divergence | None = None, precision: str = "32-true") -> None:
    logits = np.eye(2)[None]
    outputs = Outputs(np.array([1], np.int32), {"W": from_logits(np.arange(2), np.arange(2), logits)})
    finished = Evaluation(domain="W", role="target", epoch=1, correct=2, n=2)
    record = Record(
        id=job.id,
        status="finished" if error is None else "diverged",
        factors=FACTORS,
        source="A",
        domains=["A", "W"],
        classes=["a", "b"],
        images={},
        experiment="x",
        evaluations=[finished] if error is None else [],
        provenance={"precision": precision},
        error=error,
    )
    job.directory.finish(record, outputs if error is None else Outputs(np.array([], np.int32)))


def test_a_unit_waits_for_its_network_and_then_is_ready(tmp_path):
    start = tmp_path / "net.safetensors"
    job = unit(tmp_path, start)
    assert job.state() == Waiting("net")
    start.touch()
    assert job.state() == Ready()
    assert unit(tmp_path / "untrained").state() == Ready()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", [unit, pretraining])
def test_a_job_that_another_process_holds_is_running_until_that_process_dies(make, tmp_path):
    job = make(tmp_path)
    code = (
        "import pickle, sys\njob = pickle.load(sys.stdin.buffer)\n"
        "with job.claim() as mine:\n    print(mine, flush=True)\n    sys.stdin.buffer.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as other:
        other.stdin.write(pickle.dumps(job))
        other.stdin.flush()
        assert other.stdout.readline() == b"True\n"
        assert job.state() == Running()
        with job.claim() as mine:
            assert not mine
        other.kill()
    assert job.state() == Ready()
    with job.claim() as mine:
        assert mine


def test_a_unit_is_done_by_its_record_and_not_run_again(tmp_path):
    job = unit(tmp_path)
    job.fail("the disk was full")
    finish(job)
    assert job.state() == Done()
    assert job.done


def test_a_network_is_done_by_its_file_or_by_the_one_that_is_shipped(tmp_path, monkeypatch):
    job = pretraining(tmp_path)
    assert job.state() == Ready()
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setattr("da_wa.runs.jobs.CHECKPOINTS", shipped)
    (shipped / "net.safetensors").touch()
    assert job.state() == Done()
    assert job.checkpoint == shipped / "net.safetensors"
    (shipped / "net.safetensors").rename(job.path)
    assert job.state() == Done()
    assert job.checkpoint == job.path


def test_a_failure_has_its_reason_and_is_known_to_the_command_that_saw_it(tmp_path):
    job = unit(tmp_path)
    job.fail("the disk is full", "first")
    assert job.state() == Failed("the disk is full", ["first"])
    assert job.failed("first") == job.state()
    assert job.failed("second") is None
    job.fail("no memory", "second")
    assert job.failed("first") == job.failed("second") == Failed("no memory", ["first", "second"])
    job.failure_file.write_text("torn")
    assert "cannot be read" in job.state().reason
    assert job.failed("first") is None


def test_a_failure_noted_by_an_earlier_version_belongs_to_no_command(tmp_path):
    job = unit(tmp_path)
    job.failure_file.write_text('{"message": "old", "time": "2026-01-01T00:00:00+00:00"}')
    assert job.state() == Failed("old", [])
    assert job.failed("first") is None


def forbidden(job, notify):
    raise AssertionError(f"{job.id} is tried again")


def test_a_unit_that_diverged_is_not_tried_again(tmp_path):
    job = unit(tmp_path)
    finish(job, Divergence(epoch=3, message="the loss was nan"))
    assert job.state() == Diverged("the loss was nan (epoch 3)")
    events: list[Event] = []
    work([job], forbidden, events.append, "one")
    assert [(e.kind, e.message) for e in events] == [("failed", "the loss was nan (epoch 3)")]


def test_a_pretraining_that_diverged_is_not_tried_again_and_fails_what_starts_from_it(tmp_path):
    job = pretraining(tmp_path)
    known = {"error": {"epoch": 2, "message": "the loss was inf"}, "curve": [], "provenance": {}}
    job.diverged_file.write_text(json.dumps(known))
    state = job.state()
    assert isinstance(state, Diverged)
    assert state.reason.startswith("the loss was inf; delete ")
    assert job.divergence() == known
    waiting = unit(tmp_path, job.path)
    events: list[Event] = []
    work([job, waiting], forbidden, events.append, "one")
    assert [(e.kind, e.job) for e in events] == [("failed", "net"), ("failed", "bn-A-s0")]
    assert "net, which it starts from, failed: the loss was inf" in events[1].message
    job.diverged_file.unlink()
    assert job.state() == Ready()


def asking(job, precision: str):
    """The same job of a command with ``trainer.precision``."""
    return replace(job, config={**job.config, "trainer": {"precision": precision}})


def test_a_unit_that_diverged_is_tried_again_in_another_precision_that_a_command_sets(tmp_path):
    job = unit(tmp_path)
    finish(job, Divergence(epoch=3, message="the loss was nan"), "bf16-mixed")
    for same in ("auto", "bf16-mixed"):
        asking(job, same).register()
        assert isinstance(asking(job, same).state(), Diverged)
    other = asking(job, "32-true")
    assert other.state() == Ready()
    other.register()
    assert job.state() == Ready()  # for everyone, as for workers and da-wa status
    assert job.peek() is None
    assert (job.directory.path / "record.diverged").exists()
    assert job.directory.config()["trainer"] == {"precision": "32-true"}
    finish(job, Divergence(epoch=3, message="the loss was nan"), "32-true")
    assert isinstance(other.state(), Diverged)


def test_a_unit_that_adapts_another_ones_network_is_not_tried_again_in_another_precision(tmp_path):
    """That network was trained in the earlier precision, and is deleted when nothing waits for it."""
    job = replace(unit(tmp_path), needs="bn-A-s0")
    finish(job, Divergence(epoch=3, message="the loss was nan"), "bf16-mixed")
    asking(job, "32-true").register()
    assert isinstance(asking(job, "32-true").state(), Diverged)
    assert job.directory.record() is not None


def test_a_pretraining_that_diverged_is_tried_again_in_another_precision_that_a_command_sets(tmp_path):
    job = pretraining(tmp_path)
    computed = {"provenance": {"precision": "bf16-mixed"}}
    job.diverged_file.write_text(json.dumps({"error": {"epoch": 2, "message": "inf"}, "curve": []} | computed))
    for same in ("auto", "bf16-mixed"):
        asking(job, same).register()
        assert isinstance(asking(job, same).state(), Diverged)
    asking(job, "32-true").register()
    assert job.state() == Ready()


def test_the_check_of_labels_can_be_taken_back_before_a_unit_is_finished(tmp_path):
    job = unit(tmp_path)
    checked = replace(job, config={**job.config, "label_firewall": True, "keep": ["weights"]})
    checked.register()
    assert checked.asked()["label_firewall"]
    job.register()
    assert not job.asked()["label_firewall"]
    assert job.asked()["keep"] == ["weights"]  # of all commands
    assert not job.directory.config()["label_firewall"]


def test_a_folder_that_may_not_be_entered_holds_nothing(tmp_path, monkeypatch):
    """As the networks of somebody else's command, for ``da-wa status``."""
    private, stat = tmp_path / "private", os.stat

    def refused(path, *args, **options):
        if str(path).startswith(str(private)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refused)
    assert unit(tmp_path, private / "net.safetensors").state() == Waiting("net")
    assert PretrainJob("net", {}, 1.0, private / "net.safetensors").state() == Ready()


@pytest.mark.parametrize("content", ["torn", "[]", "{}", '{"error": {"epoch": 1}}'])
def test_a_divergence_that_cannot_be_read_says_what_to_do(content, tmp_path):
    job = pretraining(tmp_path)
    job.diverged_file.write_text(content)
    with pytest.raises(DataError, match="delete it to train again"):
        job.state()


def test_a_folder_that_cannot_be_made_names_the_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="checkpoint_dir=DIR"):
        pretraining(tmp_path / "file")
