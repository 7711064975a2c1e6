"""Segmentation: files, joint augmentation, DeepLabv3, intersection over union, and the study at its smallest."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import ExifTags, Image, ImageFile
from rich.console import Console
from scipy import stats
from torch import nn
from torch._dynamo.utils import counters
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.models import get_model_weights

from da_wa.cli import main
from da_wa.config.make import make
from da_wa.data.augment import Normalize
from da_wa.data.mask_augment import ScaleCropFlip
from da_wa.data.masks import VOID, MaskedImages, Pair, listing, load_split, read_pair
from da_wa.errors import ConfigError, DataError, Diverged, UserError
from da_wa.models.deeplab import deeplabv3_resnet20, deeplabv3_resnet50
from da_wa.norm import named
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.records.design import Design, read_design, write_design
from da_wa.records.lease import LeaseLost
from da_wa.records.segmentation import Outputs, SegmentationRecord, read_run, write_run
from da_wa.report.claims_page import write_claims
from da_wa.report.iou import class_iou, combination, interval, mean_iou
from da_wa.report.segmentation import read_scores, segmentation_table, write_segmentation
from da_wa.shipped import conf_dir
from da_wa.studies.segmentation import Run, Segmentation, _Work
from da_wa.studies.study import Bench, Paused
from da_wa.tasks.segmentation import (
    ImageConfusion,
    SegmentationRecipe,
    Segmenter,
    pixel_cross_entropy,
    train_segmentation,
)
from da_wa.train.progress import Notify
from da_wa.train.settings import Settings


def draw_pair(folder: Path, name: str, labels: np.ndarray) -> Pair:
    """An image whose colours are its labels, with noise, and its mask."""
    pair = Pair(folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png")
    for path in (pair.image, pair.mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 30, (*labels.shape, 3))
    Image.fromarray((60 * (labels[..., None] % 4) + noise).astype(np.uint8)).save(pair.image)
    Image.fromarray(labels.astype(np.uint8)).save(pair.mask)
    return pair


@pytest.fixture(scope="module")
def camvid(tmp_path_factory) -> Path:
    """Four images per split: left and right halves, a square, and a void row."""
    root = tmp_path_factory.mktemp("camvid")
    for split in ("train", "val", "test"):
        for number in range(4):
            labels = np.zeros((24, 32), np.uint8)
            labels[:, 16:], labels[4 + number : 12 + number, 4:12], labels[0] = 1, 2, 11
            draw_pair(root / split, f"street{number}", labels)
    return root


def whole(masks: torch.Tensor) -> torch.Tensor:
    """The sizes of images that are as large as the largest one."""
    return torch.tensor(masks.shape[1:]).repeat(len(masks), 1)


def padded(sizes: list[tuple[int, int]], height: int, width: int) -> MaskedImages:
    """Images of several sizes without void pixels; what is beside them is white."""
    images = torch.full((len(sizes), 3, height, width), 255, dtype=torch.uint8)
    masks = torch.full((len(sizes), height, width), VOID, dtype=torch.uint8)
    draw = torch.Generator().manual_seed(0)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randint(0, 256, (3, h, w), generator=draw)
        masks[i, :h, :w] = torch.randint(0, 3, (h, w), generator=draw)
    return MaskedImages([str(i) for i in range(len(sizes))], images, masks, torch.tensor(sizes))


def alone(data: MaskedImages, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of one image, cut to its size."""
    h, w = data.sizes[index].tolist()
    one = slice(index, index + 1)
    return data.images[one, :, :h, :w], data.masks[one, :h, :w], data.sizes[one]


def study() -> Segmentation:
    return make(yaml.safe_load((conf_dir() / "study" / "voc.yaml").read_text()))


# Intersection over union


