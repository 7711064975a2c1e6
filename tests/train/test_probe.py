"""The head of a linear probe against scikit-learn with another solver, its formula, and without target labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from da_wa.data.augment import Normalize
from da_wa.data.datamodule import Subset
from da_wa.data.mixed import mixed
from da_wa.data.splits import Full
from da_wa.errors import ConfigError
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.train.fit import fit
from da_wa.train.probe import Probe
from da_wa.train.subsets import transfer
from da_wa.train.train import Task

from .conftest import BN_WA, SETTINGS


def blobs(k: int, n: int = 90, d: int = 6, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap; features of very different sizes and a mean far from zero."""
    draw = np.random.default_rng(k)
    labels = np.arange(n) % k
    x = draw.normal(size=(k, d))[labels] + spread * draw.normal(size=(n, d))
    return (x * np.geomspace(0.1, 10, d) + 7).astype(np.float32), labels


def scale(x: np.ndarray) -> float:
    x = x.astype(np.float64)
    return float(np.sqrt(((x - x.mean(0)) ** 2).mean()))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_head_is_scikit_learns_on_the_raw_features(k):
    """A penalty on W with x/s is one of C/s² on the raw x; probabilities do not depend on the form of two classes."""
    x, labels = blobs(k)
    head = Probe([0.3]).fit(x, labels, k, seed=0)
    raw = x.astype(np.float64)
    peer = LogisticRegression(C=0.3 / scale(x) ** 2, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(raw, labels)
    np.testing.assert_allclose(softmax(head(x), axis=1), peer.predict_proba(raw), atol=1e-5)


def test_the_head_minimises_the_objective_that_its_docstring_states():
    x, labels = blobs(4)
    head, s = Probe([0.5]).fit(x, labels, 4, seed=0), scale(x)
    scaled = torch.from_numpy(x.astype(np.float64) / s)
    W = torch.from_numpy(head.weight * s).requires_grad_()
    b = torch.from_numpy(head.bias).requires_grad_()
    loss = torch.nn.functional.cross_entropy(scaled @ W.T + b, torch.from_numpy(labels), reduction="sum")
    (0.5 * loss + (W**2).sum() / 2).backward()
    assert W.grad.abs().max() < 1e-3  # of a sum over 90 images
    assert b.grad.abs().max() < 1e-3


def test_c_is_the_strongest_penalty_within_one_standard_error_of_the_best():
    x, labels = blobs(3, spread=2.5)
    candidates = [10.0, 1e-3, 0.1, 1e-1, 1e-2, 1e-5]
    head = Probe(candidates, folds=4).fit(x, labels, 3, seed=5)
    scaled = (x.astype(np.float64) - x.mean(0, dtype=np.float64)) / scale(x)
    folds = StratifiedKFold(4, shuffle=True, random_state=5)
    expected = {}
    for C in candidates:
        model = LogisticRegression(C=C, solver="newton-cg", tol=1e-10, max_iter=1000)
        expected[C] = (cross_val_predict(model, scaled, labels, cv=folds) == labels).mean()
    assert head.validation == pytest.approx(expected)
    right = {C: round(accuracy * len(labels)) for C, accuracy in expected.items()}
    best = max(right.values())
    error = (best * (len(labels) - best) / len(labels)) ** 0.5  # of a binomial count
    assert min(C for C, count in right.items() if count >= best - error) == head.C
    assert min(C for C, count in right.items() if count == best) != head.C  # the rule matters here
    assert min(candidates) < head.C
    again = Probe(candidates, folds=4).fit(x, labels, 3, seed=5)
    assert (again.weight == head.weight).all()


def test_equal_candidates_give_the_strongest_penalty():
    x = np.repeat(np.eye(2), 6, axis=0)
    head = Probe([1.0, 0.01, 100.0], folds=3).fit(x, np.repeat([0, 1], 6), 2, seed=0)
    assert set(head.validation.values()) == {1.0}
    assert head.C == 0.01


def test_units_of_the_features_do_not_matter():
    x, labels = blobs(3)
    one, other = (Probe([0.1]).fit(factor * x, labels, 3, seed=0) for factor in (1.0, 1000.0))
    np.testing.assert_allclose(other(1000 * x), one(x), atol=1e-4)


def test_a_class_without_images_is_never_predicted():
    x, labels = blobs(2)
    head = Probe([1.0]).fit(x, 2 * labels, 4, seed=0)
    assert set(head(x).argmax(1)) == {0, 2}
    assert head(x).shape == (len(x), 4)


def test_features_that_are_all_equal_give_the_frequencies_of_the_classes():
    labels = np.array([0, 0, 0, 1])
    head = Probe([1.0]).fit(np.ones((4, 3)), labels, 2, seed=0)
    np.testing.assert_allclose(softmax(head(np.ones((1, 3))), axis=1), [[0.75, 0.25]], atol=1e-4)


def test_no_convergence_says_which_option_to_change():
    x, labels = blobs(3)
    with pytest.raises(ConfigError, match=r"C=10 did not converge in 2 iterations.*finetune.iterations"):
        Probe([10.0], iterations=2).fit(x, labels, 3, seed=0)


def test_too_few_training_images_say_what_to_do():
    Probe([0.1]).check_images("A", np.array([0, 1]))
    with pytest.raises(ConfigError, match=r"A has one training image of class 1.*finetune.C=\[0.1\]"):
        Probe([0.1, 1.0]).check_images("A", np.array([0, 0, 1]))
    with pytest.raises(ConfigError, match="one class only"):
        Probe([0.1]).check_images("A", np.array([1, 1]))


@pytest.fixture
def probed(domains, tmp_path):
    """Probes A with a network in training mode, whose target labels can be permuted."""

    def run(permuted=False, folder="cache"):
        torch.manual_seed(0)
        model = ResNet(BN_WA, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8])
        chosen = [
            replace(d, labels=np.random.default_rng(1).permutation(d.labels)) if permuted and d.name != "A" else d
            for d in domains
        ]
        task = Task(
            model=model, subsets=transfer(chosen, "A", Full(0.1), 0), settings=SETTINGS, seed=0,
            normalize=Normalize([0.5] * 3, [0.25] * 3), state=tmp_path / "last.ckpt", cache=tmp_path / folder,
        )  # fmt: skip
        return model, fit(Probe([0.01, 1.0], folds=3), task)

    return run


