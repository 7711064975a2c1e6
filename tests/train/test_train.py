"""One training: learns, repeats, resumes to the same numbers, can be interrupted, fails cleanly."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import Subset
from da_wa.data.mixed import mixed
from da_wa.data.splits import Full, Paper
from da_wa.errors import Diverged
from da_wa.models.fixup import Bias, Multiplier
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.settings import Settings
from da_wa.train.subsets import adaptation, pretraining, sample, transfer
from da_wa.train.train import Task, Trained, train


def same(one: Trained, other: Trained) -> None:
    assert one.curve == other.curve
    np.testing.assert_array_equal(one.outputs.epochs, other.outputs.epochs)
    assert list(one.outputs.domains) == list(other.outputs.domains)
    for name, domain in one.outputs.domains.items():
        for key in (
            "index",
            "labels",
            "logits",
            "predicted",
            "confidence",
            "feature_index",
            "features",
            "mixed_index",
            "mixed_logits",
        ):
            np.testing.assert_array_equal(getattr(domain, key), getattr(other.outputs.domains[name], key))


def test_it_learns_and_its_counts_are_those_of_its_logits(training, domains, tmp_path):
    trained = training(tmp_path)
    assert [row["epoch"] for row in trained.curve] == [1, 2, 3, 4]
    assert trained.outputs.epochs.tolist() == [2, 4]
    assert list(trained.outputs.domains) == ["A", "W", "D"]
    for domain in domains:
        outputs = trained.outputs.domains[domain.name]
        logits = torch.from_numpy(outputs.logits[-1].astype(np.float32))
        labels = torch.from_numpy(domain.labels[outputs.index])
        np.testing.assert_array_equal(outputs.labels, labels)
        expected = multiclass_accuracy(logits, labels, 3, average="micro")
        assert outputs.correct[-1] / len(labels) == pytest.approx(float(expected))
        probability = logits.softmax(1).max(1).values.numpy()
        np.testing.assert_allclose(outputs.confidence.astype(np.float32), probability, atol=2e-3)
    assert trained.outputs.domains["W"].correct[-1] > 32  # chance is 13 of 40
    assert len(trained.outputs.domains["A"].index) == 3  # a tenth of 14, 13 and 13 images, rounded
    assert len(trained.outputs.domains["D"].index) == 40


def test_the_same_seed_repeats_and_another_does_not(training, tmp_path):
    first, second = training(tmp_path / "1"), training(tmp_path / "2")
    same(first, second)
    assert first.curve != training(tmp_path / "3", seed=1).curve


def test_domains_that_are_streamed_give_the_same_numbers(training, domains, tmp_path):
    resident = training(tmp_path / "resident")
    for domain in domains:
        np.save(tmp_path / f"{domain.name}.npy", domain.pixels)
    mapped = [dataclasses.replace(d, pixels=np.load(tmp_path / f"{d.name}.npy", mmap_mode="r")) for d in domains]
    settings = Settings(accelerator="cpu", precision="32-true", channels_last=False, save_every_s=0.0, resident_gb=0.0)
    same(resident, training(tmp_path / "streamed", images=mapped, settings=settings))


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_training_that_is_cut_off_resumes_to_the_same_numbers(training, tmp_path, after):
    whole = training(tmp_path / "whole")

    def cut(done: int, total: int) -> None:
        if done == after:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        training(tmp_path / "cut", notify=cut)
    state = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    (before,) = (clock for clock in state["callbacks"].values() if "train_s" in clock)
    epochs: list[int] = []
    resumed = training(tmp_path / "cut", notify=lambda done, total: epochs.append(done))
    assert epochs == list(range(after + 1, 5))
    assert resumed.resumed_from == after
    same(whole, resumed)
    assert resumed.cost.flops == whole.cost.flops
    assert 0 < before["train_s"] < resumed.cost.train_s
    assert before["train_s"] + before["eval_s"] <= before["total_s"] < resumed.cost.total_s


def test_a_training_that_is_resumed_with_another_precision_says_so(training, tmp_path):
    def cut(done: int, total: int) -> None:
        raise RuntimeError("power cut")

    for precision in ("32-true", "32-true", "bf16-mixed"):
        settings = Settings(accelerator="cpu", precision=precision, channels_last=False, save_every_s=0.0)
        with pytest.raises(RuntimeError, match="power cut"):
            training(tmp_path, notify=cut, settings=settings)
    told = training(tmp_path, settings=settings).cost.environment()
    assert (told["precision"], told["device"]) == ("32-true, then bf16-mixed", "cpu")


def test_a_state_is_written_where_it_stays(training, tmp_path, monkeypatch):
    def no_temporary_files(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", no_temporary_files)
    saved: list[bool] = []
    training(tmp_path, notify=lambda done, total: saved.append((tmp_path / "last.ckpt").exists()))
    assert saved[:3] == [True] * 3


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_torn_training_state_is_not_used(training, tmp_path, content):
    whole = training(tmp_path / "whole")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "last.ckpt").write_bytes(content)
    same(whole, training(tmp_path / "torn"))


def test_what_a_process_that_was_killed_while_saving_left_is_removed(training, recipe, tmp_path):
    (tmp_path / ".last.ckpt.host.1.part").write_bytes(b"half")
    training(tmp_path, recipe=recipe(epochs=1))  # saves no state: there is nothing to resume after the last epoch
    assert not (tmp_path / ".last.ckpt.host.1.part").exists()


def test_an_epoch_is_told_before_a_state_is_saved_that_resumes_after_it(training, tmp_path):
    told: list[int] = []

    def tell(epoch: int) -> None:
        told.append(epoch)
        if told == [1, 2]:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        training(tmp_path, after_epoch=tell)
    assert training(tmp_path, after_epoch=tell).resumed_from == 1
    assert told == [1, 2, 2, 3, 4]


def test_a_loss_that_is_not_finite_ends_it_with_its_epoch_and_no_state(training, recipe, tmp_path):
    told: list[int] = []
    with pytest.raises(Diverged, match="epoch 1") as caught:
        training(tmp_path, recipe=recipe(lr=1e20), norm=Norm("Baseline"), after_epoch=told.append)
    assert told == []
    assert caught.value.epoch == 1
    assert caught.value.curve == []
    assert list(tmp_path.iterdir()) == []


def test_a_last_step_after_which_logits_are_not_finite_ends_it_with_its_epoch_and_no_state(training, recipe, tmp_path):
    """One step an epoch: its loss is finite, and the weights that it leaves are evaluated but not trained again."""
    one_step = recipe(lr=math.inf, epochs=1)
    with pytest.raises(Diverged, match="logits of A were not finite in epoch 1") as caught:
        training(tmp_path, recipe=dataclasses.replace(one_step, batch_size=36), norm=Norm("Baseline"))
    assert (caught.value.epoch, caught.value.curve) == (1, [])
    assert list(tmp_path.iterdir()) == []


def test_the_last_epoch_is_always_evaluated(training, recipe, tmp_path):
    assert training(tmp_path, recipe=recipe(epochs=5, evaluations=2)).outputs.epochs.tolist() == [3, 5]


@pytest.mark.parametrize(("epochs", "evaluations"), [(11, 6), (7, 3), (12, 3), (3, 5), (30, 6)])
def test_there_are_at_most_as_many_evaluations_as_asked_for(recipe, epochs, evaluations):
    every = recipe(epochs=epochs, evaluations=evaluations).evaluate_every
    points = {*range(every, epochs + 1, every), epochs}
    assert len(points) <= evaluations


def test_features_are_those_of_the_trained_network_in_evaluation_mode(training, domains, tmp_path):
    model = ResNet(Norm("BN", nn.Conv2d, nn.BatchNorm2d), 3, block=BasicBlock, depths=[1, 1], widths=[4, 8])
    trained = training(tmp_path, model=model)
    model.eval()
    for domain in domains:
        outputs = trained.outputs.domains[domain.name]
        index = outputs.index[sample(len(outputs.index))]
        assert outputs.feature_index.tolist() == index.tolist()
        assert outputs.features.shape[:2] == (len(outputs.logits), len(index))
        images = (torch.from_numpy(domain.pixels[index]).float() / 255 - 0.5) / 0.25
        with torch.no_grad():
            expected = model.features(images).numpy()
        np.testing.assert_allclose(outputs.features[-1].astype(np.float32), expected, rtol=1e-2, atol=1e-3)
        if domain.name == "A":
            assert outputs.mixed_index is None
            continue
        made = mixed(Subset(domain, outputs.index), 200)
        assert outputs.mixed_index.tolist() == outputs.index[made.first].tolist()
        images = (torch.from_numpy(made.images.domain.pixels).float() / 255 - 0.5) / 0.25
        with torch.no_grad():
            expected = model(images).numpy()
        np.testing.assert_allclose(outputs.mixed_logits[-1].astype(np.float32), expected, rtol=1e-2, atol=2e-3)


def test_mixtures_are_of_two_different_images():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8)).astype(np.uint8)
    domain = DecodedDomain("T", pixels, np.arange(50) % 3, tuple(map(str, range(50))), "toy", ("a", "b", "c"))
    index = np.arange(5, 45)
    made = mixed(Subset(domain, index), 30)
    assert len(set(made.first.tolist())) == len(made.images) == 30
    values = made.images.domain.pixels.astype(float)
    for row, first in enumerate(made.first):
        second = [(values[row] - 0.55 * pixels[index[first]]) / 0.45 - pixels[j] for j in index]
        (partner,) = (k for k, rest in enumerate(second) if abs(rest).max() < 0.5 / 0.45 + 1e-4)
        assert partner != first


def test_pretraining_trains_on_all_images_or_on_those_that_are_not_held_out(domains):
    train, test = domains[:2]
    whole = pretraining(train, test)
    assert whole.train.domain is train
    assert whole.train.index.tolist() == list(range(40))
    assert [(s.domain, s.index.tolist()) for s in whole.evaluate] == [(test, list(range(40)))]
    part = pretraining(train, test, holdout=0.25)
    (held_out,) = part.evaluate
    assert held_out.domain is train
    assert np.bincount(held_out.labels).tolist() == [4, 3, 3]  # a quarter of 14, 13, 13, rounded half up
    assert sorted([*part.train.index, *held_out.index]) == list(range(40))


class Interrupting(ResNet):
    """Sends Ctrl-C to its own process in its first evaluation."""

    sent = False

    def features(self, x):
        if not self.training and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().features(x)


def test_ctrl_c_in_an_evaluation_is_a_keyboard_interrupt_to_resume_from(training, tmp_path):
    whole = training(tmp_path / "whole")
    torch.manual_seed(0)
    model = Interrupting(
        Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d), 3, block=BasicBlock, depths=[1, 1], widths=[4, 8]
    )
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "cut", model=model)
    assert model.sent
    assert signal.getsignal(signal.SIGINT) == handler  # the next Ctrl-C is heard, too
    resumed = training(tmp_path / "cut")
    assert resumed.resumed_from == 1
    same(whole, resumed)


SLURM = """
import sys
from pathlib import Path
import numpy as np
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.splits import Full
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.train import schedule
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings
from da_wa.train.subsets import adaptation, transfer
from da_wa.train.train import Task, train

