"""What executing a job leaves on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from da_wa.config.compose import compose
from da_wa.errors import DiskFull
from da_wa.models.checkpoint import read_header
from da_wa.runs.execute import execute
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import Diverged, Done, PretrainJob, UnitJob
from da_wa.runs.plan import plan
from da_wa.runs.predict import predictor
from da_wa.train import precision
from da_wa.train.progress import epochs_in

FULL = Path("/dev/full")


def planned(folder, cifar_root, *options):
    experiment = compose(
        [
            "data=digits", "data.per_class=2", "data.size=8", "model=resnet20", "sources=[H]", "seeds=[0]",
            "protocol.holdout=0.5", "finetune.epochs=1", "finetune.batch_size=4", "finetune.evaluations=1",
            f"pretrain.root={cifar_root}", "pretrain.verify=false", "pretrain.download=false", "pretrain.size=8",
            "pretrain.recipe.epochs=1", "pretrain.recipe.batch_size=4", "trainer.accelerator=cpu",
            "trainer.precision=32-true", f"cache_dir={folder}/cache", *options,
        ]
    )  # fmt: skip
    inputs = Inputs(experiment.cfg["data"], folder / "cache")
    assert len(inputs.decoded) == 3
    jobs = plan(experiment, inputs.manifests, folder / "out", folder / "networks")
    for job in jobs:
        job.register()
    return jobs


def silent(done: int, epochs: int) -> None:
    pass


@pytest.mark.timeout(600)
def test_a_pretraining_leaves_a_network_and_the_unit_starts_from_it(tmp_path, cifar_root):
    first, unit = planned(tmp_path, cifar_root, "norms=[bn]")
    assert isinstance(first, PretrainJob)
    assert isinstance(unit, UnitJob)
    assert unit.waits_for() == first.id
    first.fail("an earlier attempt")
    execute(first, silent)
    assert first.state() == Done()
    assert sorted(path.name for path in first.path.parent.iterdir()) == [f"{first.id}.safetensors"]
    header = read_header(first.path)
    assert header.facts == first.config["facts"]
    assert (header.result["n"], header.result["epochs"]) == (16, 1)  # four test images of each of four classes
    execute(unit, silent)
    assert unit.state() == Done()
    record = unit.directory.record()
    assert record.pretraining.name == first.id
    assert record.pretraining.correct == header.result["correct"]
    assert {name for name, n in ((r.domain, r.n) for r in record.evaluations)} == {"H", "N", "P"}


@pytest.mark.timeout(600)
def test_what_starts_from_a_converted_network_is_converted_too(tmp_path, cifar_root):
    """Adaptation at a rate of 0 leaves the network of the source; a prediction is that of the run."""
    options = ["norms=[bn,evonorm_s0,wa]", "pretrain.norm=bn", "methods=[shot]", "keep=[weights,logits]"]
    first, *jobs = planned(tmp_path, cifar_root, *options, "method.shot.recipe.optimizer.lr=0")
    execute(first, silent)
    pixels = {domain.name: domain.pixels for domain in Inputs(jobs[0].config["data"], tmp_path / "cache").decoded}
    of_source = {}
    for job in jobs:
        norm, target = (job.config["unit"]["factors"]["norm"], job.config["unit"]["target"])
        if norm == "bn":  # the statistics of a BatchNorm change at any rate
            continue
        execute(job, silent)
        record, outputs = job.directory.load()
        source, before = of_source.setdefault(norm, (record, outputs))
        assert record.starts_from == (source.id if target else None)
        assert (record.parameters, record.conversion) == (source.parameters, source.conversion)
        found, known = (made.domains[target or "N"] for made in (outputs, before))
        rows = np.isin(known.index, found.index)
        np.testing.assert_allclose(found.logits[-1], known.logits[-1][rows], rtol=0.01, atol=0.01)
        logits = predictor(job.directory)(torch.from_numpy(pixels[target or "N"][found.index]))
        np.testing.assert_allclose(logits.numpy(), found.logits[-1], rtol=0.01, atol=0.01)
    assert list(of_source) == ["evonorm_s0", "wa"]


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL.exists(), reason="needs a full device")
def test_a_full_disk_costs_no_trained_network(tmp_path, cifar_root, monkeypatch):
    options = ["norms=[bn]", "pretrain.recipe.epochs=2", "trainer.save_every_s=0"]
    first, _ = planned(tmp_path, cifar_root, *options)
    opened = Path.open

    def full(path, *args, **options):
        return opened(FULL if ".safetensors" in path.name else path, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="choose another folder with checkpoint_dir=DIR"):
        patch.setattr(Path, "open", full)
        execute(first, silent)
    state = first.path.with_suffix(".ckpt")
    assert list(first.path.parent.iterdir()) == [state]
    assert epochs_in(state) == 1
    execute(first, silent)
    assert first.state() == Done()


@pytest.mark.timeout(600)
def test_trainings_that_diverge_say_so_and_leave_nothing_to_resume(tmp_path, cifar_root):
    first, _ = planned(tmp_path, cifar_root, "norms=[none]", "pretrain.recipe.optimizer.lr=1e30")
    execute(first, silent)
    assert isinstance(first.state(), Diverged)
    known = first.divergence()
    assert known["error"]["epoch"] == 1
    assert known["provenance"]["device"] == "cpu"
    assert f"(trainer.precision={known['provenance']['precision']}); try " in first.state().reason
    assert not first.path.with_suffix(".ckpt").exists()
    (unit,) = planned(tmp_path / "2", cifar_root, "norms=[none]", "pretrain.recipe=null", "finetune.optimizer.lr=1e30")
    execute(unit, silent)
    assert isinstance(unit.state(), Diverged)
    record = unit.directory.record()
    assert (record.status, record.evaluations, record.error.epoch) == ("diverged", [], 1)
    assert record.provenance["precision"] == known["provenance"]["precision"]
    assert f"(trainer.precision={record.provenance['precision']}); try " in unit.state().reason
    assert not (unit.directory.path / "last.ckpt").exists()


@pytest.mark.timeout(600)
def test_all_norms_of_a_backbone_have_one_precision(tmp_path, cifar_root, monkeypatch):
    """Also those with another memory layout, for which the other precision is faster."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    measured = []

    def seconds(model, images, settings, name):
        measured.append(name)
        grouped = any(isinstance(layer, nn.GroupNorm) for layer in model.modules())
        return float((name == "32-true") is not grouped)

    monkeypatch.setattr(precision, "step_seconds", seconds)
    jobs = planned(tmp_path, cifar_root, "norms=[wa,gn,bn]", "trainer.precision=auto")
    for job in jobs:
        execute(job, silent)
    records = [job.directory.record() for job in jobs if isinstance(job, UnitJob)]
    assert [record.provenance["precision"] for record in records] == ["bf16-mixed"] * 3
    assert measured == ["32-true", "bf16-mixed"]