def random_labels(seed: int = 0, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and truth of six images; class 3 is in neither, a tenth of the pixels is void."""
    draw = np.random.default_rng(seed)
    known = [c for c in range(classes) if c != 3]
    truth, predicted = (torch.from_numpy(draw.choice(known, (6, 20, 30))) for _ in range(2))
    predicted = torch.where(torch.from_numpy(draw.random((6, 20, 30)) < 0.6), truth, predicted)
    return predicted, torch.where(torch.from_numpy(draw.random((6, 20, 30)) < 0.1), VOID, truth)


def test_mean_iou_is_that_of_torchmetrics_and_of_sets_of_pixels():
    predicted, truth = random_labels()
    metric = ImageConfusion(5)
    metric.update(predicted[:4], truth[:4])
    metric.update(predicted[4:], truth[4:])
    confusion = metric.compute().numpy()
    peer = MulticlassJaccardIndex(5, ignore_index=VOID, average="macro")
    assert mean_iou(confusion.sum(0)) == pytest.approx(float(peer(predicted, truth)), abs=1e-6)
    counted = (truth != VOID).numpy()
    p, t = predicted.numpy()[counted], truth.numpy()[counted]
    of_sets = [np.sum((p == k) & (t == k)) / np.sum((p == k) | (t == k)) for k in (0, 1, 2, 4)]
    assert class_iou(confusion.sum(0))[[0, 1, 2, 4]] == pytest.approx(of_sets, abs=1e-12)
    assert mean_iou(confusion.sum(0)) == pytest.approx(np.mean(of_sets), abs=1e-12)
    for image in range(6):
        assert confusion[image].sum() == counted[image].sum()


def test_void_pixels_count_neither_in_the_metric_nor_in_the_loss():
    predicted, truth = random_labels()
    void = truth == VOID
    first, second = ImageConfusion(5), ImageConfusion(5)
    first.update(predicted, truth)
    second.update(torch.where(void, (predicted + 1) % 5, predicted), truth)
    assert torch.equal(first.compute(), second.compute())
    logits = torch.randn(6, 5, 20, 30, dtype=torch.float64, requires_grad=True)
    loss = pixel_cross_entropy(logits, truth)
    log_p = logits.detach().log_softmax(1).movedim(1, -1)[~void]
    expected = -log_p.gather(1, truth[~void][:, None]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    assert logits.grad.movedim(1, -1)[void].abs().sum() == 0
    assert pixel_cross_entropy(logits, torch.full_like(truth, VOID)).item() == 0


def test_the_interval_is_that_of_seeds_and_images_and_pairs_differences():
    draw = np.random.default_rng(1)
    confusion = draw.integers(0, 50, (3, 40, 4, 4)) + 100 * np.eye(4, dtype=int)
    assert interval(confusion).value == pytest.approx(np.mean(mean_iou(confusion.sum(1))))
    nothing, precision = combination([(1.0, confusion), (-1.0, confusion)])
    assert (nothing, precision.half_width()) == (0, 0)
    # One seed: the bootstrap's standard error is near the jackknife's, of the same images.
    one = confusion[:1]
    without = np.array([mean_iou(np.delete(one[0], i, 0).sum(0)) for i in range(40)])
    jackknife = np.sqrt(39 / 40 * np.sum((without - without.mean()) ** 2))
    assert interval(one).half == pytest.approx(1.96 * jackknife, rel=0.15)
    # Equal images: only seeds differ, so t of the seeds' mean.
    values = [np.eye(4, dtype=int) * 90 + k for k in (1, 3, 8)]
    same = np.stack([np.repeat(v[None], 40, 0) for v in values])
    means = mean_iou(same.sum(1))
    assert interval(same).half == pytest.approx(4.302653 * means.std(ddof=1) / 3**0.5, rel=1e-4)
    # Both: their variances add up, with Satterthwaite's degrees of freedom.
    both = np.stack([confusion[0] + shift * np.eye(4, dtype=int) for shift in range(0, 50, 5)])
    of_seeds = mean_iou(both.sum(1)).var(ddof=1) / 10
    left_out = np.array([mean_iou(np.delete(both, i, 1).sum(1)).mean() for i in range(40)])
    of_images = 39 / 40 * np.sum((left_out - left_out.mean()) ** 2)
    assert 0.3 < of_seeds / of_images < 3
    df = (of_seeds + of_images) ** 2 / (of_seeds**2 / 9)
    assert interval(both).half == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(of_seeds + of_images), rel=0.1)


class Copier(nn.Module):
    """Predicts the red value of a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = -(x[:, :1] - torch.arange(3.0, device=x.device)[:, None, None]).abs()
        return near * self.scale


def test_a_model_that_copies_the_mask_has_an_mean_iou_of_1(tmp_path):
    masks = torch.randint(0, 3, (4, 16, 20), dtype=torch.uint8)
    masks[:, 0] = VOID
    data = MaskedImages(list("abcd"), masks.clamp(max=2)[:, None].repeat(1, 3, 1, 1), masks, whole(masks))
    recipe = SegmentationRecipe(1, 2, 1e-9, 0.0, 0.0, 0.9, (8, 8), (1.0, 1.0))
    to_labels = Normalize([0.0] * 3, [1 / 255] * 3)
    found = train_segmentation(
        Copier(), data, data, 3, recipe, Settings("cpu"), to_labels, 0, tmp_path / "state", shown=3
    )
    assert mean_iou(found.confusion.sum(0)) == 1
    assert np.array_equal(found.predicted[masks[:3].numpy() != VOID], masks[:3].numpy()[masks[:3].numpy() != VOID])


class Neighbours(nn.Module):
    """Logits of a pixel depend on its neighbours and on the mean of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.layer(x).mean((2, 3), keepdim=True).sign()


def test_the_evaluation_of_an_image_does_not_depend_on_the_sizes_of_others():
    data = padded([(6, 8), (9, 5), (6, 8), (9, 11)], 9, 11)
    recipe = SegmentationRecipe(1, 2, 0.1, 0.0, 0.0, 0.9, (8, 8), (1.0, 1.0))
    torch.manual_seed(0)
    model = Neighbours().eval()

    def evaluated(*batches) -> Segmenter:
        segmenter = Segmenter(model, 3, recipe, Normalize([0.5] * 3, [0.25] * 3), 0, shown=3)
        with torch.no_grad():
            for number, batch in enumerate(batches):
                segmenter.test_step(batch, number)
        return segmenter

    together = evaluated(data[range(4)])
    apart = [evaluated(alone(data, index)) for index in range(4)]
    assert torch.equal(together.confusion.compute(), torch.cat([one.confusion.compute() for one in apart]))
    [predicted] = together.predicted
    assert len(predicted) == 3
    for index, (h, w) in enumerate(data.sizes[:3].tolist()):
        assert torch.equal(predicted[index, :h, :w], apart[index].predicted[0][0])
        assert (predicted[index, h:] == VOID).all() and (predicted[index, :, w:] == VOID).all()


def test_sizes_are_part_of_the_digest_only_where_they_differ():
    """Sets of equal sizes keep the digest of earlier versions, which is part of the names of runs."""
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(torch.uint8)
    equal = MaskedImages(["a", "b"], images, images[:, 0].contiguous(), torch.tensor([[4, 5], [4, 5]]))
    assert equal.digest() == "db664eaa252bc18f"
    assert replace(equal, sizes=torch.tensor([[4, 5], [4, 4]])).digest() != equal.digest()


# Training


class Linear(nn.Module):
    """Logits of a pixel are linear in its colours; keeps what it was shown while it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown += [x.clone()] if self.training else []
        return self.layer(x)


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
COLOURS = torch.tensor([[10, 200, 90], [220, 40, 180], [60, 130, 250], [150, 80, 20], [240, 230, 210], [30, 20, 70]])


def trained_linear(
    monkeypatch, seed: int = 0, state: Path | None = None, notify: Notify = lambda done, epochs: None, **recipe
) -> tuple[Linear, list[torch.Tensor]]:
    """Six images of one colour each, none of them the mean, in batches of two; the network, and the masks it saw."""
    masks: list[torch.Tensor] = []
    loss = pixel_cross_entropy

    def watched(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        masks.append(truth.clone())
        return loss(logits, truth)

    monkeypatch.setattr("da_wa.tasks.segmentation.pixel_cross_entropy", watched)
    truth = torch.randint(0, 3, (6, 8, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = COLOURS.to(torch.uint8)[:, :, None, None].repeat(1, 1, 8, 12)
    given = {"epochs": 1, "batch_size": 2, "lr": 0.3, "momentum": 0.8, "weight_decay": 0.05, "power": 0.9}
    given |= {"crop": (8, 12), "scale": (1.0, 1.0), "flip": False}
    model, data = Linear(), MaskedImages(list("abcdef"), images, truth, whole(truth))
    with torch.no_grad():
        model.layer.weight.copy_(torch.linspace(-0.5, 0.5, 9).view(3, 3, 1, 1))
        model.layer.bias.copy_(torch.linspace(0.2, -0.2, 3))
    settings, normalize = Settings("cpu", "32-true", save_every_s=0), Normalize(MEAN, STD)
    with TemporaryDirectory() as folder:
        path = state or Path(folder, "state")
        chosen = SegmentationRecipe(**given | recipe)
        train_segmentation(model, data, data, 3, chosen, settings, normalize, seed, path, notify)
    return model, masks


def test_evaluation_is_not_compiled(tmp_path):
    torch._dynamo.reset()
    counters.clear()
    images, masks = (torch.zeros(*shape, dtype=torch.uint8) for shape in ((2, 3, 8, 8), (2, 8, 8)))
    data = MaskedImages(list("ab"), images, masks, torch.tensor([[8, 8]] * 2))
    recipe = SegmentationRecipe(1, 2, 0.1, 0.9, 0.0, 0.9, (8, 8), (1.0, 1.0))
    settings = Settings("cpu", "32-true", channels_last=False, compile="aot_eager")
    model = nn.Conv2d(3, 3, 1)
    train_segmentation(model, data, data, 3, recipe, settings, Normalize(MEAN, STD), 0, tmp_path / "state")
    assert counters["stats"]["unique_graphs"] == 1


def test_training_is_sgd_with_the_poly_schedule(monkeypatch):
    """Every step against its formula in float64: three of an epoch, on whole images."""
    model, masks = trained_linear(monkeypatch)
    weight, bias = np.linspace(-0.5, 0.5, 9).reshape(3, 3), np.linspace(0.2, -0.2, 3)
    speed = [np.zeros((3, 3)), np.zeros(3)]
    assert len(model.shown) == len(masks) == 3
    for step, (x, truth) in enumerate(zip(model.shown, masks, strict=True)):
        x, truth = x.double().movedim(1, -1).reshape(-1, 3).numpy(), truth.flatten().numpy()
        p = np.exp(x @ weight.T + bias)
        error = (p / p.sum(1, keepdims=True) - np.eye(3)[truth]) / len(truth)
        rate = 0.3 * (1 - step / 3) ** 0.9
        for part, (value, gradient) in enumerate([(weight, error.T @ x), (bias, error.sum(0))]):
            speed[part] = 0.8 * speed[part] + gradient + 0.05 * value
            value -= rate * speed[part]
    assert model.layer.weight.detach().numpy()[:, :, 0, 0] == pytest.approx(weight, abs=1e-5)
    assert model.layer.bias.detach().numpy() == pytest.approx(bias, abs=1e-5)


def test_networks_see_normalized_windows_that_are_0_exactly_beside_the_image(monkeypatch):
    model, masks = trained_linear(monkeypatch, scale=(0.5, 0.5), crop=(6, 10))
    colours = (COLOURS.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    for x, truth in zip(model.shown, masks, strict=True):
        assert x.shape == (2, 3, 6, 10)
        inside = truth != VOID
        assert inside.flatten(1).sum(1).tolist() == [4 * 6] * 2  # half of 8×12
        assert torch.equal((x == 0).all(1), ~inside)
        pixels = x.movedim(1, -1)[inside].double()
        assert (pixels[:, None] - colours).abs().amax(2).amin(1).max() < 1e-5


def test_the_seed_alone_decides_what_networks_see(monkeypatch):
    options = {"epochs": 2, "scale": (0.5, 2.0), "flip": True}
    seen = []
    for before, seed in [(5, 0), (6, 0), (5, 1)]:
        torch.manual_seed(before)
        seen.append(torch.stack(trained_linear(monkeypatch, seed, **options)[0].shown))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0][:3] == 0, seen[0][3:] == 0)  # the windows of two epochs


@pytest.mark.parametrize("epochs_before", [1, 2])
def test_a_training_that_is_cut_off_resumes_to_the_same_bits(epochs_before, monkeypatch, tmp_path):
    """Order, windows, momentum and schedule go on as if nothing had happened."""

    def cut_off(done: int, epochs: int) -> None:
        if done == epochs_before:
            raise Paused

    options = {"epochs": 3, "scale": (0.5, 2.0), "flip": True}
    whole, _ = trained_linear(monkeypatch, **options)
    with pytest.raises(Paused):
        trained_linear(monkeypatch, 0, tmp_path / "state", cut_off, **options)
    torch.manual_seed(7)
    rest, _ = trained_linear(monkeypatch, 0, tmp_path / "state", **options)
    assert len(rest.shown) == 3 * (3 - epochs_before)
    assert torch.equal(torch.stack(rest.shown), torch.stack(whole.shown[3 * epochs_before :]))
    assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_a_training_that_diverged_is_not_resumed(monkeypatch, tmp_path):
    saved: list[bool] = []
    with pytest.raises(Diverged):  # weights grow by lr·weight_decay each step
        trained_linear(
            monkeypatch, 0, tmp_path / "state", lambda *_: saved.append((tmp_path / "state").exists()), epochs=9, lr=1e5
        )
    assert saved and all(saved)
    assert not (tmp_path / "state").exists()


def test_a_last_step_after_which_logits_are_not_finite_is_a_divergence(monkeypatch, tmp_path):
    with pytest.raises(Diverged, match="logits after epoch 1") as caught:
        trained_linear(monkeypatch, 0, tmp_path / "state", batch_size=6, lr=1e38, weight_decay=1e3)
    assert caught.value.epoch == 1
    assert not (tmp_path / "state").exists()


def test_a_run_that_its_time_limit_cut_off_goes_on_from_there(camvid, tmp_path, monkeypatch):
    """The deadline passes within the second epoch of three, so the next command has one left."""
    words = [
        f"data.root={camvid}",
        "norms=[bn]",
        "recipe.epochs=3",
        "trainer.accelerator=cpu",
        "trainer.save_every_s=0",
    ]
    steps: list[int] = []
    loss = pixel_cross_entropy

    def counted(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return loss(logits, truth)

    def train(out: str, ends: float = math.inf) -> Bench:
        bench = Bench(tmp_path / out, words, Console(quiet=True), ends)
        study().stages("smoke")["train"](bench)
        return bench

    monkeypatch.setattr("da_wa.tasks.segmentation.pixel_cross_entropy", counted)
    train("whole")
    each = len(steps) // 3
    monkeypatch.setattr("da_wa.studies.segmentation.time", SimpleNamespace(monotonic=lambda: float(len(steps))))
    steps.clear()
    with pytest.raises(Paused):
        train("cut", each + 1)
    assert len(steps) == 2 * each
    train("cut")
    assert len(steps) == 3 * each
    [cut], [whole] = ((tmp_path / name / "runs").iterdir() for name in ("cut", "whole"))
    assert sorted(path.name for path in cut.iterdir()) == ["confusion.npz", "record.json"]
    assert np.array_equal(read_run(cut)[1].confusion, read_run(whole)[1].confusion)
    curves = [read_run(folder)[0].curve for folder in (cut, whole)]
    assert curves[0] == curves[1]
    assert read_run(cut)[0].cost["train_cpu_s"] > 0


def test_a_run_that_diverged_is_a_result(camvid, tmp_path, monkeypatch, capsys):
    def diverged(*args, **options) -> None:
        raise Diverged("the training loss was not finite in epoch 1", 1, [])

    monkeypatch.setattr("da_wa.tasks.segmentation.train_segmentation", diverged)
    words = ["study=voc", "scope=smoke", f"data.root={camvid}", f"out={tmp_path / 'out'}", "trainer.accelerator=cpu"]
    assert main([*words, "norms=[bn]", "stage=train"]) == 0
    said = capsys.readouterr().out
    assert "BN, seed 0: the training loss was not finite" in said
    assert "failed" not in said


def test_an_error_in_one_run_leaves_the_others_alone(camvid, tmp_path, monkeypatch, capsys):
    tried = []

    def train(*args, **options) -> None:
        tried.append(len(tried))
        if tried == [0]:
            raise RuntimeError("CUDA out of memory")
        raise Diverged("a result", 1, [])

    monkeypatch.setattr("da_wa.tasks.segmentation.train_segmentation", train)
    words = ["study=voc", "scope=smoke", f"data.root={camvid}", f"out={tmp_path / 'out'}", "trainer.accelerator=cpu"]
    assert main([*words, "stage=train"]) == 1
    assert "RuntimeError: CUDA out of memory" in capsys.readouterr().out
    assert tried == [0, 1]
    assert main([*words, "stage=train"]) == 0
    assert tried == [0, 1, 2]


@pytest.mark.parametrize(("seconds", "faster"), [((1.0, 2.0), "32-true"), ((2.0, 1.0), "bf16-mixed")])
def test_both_norms_train_in_the_precision_that_is_faster(seconds, faster, camvid, tmp_path, monkeypatch):
    measured, used = [], []

    def step_seconds(model, images, settings, precision) -> float:
        measured.append((tuple(images), precision))
        return seconds[precision != "32-true"]

    def train(*args, **options) -> None:
        used.extend(each.precision for each in args if isinstance(each, Settings))
        raise Diverged("a result", 1, [])

    monkeypatch.setattr("da_wa.train.precision.step_seconds", step_seconds)
    monkeypatch.setattr("da_wa.tasks.segmentation.train_segmentation", train)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    words = ["study=voc", "scope=smoke", f"data.root={camvid}", f"out={tmp_path}", "trainer.accelerator=cpu"]
    assert main([*words, "stage=train"]) == 0
    assert used == [faster, faster]
    assert measured == [((2, 3, 24, 32), "32-true"), ((2, 3, 24, 32), "bf16-mixed")]  # once, for all norms


# Files


def test_faults_of_files_are_named(camvid, tmp_path):
    labels = np.zeros((6, 8), np.uint8)
    pair = draw_pair(tmp_path / "train", "a", labels)
    assert read_pair(pair, 3, 11)[1].shape == (6, 8)

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match):
            load_split("folders", tmp_path, "train", 3, 11, [0.5] * 3)

    Image.fromarray(np.zeros((6, 7), np.uint8)).save(pair.mask)
    refused(r"masks/a.png has 7×6 pixels, and its image 8×6")
    Image.fromarray(np.full((6, 8), 3, np.uint8)).save(pair.mask)
    refused(r"masks/a.png has the label 3; known are 0 to 2, and data.void=11")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(pair.mask)
    refused(r"masks/a.png is no mask: its mode is RGB")
    Image.fromarray(labels).save(pair.mask, "JPEG")
    refused(r"masks/a.png is no mask: JPEG changes labels. Save masks as PNG")
    pair.mask.write_bytes(b"no image")
    refused(r"masks/a.png: not a JPEG, PNG, WebP or BMP image")
    pair.mask.write_bytes(b"")
    refused(r"masks/a.png: zero bytes")
    pair.mask.unlink()
    refused(r"images/a.png has no mask")
    draw_pair(tmp_path / "train", "a", labels)
    pair.image.unlink()
    refused(r"masks/a.png has no image")
    pair.mask.unlink()
    refused(r"the split train has no images")
    with pytest.raises(DataError, match=r"layout=pairs is unknown"):
        listing("pairs", camvid, "train")


@pytest.mark.parametrize(("layout", "step"), [("folders", "iterdir"), ("folders", "is_dir"), ("voc", "read_text")])
def test_a_folder_that_cannot_be_read_is_named(layout, step, tmp_path, monkeypatch):
    draw_pair(tmp_path / "train", "a", np.zeros((6, 8), np.uint8))

    def failing(path, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, step, failing)
    with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))}/.*: input/output error. Rerun"):
        listing(layout, tmp_path, "train")