folder, labels = Path(sys.argv[1]), np.arange(20) % 2
pixels = np.random.default_rng(0).integers(0, 255, (20, 3, 8, 8), np.uint8)
domains = [DecodedDomain(n, pixels, labels, tuple(map(str, range(20))), n, ("a", "b")) for n in "AB"]
task = Task(
    ResNet(Norm("BN", nn.Conv2d, nn.BatchNorm2d), 2, block=BasicBlock, depths=[1], widths=[4]),
    transfer(domains, "A", Full(0.2), 0),
    Normalize([0.5] * 3, [0.25] * 3),
    Settings("cpu", precision="32-true"),
    seed=0,
    state=folder / "last.ckpt",
    loggers=[CSVLogger(folder, name="", version="")],
)
train(Recipe(2, 8, lambda groups: torch.optim.SGD(groups, lr=0.01), schedule.constant, Augment()), task)
"""


@pytest.mark.timeout(600)
def test_a_task_of_a_slurm_allocation_is_one_process_that_writes_its_log(tmp_path):
    """``sbatch --ntasks=4`` sets the variables, and ``srun`` is there without being used."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "srun").write_text("#!/bin/sh\nexit 1\n")
    (commands / "srun").chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "table",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "0",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "node1",
        "SLURM_STEP_ID": "0",
    }
    environment = {
        **os.environ,
        **slurm,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run([sys.executable, "-c", SLURM, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "srun" not in done.stderr
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert "train/loss" in header
    assert len(rows) >= 2


def test_labels_are_smoothed(training, recipe, domains, tmp_path):
    """The target is (1 - e) one_hot + e / K (Szegedy et al. 2016, Sec. 7); logits are equal for all images."""
    model = ResNet(Norm("BN", nn.Conv2d, nn.BatchNorm2d), 3, block=BasicBlock, depths=[1], widths=[4])
    source = transfer(domains, "A", Full(0.1), 0).train
    bias = np.array([2.0, 0.0, -1.0])
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.from_numpy(bias))
    whole = dataclasses.replace(recipe(lr=0.0, epochs=1), batch_size=len(source), label_smoothing=0.3)
    target = 0.7 * np.eye(3)[source.labels] + 0.3 / 3
    expected = -(target @ (bias - np.log(np.exp(bias).sum()))).mean()
    assert training(tmp_path, model=model, recipe=whole).curve[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_papers_protocol_evaluates_the_holdout_of_the_seed(domains):
    protocol = Paper(0.25)
    for subset in transfer(domains, "A", protocol, 3).evaluate:
        holdout = protocol.source(subset.domain.name, subset.domain.labels, 3).holdout
        assert sorted(subset.index) == sorted(holdout)
    target = adaptation(domains, "A", "W", protocol, 3, with_source=True).target
    assert sorted(target.index) == sorted(protocol.source("W", domains[1].labels, 3).holdout)


@pytest.mark.parametrize("backbone", [1.0, 0.1])
@pytest.mark.parametrize("norm", ["bn_wa", "fixup"])
def test_decay_reaches_every_parameter_and_fixups_scalars_learn_at_a_tenth(
    monkeypatch, recipe, domains, tmp_path, norm, backbone
):
    """Without a gradient SGD leaves ``w · (1 - rate · decay)`` after a step.

    Decay reaches gains too (Sec. IV-C of the paper), and Fixup's scalars as in its authors' code.
    """
    made = {
        "bn_wa": Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d),
        "fixup": Norm("WA", WeightAlignConv2d, None),
    }[norm]
    model = ResNet(made, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    monkeypatch.setattr("da_wa.train.train.cross_entropy", lambda smoothing: lambda logits, labels: 0 * logits.sum())
    decaying = dataclasses.replace(
        recipe(epochs=1),
        optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.5),
        schedule=schedule.constant,
        backbone_rate=backbone,
    )
    task = Task(
        model,
        transfer(domains, "A", Full(0.1), 0),
        Normalize([0.5] * 3, [0.25] * 3),
        Settings(accelerator="cpu", precision="32-true"),
        seed=0,
        state=tmp_path / "last.ckpt",
    )
    train(decaying, task)
    steps = 37 // 8
    scalars = {f"{name}.value" for name, m in model.named_modules() if isinstance(m, (Bias, Multiplier))}
    assert bool(scalars) == (norm == "fixup")
    assert any(name.endswith("gain") for name in before)
    for name, p in model.named_parameters():
        rate = 0.1 if name.startswith("head.") else backbone * (0.01 if name in scalars else 0.1)
        torch.testing.assert_close(p.detach(), before[name] * (1 - rate * 0.5) ** steps, msg=name)