def test_the_network_with_the_head_predicts_what_is_recorded(probed, domains):
    model, trained = probed()
    for domain in domains:
        outputs = trained.outputs.domains[domain.name]
        images = Normalize([0.5] * 3, [0.25] * 3)(torch.from_numpy(domain.pixels[outputs.index]))
        with torch.no_grad():
            logits = model.eval()(images).numpy()
        np.testing.assert_allclose(outputs.logits[0], logits, atol=2e-2, rtol=2e-3)  # kept as float16
        assert int(outputs.correct[0]) == (outputs.logits[0].argmax(1) == domain.labels[outputs.index]).sum()
        features = model.features(images).detach().numpy()
        np.testing.assert_allclose(outputs.features[0], features, atol=1e-3, rtol=1e-3)  # all, there are few images
        assert (outputs.feature_index == outputs.index).all()
        if domain.name != "A":
            made = mixed(Subset(domain, outputs.index), 200).images.domain.pixels
            with torch.no_grad():
                logits = model.eval()(Normalize([0.5] * 3, [0.25] * 3)(torch.from_numpy(made))).numpy()
            np.testing.assert_allclose(outputs.mixed_logits[0], logits, atol=2e-2, rtol=2e-3)
    (row,) = trained.curve
    assert row["terms"]["C"] in (0.01, 1.0)
    split = Full(0.1).source("A", domains[0].labels, 0)
    images = Normalize([0.5] * 3, [0.25] * 3)(torch.from_numpy(domains[0].pixels[split.train]))
    with torch.no_grad():
        z, y = model.eval()(images).double().numpy(), domains[0].labels[split.train]
    assert row["loss"] == pytest.approx(-log_softmax(z, axis=1)[np.arange(len(y)), y].mean(), abs=1e-4)


def test_target_labels_have_no_influence(probed):
    _, before = probed(folder="one")
    _, after = probed(permuted=True, folder="two")
    for name in "AWD":
        assert (before.outputs.domains[name].logits == after.outputs.domains[name].logits).all()
    assert any(before.outputs.domains[name].correct != after.outputs.domains[name].correct for name in "WD"), (
        "the permutation changed no label"
    )


def test_the_network_itself_does_not_change(probed):
    torch.manual_seed(0)
    fresh = ResNet(BN_WA, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8]).state_dict()
    model, _ = probed()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name]) != name.startswith("head.")