@pytest.mark.parametrize(("kind", "suffix"), [("images", "jpg"), ("images", "png"), ("masks", "png")])
def test_a_truncated_file_is_named(kind, suffix, tmp_path):
    """Its header is whole, so that only decoding fails."""
    labels = np.random.default_rng(0).integers(0, 3, (40, 60))
    draw_pair(tmp_path / "train", "a", labels)
    broken = (tmp_path / "train" / kind / "a.png").rename(tmp_path / "train" / kind / f"a.{suffix}")
    with Image.open(broken) as file:
        file.copy().save(broken)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    assert Image.open(broken).size == (60, 40)
    with pytest.raises(DataError, match=rf"{kind}/a.{suffix}: .*truncated"):
        load_split("folders", tmp_path, "train", 3, 255, [0.5] * 3)


def test_every_file_is_decoded_once(tmp_path, monkeypatch):
    draw_pair(tmp_path / "train", "a", np.zeros((6, 8), np.uint8))
    decoded, load = [], ImageFile.ImageFile.load

    def counted(self, *args):
        decoded.extend([self.filename] if self.tile else [])
        return load(self, *args)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    load_split("folders", tmp_path, "train", 3, 255, [0.5] * 3)
    assert sorted(Path(path).parent.name for path in decoded) == ["images", "masks"]


