"""One run: learns, repeats, resumes to the same numbers, names its selections, fails cleanly."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

from da_wa.data.augment import Augment, Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.splits import Full
from da_wa.errors import ConfigError, Diverged
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d
from da_wa.train import schedule
from da_wa.train.finetune import Finetuned, finetune, select
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings

SETTINGS = Settings(accelerator="cpu", precision="32-true", channels_last=True, save_every_s=0.0)
BN_WA = Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d)


def domains(n: int = 40) -> list[DecodedDomain]:
    """Three classes told by which colour channel is bright; the domains differ in contrast."""
    made = []
    for k, (name, contrast) in enumerate([("A", 200), ("W", 150), ("D", 100)]):
        draw = np.random.default_rng(k)
        labels = np.arange(n) % 3
        pixels = draw.integers(0, 50, (n, 3, 8, 8), np.uint8)
        pixels[np.arange(n), labels] += np.uint8(contrast)
        made.append(DecodedDomain(name, pixels, labels, tuple(map(str, range(n))), name, ("r", "g", "b")))
    return made


def recipe(lr: float = 0.05, epochs: int = 4, **kwargs) -> Recipe:
    return Recipe(
        epochs,
        batch_size=8,
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9),
        schedule=schedule.cosine,
        augment=Augment(),
        **{"evaluations": 2, **kwargs},
    )


FOUR_EPOCHS = recipe()


def run(
    workdir: Path, norm: Norm = BN_WA, recipe: Recipe = FOUR_EPOCHS, notify=lambda done, total: None, seed=0
) -> Finetuned:
    torch.manual_seed(seed)
    return finetune(
        ResNet(norm, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8]),
        domains(),
        "A",
        protocol=Full(0.1),
        recipe=recipe,
        normalize=Normalize([0.5] * 3, [0.25] * 3),
        seed=seed,
        settings=SETTINGS,
        workdir=workdir,
        notify=notify,
    )


def same(one: Finetuned, other: Finetuned) -> None:
    assert one.curve == other.curve
    assert one.results == other.results
    assert one.predictions.keys() == other.predictions.keys()
    for key, value in one.predictions.items():
        np.testing.assert_array_equal(value, other.predictions[key])


def test_a_run_learns_and_its_counts_are_those_of_its_predictions(tmp_path):
    outcome = run(tmp_path)
    assert [row["epoch"] for row in outcome.curve] == [1, 2, 3, 4]
    assert outcome.predictions["epochs"].tolist() == [2, 4]
    last = {r["domain"]: r for r in outcome.results if r["selection"] == "last"}
    assert last["W"]["correct"] / last["W"]["n"] > 0.8  # chance is 0.33
    for k, name in enumerate("AWD"):
        predicted = torch.from_numpy(outcome.predictions[f"predicted_{k}"][-1].astype(np.int64))
        labels = torch.from_numpy(outcome.predictions[f"label_{k}"].astype(np.int64))
        expected = multiclass_accuracy(predicted, labels, 3, average="micro")
        assert last[name]["correct"] / last[name]["n"] == pytest.approx(float(expected))
        assert len(labels) == last[name]["n"]
    assert last["A"]["role"] == "source"
    assert last["A"]["n"] == 3  # a tenth of 14, 13 and 13 images, rounded
    assert last["D"]["n"] == 40


def test_the_same_seed_repeats_and_another_does_not(tmp_path):
    first, second, third = run(tmp_path / "1"), run(tmp_path / "2"), run(tmp_path / "3", seed=1)
    same(first, second)
    assert first.curve != third.curve


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_is_cut_off_resumes_to_the_same_numbers(tmp_path, after):
    whole = run(tmp_path / "whole")

    def cut(done: int, total: int) -> None:
        if done == after:
            raise RuntimeError("power cut")

    (tmp_path / "cut").mkdir()
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", notify=cut)
    state = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    (before,) = (clock for clock in state["callbacks"].values() if "train_s" in clock)
    epochs: list[int] = []
    resumed = run(tmp_path / "cut", notify=lambda done, total: epochs.append(done))
    assert epochs == list(range(after + 1, 5))
    assert resumed.fitted.resumed_from == after
    same(whole, resumed)
    assert resumed.fitted.flops == whole.fitted.flops
    assert 0 < before["train_s"] < resumed.fitted.train_s
    assert before["train_s"] + before["eval_s"] <= before["total_s"] < resumed.fitted.total_s


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_torn_training_state_is_not_used(tmp_path, content):
    whole = run(tmp_path / "whole")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "last.ckpt").write_bytes(content)
    same(whole, run(tmp_path / "torn"))


def test_a_loss_that_is_not_finite_ends_the_run_with_its_epoch(tmp_path):
    with pytest.raises(Diverged, match="epoch 1") as caught:
        run(tmp_path, recipe=recipe(lr=1e20), norm=Norm("Baseline"))
    assert caught.value.epoch == 1


def test_the_last_epoch_is_always_evaluated(tmp_path):
    outcome = run(tmp_path, recipe=recipe(epochs=5, evaluations=2))
    assert outcome.predictions["epochs"].tolist() == [3, 5]
    assert {r["epoch"] for r in outcome.results if r["selection"] == "last"} == {5}


@pytest.mark.parametrize(("epochs", "evaluations"), [(11, 6), (7, 3), (12, 3), (3, 5), (30, 6)])
def test_there_are_at_most_as_many_evaluations_as_asked_for(epochs, evaluations):
    every = recipe(epochs=epochs, evaluations=evaluations).evaluate_every
    points = {*range(every, epochs + 1, every), epochs}
    assert len(points) <= evaluations


def evaluation(epoch: int, **correct: int) -> list[dict]:
    roles = {"A": "source"}
    return [
        {"epoch": epoch, "domain": d, "role": roles.get(d, "target"), "correct": c, "n": 10} for d, c in correct.items()
    ]


def test_selections_use_what_their_names_say():
    rows = (
        evaluation(1, A=5, W=9, D=1)
        + evaluation(2, A=8, W=2, D=7)
        + evaluation(3, A=8, W=3, D=3)
        + evaluation(4, A=6, W=4, D=7)
    )
    picked = {(r["selection"], r["domain"]): (r["epoch"], r["correct"]) for r in select(rows)}
    assert picked == {
        ("last", "A"): (4, 6), ("last", "W"): (4, 4), ("last", "D"): (4, 7),
        ("source_val", "A"): (3, 8), ("source_val", "W"): (3, 3), ("source_val", "D"): (3, 3),
        ("target_oracle", "W"): (1, 9), ("target_oracle", "D"): (4, 7),
    }  # fmt: skip


def test_target_labels_choose_nothing_but_the_oracle():
    """With other target accuracies, `last` and `source_val` take the same epochs."""
    one = evaluation(1, A=9, W=0) + evaluation(2, A=5, W=9)
    other = evaluation(1, A=9, W=9) + evaluation(2, A=5, W=0)
    for selection in ("last", "source_val"):
        epochs = [{r["epoch"] for r in select(rows) if r["selection"] == selection} for rows in (one, other)]
        assert epochs[0] == epochs[1]


@pytest.mark.parametrize("field", ["epochs", "evaluations"])
def test_a_recipe_needs_at_least_one(field):
    with pytest.raises(ConfigError, match=f"{field} is 0"):
        recipe(**{field: 0})


def test_confidences_and_features_are_those_of_the_trained_network(tmp_path):
    outcome = run(tmp_path)
    for k in range(3):
        confidence = outcome.predictions[f"confidence_{k}"]
        assert confidence.shape == outcome.predictions[f"index_{k}"].shape
        assert ((confidence > 1 / 3 - 1e-3) & (confidence <= 1)).all()  # the largest of three probabilities
        assert outcome.predictions[f"feature_{k}"].shape == (40, 8)
        assert outcome.predictions[f"feature_index_{k}"].tolist() == list(range(40))
    other = run(tmp_path / "other", seed=1).predictions
    assert not np.array_equal(outcome.predictions["feature_1"], other["feature_1"])
    np.testing.assert_array_equal(outcome.predictions["feature_index_1"], other["feature_index_1"])