def test_images_are_turned_as_their_exif_block_says_before_they_meet_their_masks(tmp_path):
    pixels = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    pair = draw_pair(tmp_path / "train", "a", np.zeros((8, 6), np.uint8))
    stored = Image.fromarray(np.stack([pixels] * 3, -1))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be shown turned by 90 degrees clockwise
    stored.save(pair.image, exif=exif)
    (image,) = load_split("folders", tmp_path, "train", 3, 11, [0.5] * 3).images
    assert (image[0].numpy() == np.rot90(pixels, -1)).all()


def test_voc_layout_reads_palettes_and_lists_and_pads_with_void(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for number, (h, w) in enumerate([(6, 8), (9, 5)]):
        Image.fromarray(np.full((h, w, 3), 200, np.uint8)).save(tmp_path / f"JPEGImages/{number}.jpg")
        mask = Image.fromarray(np.full((h, w), 7 * number, np.uint8), mode="P")
        mask.putpalette([99] * 768)
        mask.putpixel((0, 0), 255)
        mask.save(tmp_path / f"SegmentationClass/{number}.png")
        Image.fromarray(np.full((h, w), 20, np.uint8)).save(tmp_path / f"SegmentationClassAug/{number}.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("1\n0\n")
    found = load_split("voc", tmp_path, "val", 21, 255, [0.5] * 3)
    assert list(found.names) == ["0", "1"] and found.images.shape == (2, 3, 9, 8)
    assert found.sizes.tolist() == [[6, 8], [9, 5]]
    assert found.masks[1, 1, 1] == 7 and found.masks[1, 0, 0] == VOID
    assert (found.masks[0, 6:] == VOID).all() and (found.masks[1, :, 5:] == VOID).all()
    assert (found.images[0, :, 6:] == 128).all() and (found.images[0, :, :6] > 190).all()
    assert (load_split("voc_aug", tmp_path, "val", 21, 255, [0.5] * 3).masks[0, :6] == 20).all()
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text(
        "\n/JPEGImages/1.jpg /SegmentationClassAug/1.png\n/JPEGImages/0.jpg /SegmentationClassAug/0.png\n"
    )
    assert listing("voc_aug", tmp_path, "trainaug") == listing("voc_aug", tmp_path, "val")
    (tmp_path / "ImageSets/Segmentation/dots.txt").write_text("clip.1\n")
    with pytest.raises(DataError, match=r"JPEGImages/clip\.1\.jpg is missing"):
        listing("voc", tmp_path, "dots")
    chosen = study().chosen(
        "smoke", [f"data.root={tmp_path}", "data.layout=voc_aug", "data.train=trainaug", "data.test=val"]
    )
    with pytest.raises(DataError, match=r"data.train=trainaug has 2 images of data.test=val, e.g. 0.jpg"):
        next(_Work("voc", "smoke", chosen, tmp_path, None).runs())
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").unlink()
    for content, said in [
        (b"0\n2\n", r"2.jpg is missing; .*val.txt lists it"),
        (b"0\n1\n0\n", r"the split val has 0 twice"),
        (b"0\n\xff\n", r"val.txt is not UTF-8 text"),
    ]:
        (tmp_path / "ImageSets/Segmentation/val.txt").write_bytes(content)
        with pytest.raises(DataError, match=said):
            listing("voc", tmp_path, "val")
    with pytest.raises(DataError, match=r"trainaug.txt is missing"):
        listing("voc_aug", tmp_path, "trainaug")


# Augmentation


def test_mask_and_image_stay_aligned():
    """Images hold the coordinates of their pixels, which bilinear sampling keeps; masks a code of the same."""
    n, h, w = 64, 12, 15
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    images = torch.stack([rows, columns]).float().expand(n, 2, h, w).contiguous()
    masks = (rows * w + columns).to(torch.uint8).expand(n, h, w).contiguous()
    torch.manual_seed(0)
    pixels, labels = ScaleCropFlip((10, 20), (0.5, 2.0))(images, masks, whole(masks))
    inside = labels != VOID
    row, column = labels // w, labels % w
    assert 0.3 < inside.float().mean() < 0.95  # some windows reach beyond the image
    assert ((pixels[:, 0] - row).abs()[inside] <= 0.5 + 1e-4).all()
    assert ((pixels[:, 1] - column).abs()[inside] <= 0.5 + 1e-4).all()
    assert (pixels[~inside[:, None].expand_as(pixels)] == 0).all()
    steps = (pixels[:, 1, :, 1:] - pixels[:, 1, :, :-1])[inside[:, :, 1:] & inside[:, :, :-1]]
    assert (steps > 0.3).any() and (steps < -0.3).any()  # both orientations


def test_without_scaling_the_window_is_cut_out_exactly():
    masks = torch.arange(120, dtype=torch.uint8).view(1, 10, 12).repeat(20, 1, 1)
    images = masks[:, None].float()
    torch.manual_seed(0)
    pixels, labels = ScaleCropFlip((4, 5), (1.0, 1.0), flip=False)(images, masks, whole(masks))
    assert torch.allclose(pixels[:, 0], labels.float(), atol=1e-3)
    top_left = labels[:, 0, 0].long()
    expected = top_left[:, None, None] + 12 * torch.arange(4)[:, None] + torch.arange(5)
    assert torch.equal(labels.long(), expected)
    assert len(top_left.unique()) > 5


@pytest.mark.parametrize("index", [0, 1, 2])
def test_windows_of_an_image_do_not_depend_on_the_sizes_of_others(index):
    """The same draws give the same windows as of the image alone, and nothing of what is beside it."""
    data = padded([(12, 15), (20, 9), (13, 31)], 20, 31)
    augment = ScaleCropFlip((10, 16), (0.5, 2.0))
    found = []
    for images, masks, sizes in (data[[index]], alone(data, index)):
        torch.manual_seed(0)
        n = (200,)
        found.append(augment((images / 255).repeat(*n, 1, 1, 1), masks.repeat(*n, 1, 1), sizes.repeat(*n, 1)))
    (pixels, labels), (own_pixels, own_labels) = found
    assert torch.equal(labels, own_labels)
    assert torch.allclose(pixels, own_pixels, atol=1e-4)
    assert 0.2 < (labels != VOID).float().mean() < 0.99


# Networks


def dilations(model: nn.Module) -> list[tuple[int, int]]:
    return [m.dilation for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


def test_deeplab_has_the_output_stride_the_dilations_and_the_norm_of_the_paper():
    with torch.device("meta"):
        model = deeplabv3_resnet50(named("bn_wa"), 21)
        images = torch.zeros(2, 3, 128, 160)
        assert model.trunk(images).shape == (2, 2048, 8, 10)  # output stride 16
        assert model(images).shape == (2, 21, 128, 160)
        assert dilations(model.trunk[7]) == [(2, 2)] * 3  # rate 2 times multi-grid (1, 1, 1)
        assert dilations(model.trunk[:7]) == [(1, 1)] * 13
        assert dilations(model.head) == [(6, 6), (12, 12), (18, 18), (1, 1)]
        finer = deeplabv3_resnet50(named("bn"), 21, output_stride=8)
        assert finer.trunk(images).shape == (2, 2048, 16, 20)
        assert dilations(finer.trunk[6]) == [(2, 2)] * 6 and dilations(finer.trunk[7]) == [(4, 4)] * 3
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, WeightAlignConv2d) for m in convs[:-1]) and type(convs[-1]) is nn.Conv2d
    small = deeplabv3_resnet20(named("bn_wa"), 11, weights="resnet20-cifar100-bn_wa", width=8)
    assert small.trunk(torch.zeros(2, 3, 48, 64)).shape == (2, 64, 6, 8)  # output stride 8
    with pytest.raises(ConfigError, match="output_stride=32"):
        deeplabv3_resnet50(named("bn"), 21, output_stride=32)


@pytest.mark.parametrize("multi_grid", [[1, 2], [1, 1.5, 1], [0, 1, 1], 1, "124"])
def test_a_multi_grid_has_three_whole_numbers(multi_grid):
    with pytest.raises(ConfigError, match=r"model\.multi_grid=.* must have three whole numbers"), torch.device("meta"):
        deeplabv3_resnet50(named("bn"), 21, multi_grid=multi_grid)
    with torch.device("meta"):
        assert dilations(deeplabv3_resnet50(named("bn"), 21, multi_grid=(1, 2, 4)).trunk[7]) == [(2, 2), (4, 4), (8, 8)]


def test_the_full_scope_composes_and_its_networks_can_be_made():
    options = study().chosen("full")
    assert (options.recipe.epochs, options.recipe.batch_size, options.recipe.lr) == (50, 4, 0.007)  # of the paper
    assert (options.norms, len(options.data.classes)) == (["bn", "bn_wa"], 21)
    assert f"torchvision's {get_model_weights('resnet50').DEFAULT.name} weights" in options.caption
    node = {**options.model.model_dump(by_alias=True), "weights": None}
    for norm in options.norms:
        with torch.device("meta"):
            model = make(node)(norm=named(norm), num_classes=21)
            assert model(torch.zeros(2, 3, *options.recipe.crop)).shape == (2, 21, 513, 513)


# The study


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe.epoch=3"], r"Did you mean 'recipe\.epochs'"),
        (["trainer.acelerator=cpu"], r"Did you mean 'trainer\.accelerator'"),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], r"precision=16-mixed needs a GPU"),
        (["recipe.batch_size=1"], r"recipe\.batch_size=1: must be a whole number, 2 or more"),
        (["recipe.lr=inf"], r"recipe\.lr=inf: must be a number"),
        (["recipe.crop=[8]"], r"recipe\.crop=\[8\]: must be height and width"),
        (["recipe.scale=[0,1]"], r"recipe\.scale=\[0,1\]: must be two numbers"),
        (["data.mean=[123.7,116.3,103.5]"], r"data\.mean=.*: must be three numbers from 0 to 1"),
        (["data.std=[0,0,0]"], r"data\.std=.*: must be three numbers above 0"),
        (["data.void=256"], r"data\.void=256: must be a whole number, 0 to 255"),
        (["seeds=[-1]", "norms=[]"], r"norms=\[\]: .*\nseeds=\[-1\]: must be a list of whole numbers"),
        (["model=null"], r"model=null: must be a group of options"),
    ],
)
def test_wrong_options_are_named(words, said):
    with pytest.raises(ConfigError, match=said):
        study().chosen("smoke", words)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.widht=3", r"widht"),
        ("model.width=abc", r"model={.*width:abc.*}: no network with norm bn and crops of 24×32 pixels can be made"),
        ("model.width=-1", r"model={.*}: no network with norm bn"),
        ("model.atrous=2", r"model={.*}: no network with norm bn"),
        ("model.weights=resnet20-cifar100-wa", r"does not match the architecture or norm"),
        ("model.weights=nowhere.pth", r"model\.weights=nowhere\.pth: no such file"),
        ("trainer.accelerator=gpu", r"trainer\.accelerator=gpu: this machine has none"),
        ("norms=[bnn]", r"there is no norm called 'bnn'. Did you mean 'bn'"),
        (
            "data.void=2",
            r"data\.void=2 is the label of 'square', whose pixels would not count; choose .* from 3 to 255",
        ),
    ],
)
def test_what_cannot_be_trained_is_named_before_images_are_read(word, said, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench = Bench(tmp_path, [word, "data.root=nowhere"], Console(quiet=True), math.inf)
    with pytest.raises(UserError, match=said):
        study().stages("smoke")["train"](bench)


def test_a_network_that_does_not_take_the_crop_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_Work, "_network", lambda work, norm: nn.Conv2d(4, 2, 1))
    with pytest.raises(ConfigError, match=r"model={.*}: no network with norm bn and crops of 24×32 pixels can be made"):
        _Work("voc", "smoke", study().chosen("smoke"), tmp_path, None).check()


def test_options_of_the_command_line(camvid, tmp_path, capsys):
    assert main(["study=voc", "scope=small", "--cfg", "recipe.lr=1e-2", "seeds=[0,", "0,", "1]"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)["runs"]
    assert (found["recipe"]["lr"], found["recipe"]["weight_decay"], found["seeds"]) == (0.01, 5e-4, [0, 0, 1])
    assert (found["trainer"]["accelerator"], found["model"]["width"]) == ("auto", 64)
    chosen = study().chosen("smoke", ["seeds=[0,0,1]", f"data.root={camvid}"])
    runs = list(_Work("voc", "smoke", chosen, tmp_path, None).runs())
    assert [(run.seed, run.name) for run in runs] == [(0, "bn"), (0, "bn_wa"), (1, "bn"), (1, "bn_wa")]


def test_commands_share_the_runs_on_a_file_system_without_locks(camvid, tmp_path, monkeypatch):
    """A second command starts within a run of the first, takes the next one over, and leaves it to nobody else."""

    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    done: list[str] = []

    def do(work: _Work, run: Run, ends: float) -> SegmentationRecord:
        done.append(run.name)
        if len(done) == 1:
            other = threading.Thread(target=train)
            other.start()
            other.join()
        record = SegmentationRecord(
            study="voc", scope="smoke", norm=run.name, label=run.name, seed=0, classes=["a", "b"], images=[], facts={},
            curve=[], cost={"train_s": 1, "eval_s": 1}, provenance={},
        )  # fmt: skip
        write_run(run.folder, record)
        return record

    def train() -> None:
        bench = Bench(tmp_path, [f"data.root={camvid}"], Console(quiet=True), math.inf)
        study().stages("smoke")["train"](bench)

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    monkeypatch.setattr(_Work, "do", do)
    monkeypatch.setattr(_Work, "check", lambda work: None)
    train()
    assert done == ["bn", "bn_wa"]


def done_at_once(work: _Work, run: Run, ends: float) -> SegmentationRecord:
    """A finished run, without training."""
    record = SegmentationRecord(
        study="voc", scope="smoke", norm=run.name, label=run.name, seed=run.seed, classes=["a", "b"], images=["i"],
        facts=dict(run.facts), curve=[], cost={"train_s": 1, "eval_s": 1}, provenance={},
    )  # fmt: skip
    write_run(run.folder, record, Outputs(np.ones((1, 2, 2), int), np.zeros((1, 2, 2), np.uint8)))
    return record


def test_commands_with_other_seeds_or_norms_add_to_the_table(camvid, tmp_path, monkeypatch):
    def planned(*words: str) -> tuple[list[str], list[str]]:
        """Norms and runs of the table after a command."""
        bench = Bench(tmp_path, [], Console(quiet=True), math.inf, words=[f"data.root={camvid}", *words])
        study().stages("smoke")["train"](bench)
        design = read_design(tmp_path)
        changed = "" if words[:1] != ("recipe.epochs=2",) else " Changed: recipe.epochs=2"
        assert design.caption.removeprefix("A quick check.").startswith(changed)
        assert bool(changed) == ("Changed" in design.caption)
        names = [Path(folder).name.rsplit("-", 1)[0] for folder in design.folders]
        assert {norm: len(seeds) for norm, (seeds, _) in read_scores(tmp_path).norms.items()} == {
            norm: sum(name.startswith(f"{norm}-seed") for name in names) for norm in design.factors["norm"]
        }
        return design.factors["norm"], names

    monkeypatch.setattr(_Work, "do", done_at_once)
    monkeypatch.setattr(_Work, "check", lambda work: None)
    assert planned("norms=[bn_wa]") == (["bn_wa"], ["bn_wa-seed0"])
    assert planned("seeds=[3]", "norms=[bn]") == (["bn", "bn_wa"], ["bn_wa-seed0", "bn-seed3"])
    assert planned() == (["bn", "bn_wa"], ["bn_wa-seed0", "bn-seed3", "bn-seed0"])
    old = json.loads((tmp_path / "study.json").read_text())
    del old["settings"]  # as earlier versions wrote it
    (tmp_path / "study.json").write_text(json.dumps(old))
    assert planned("seeds=[1]", "norms=[bn]")[1] == ["bn_wa-seed0", "bn-seed3", "bn-seed0", "bn-seed1"]
    (tmp_path / "study.json").write_text(json.dumps(old))
    assert planned("recipe.epochs=2", "norms=[bn]") == (["bn"], ["bn-seed0"])  # cannot be in one table
    assert planned("recipe.epochs=2", "model.width=8", "seeds=[1]", "norms=[wa]") == (["wa"], ["wa-seed1"])


def test_a_norm_that_was_changed_is_not_averaged_with_what_it_was(camvid, tmp_path, monkeypatch):
    def planned(eps: float, seed: int) -> list[str]:
        own = tmp_path / "mine" / "norm" / "mine.yaml"
        own.parent.mkdir(parents=True, exist_ok=True)
        wa = yaml.safe_load((conf_dir() / "norm" / "wa.yaml").read_text())
        own.write_text(yaml.safe_dump({**wa, "label": "mine", "conv": {**wa["conv"], "eps": eps}}))
        words = [f"data.root={camvid}", "norms=[bn,mine]", f"seeds=[{seed}]"]
        bench = Bench(tmp_path, [], Console(quiet=True), math.inf, config_dir=tmp_path / "mine", words=words)
        study().stages("smoke")["train"](bench)
        return [Path(folder).name.rsplit("-", 1)[0] for folder in read_design(tmp_path).folders]

    monkeypatch.setattr(_Work, "do", done_at_once)
    monkeypatch.setattr(_Work, "check", lambda work: None)
    assert planned(1e-5, 0) == ["bn-seed0", "mine-seed0"]
    assert planned(1e-5, 1) == ["bn-seed0", "mine-seed0", "bn-seed1", "mine-seed1"]
    assert planned(1e-3, 2) == ["bn-seed0", "bn-seed1", "bn-seed2", "mine-seed2"]


def test_a_run_that_diverged_is_tried_again_in_another_precision(camvid, tmp_path, monkeypatch):
    trained: list[str] = []

    def do(work: _Work, run: Run, ends: float) -> SegmentationRecord:
        precision = work.options.trainer.precision
        trained.append(precision)
        record = SegmentationRecord(
            study="voc", scope="smoke", norm=run.name, label=run.name, seed=0, classes=["a", "b"], images=[], facts={},
            curve=[], cost={}, provenance={"precision": precision}, error="the loss was nan",
        )  # fmt: skip
        write_run(run.folder, record)
        return record

    monkeypatch.setattr(_Work, "do", do)
    monkeypatch.setattr(_Work, "check", lambda work: None)
    for precision in ("bf16-mixed", "auto", "bf16-mixed", "32-true", "32-true"):
        words = [f"data.root={camvid}", "norms=[bn]", f"trainer.precision={precision}"]
        study().stages("smoke")["train"](Bench(tmp_path, [], Console(quiet=True), math.inf, words=words))
    assert trained == ["bf16-mixed", "32-true"]


def test_a_run_that_another_command_took_over_is_left_to_it(camvid, tmp_path, monkeypatch):
    done: list[str] = []

    def do(work: _Work, run: Run, ends: float) -> SegmentationRecord:
        done.append(run.name)
        if run.name == "bn":
            raise LeaseLost
        raise Paused

    monkeypatch.setattr(_Work, "do", do)
    monkeypatch.setattr(_Work, "check", lambda work: None)
    bench = Bench(tmp_path, [f"data.root={camvid}"], Console(quiet=True), math.inf)
    with pytest.raises(Paused):
        study().stages("smoke")["train"](bench)
    assert done == ["bn", "bn_wa"]
    assert not list((tmp_path / "runs").glob("*/lease"))


def known_runs(out: Path, right: dict[str, list[Any]]) -> Path:
    """Runs of two balanced classes with known shares of right pixels in all 40 images; None: diverged, …: not run."""
    folders = []
    for norm, shares in right.items():
        for seed, share in enumerate(shares):
            folders.append(f"runs/{norm}-seed{seed}-0")
            if share is ...:
                continue
            record = SegmentationRecord(
                study="voc", scope="small", norm=norm, label=norm, seed=seed, classes=["a", "b"],
                images=[str(i) for i in range(40)], facts={}, curve=[], cost={}, provenance={},
                error="Diverged" if share is None else None,
            )  # fmt: skip
            hit = round(1000 * (share or 0))
            confusion = np.array([[hit, 1000 - hit], [1000 - hit, hit]])
            found = None if share is None else Outputs(np.stack([confusion] * 40), np.zeros((1, 2, 2), np.uint8))
            write_run(out / folders[-1], record, found)
    names = {"norm": {norm: norm.upper() for norm in right}}
    design = Design(
        study="voc", scope="small", title="T", task="segmentation", factors={"norm": list(right)}, rows=["norm"],
        columns=[], names=names, folders=folders,
    )  # fmt: skip
    write_design(out, design)
    return out


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ({"bn": [0.70, 0.71, 0.72], "bn_wa": [0.75, 0.76, 0.77]}, "holds"),
        ({"bn": [0.75, 0.76, 0.77], "bn_wa": [0.70, 0.71, 0.72]}, "does not"),
        ({"bn": [0.70, 0.71, 0.72], "bn_wa": [0.60, 0.76, 0.87]}, "open"),
        ({"bn": [0.70], "bn_wa": [0.90]}, "open"),  # one seed
        ({"bn": [0.70, 0.71], "bn_wa": [None, None]}, "does not"),
        ({"bn": [None, None], "bn_wa": [0.70, 0.71]}, "holds"),
        ({"bn": [None, None], "bn_wa": [None, None]}, "not run"),  # nothing to compare
        ({"bn": [0.70, 0.71], "bn_wa": [None, 0.9]}, "not run"),
        ({"bn": [None, None, ...], "bn_wa": [0.70, 0.71, 0.72]}, "not run"),  # the third run may be better
        ({"bn": [None, None], "bn_wa": [..., ...]}, "not run"),
        ({"bn": [None, None], "bn_wa": [0.70, 0.71, 0.72, 0.73]}, "holds"),  # more seeds than the other has
        ({"bn": [0.70, 0.71], "bn_wa": [None, None, None, ...]}, "not run"),
    ],
)
def test_the_papers_claim_is_decided_by_paired_intervals(right, verdict, tmp_path):
    write_claims([known_runs(tmp_path / "voc", right)], tmp_path / "to")
    with (tmp_path / "to" / "claims.csv").open() as file:
        found = {row["claim"]: row for row in csv.DictReader(file)}
    assert found["segmentation-wa-adds"]["verdict"] == verdict
    assert found["segmentation-wa-adds"]["paper_as_claimed"] == "1"


def test_numbers_of_the_table_are_those_of_the_confusion_matrices(tmp_path):
    out = known_runs(tmp_path, {"bn": [0.7, 0.8], "bn_wa": [0.8, 0.9], "wa": []})
    iou = [right / (2 - right) for right in (0.7, 0.8, 0.9)]  # of both classes
    black = np.zeros((1, 2, 2), np.uint8)
    report = write_segmentation(out, lambda: (np.zeros((1, 3, 2, 2), np.uint8), black))
    with (out / "table.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["miou"]) == pytest.approx(50 * (iou[0] + iou[1]), abs=1e-4)
    assert float(second["minus_reference"]) == pytest.approx(50 * (iou[2] - iou[0]), abs=1e-4)
    # All images are equal, so the interval is that of two differences, t with one degree of freedom.
    spread = abs(50 * ((iou[1] - iou[0]) - (iou[2] - iou[1])))
    assert float(second["minus_high"]) - float(second["minus_reference"]) == pytest.approx(12.7062 * spread, abs=1e-3)
    assert [row[0] for row in report.table.rows] == ["BN", "BN_WA", "WA"]
    assert report.table.rows[2][1] == "–" and report.table.bold == {(1, 1)}
    assert read_scores(out).measure([(1.0, ("wa",))]) is None
    two = "2 seeds, 40 test images, last epoch. ± half of the 95 % interval over seeds and images."
    assert two in report.table.notes
    known_runs(tmp_path / "uneven", {"bn": [0.7], "bn_wa": [0.8, 0.9]})
    notes = segmentation_table(read_scores(tmp_path / "uneven")).notes
    assert notes[1].startswith("1 to 2 seeds, 40 test images")
    assert not any("VOC" in note for note in notes)  # the caption of the scope names the data


def test_without_a_finished_run_there_is_no_report(tmp_path):
    def decoded():
        pytest.fail("nothing is to be shown")

    out = known_runs(tmp_path, {"bn": []})
    with pytest.raises(DataError, match=r"no run of the study is finished.*stage=train"):
        write_segmentation(out, decoded)
    assert not (out / "table.csv").exists()


def test_the_study_runs_reports_and_resumes(camvid, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["study=voc", "scope=smoke", f"data.root={camvid}", f"out={out}", "trainer.accelerator=cpu"]
    loaded = []
    monkeypatch.setattr("da_wa.data.masks.load_split", lambda *args: loaded.append(args[2]) or load_split(*args))
    assert main([*words, "norms=[bn]"]) == 0
    assert sorted(loaded) == ["test", "train"]  # once for all stages
    [first] = sorted((out / "runs").iterdir())
    before = (first / "record.json").read_bytes()
    assert main(words) == 0
    assert (first / "record.json").read_bytes() == before
    runs = [read_run(folder) for folder in sorted((out / "runs").iterdir())]
    assert [record.norm for record, _ in runs] == ["bn", "bn_wa"]
    record, outputs = runs[0]
    assert outputs.confusion.shape == (4, 3, 3) and outputs.confusion.sum() == 4 * 23 * 32
    assert record.facts["recipe"]["lr"] == 0.05 and record.provenance["torch"]
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["paper"] for row in rows] == ["73.80", "74.87"]
    with (out / "claims.csv").open() as file:
        [claim] = csv.DictReader(file)
    assert (claim["verdict"], claim["paper_as_claimed"], claim["seeds"]) == ("open", "1", "1")  # one seed
    assert float(rows[0]["miou"]) == pytest.approx(100 * mean_iou(outputs.confusion.sum(0)), abs=1e-4)
    assert "paper 74.87" in (out / "table.md").read_text().replace("<br>", "\n") and (out / "table.tex").exists()
    assert Image.open(out / "examples.png").width > 100
    assert json.loads((first / "record.json").read_text())["images"] == [f"street{i}" for i in range(4)]
    monkeypatch.setattr("da_wa.tasks.segmentation.train_segmentation", None)  # nothing is left to train
    assert main(words) == 0
    # The same seed gives the same pixels.
    monkeypatch.undo()
    assert main([*words[:3], f"out={tmp_path / 'again'}", "norms=[bn]", "trainer.accelerator=cpu"]) == 0
    [again] = (tmp_path / "again" / "runs").iterdir()
    assert again.name == first.name
    assert np.array_equal(read_run(again)[1].confusion, outputs.confusion)
