"""Bottleneck and head on frozen features: plain PyTorch in float64, the images themselves, resuming, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from da_wa.adapt.method import Method
from da_wa.adapt.methods.mcc import MCC
from da_wa.data.augment import Normalize
from da_wa.data.datamodule import Subset
from da_wa.data.mixed import mixed
from da_wa.data.splits import Full
from da_wa.errors import ConfigError
from da_wa.models.bottleneck import Bottleneck
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.train import subsets
from da_wa.train.adaptation import Adaptation
from da_wa.train.features import Extractor
from da_wa.train.fit import fit
from da_wa.train.frozen import Frozen
from da_wa.train.recipe import make_recipe
from da_wa.train.train import Task

from .conftest import BN_WA, SETTINGS

NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)
LR, DECAY, GAMMA = 0.5, 1e-2, 0.5


def frozen(**changes) -> Frozen:
    """As ``conf/finetune/features.yaml`` has it, with rates at which two steps are seen in every weight."""
    node = {
        "_target_": "da_wa.train.frozen.Frozen",
        "name": "features",
        "width": 6,
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"name": "sgd", "lr": LR, "momentum": 0.9, "nesterov": True, "weight_decay": DECAY},
        "schedule": {"name": "inverse", "gamma": GAMMA, "power": 0.75},
    }
    return make_recipe({**node, **changes})


def network() -> Bottleneck:
    torch.manual_seed(0)
    return frozen().network(ResNet(BN_WA, 3, block=BasicBlock, depths=[1, 1], widths=[4, 8]))


def method(name: str) -> Adaptation | None:
    return Adaptation(MCC(), weight=0.7) if name == "mcc" else None


@pytest.fixture
def task(domains, tmp_path):
    def make(chosen: subsets.Subsets | None = None, **changes) -> Task:
        return Task(
            **{
                "model": network(),
                "subsets": chosen or subsets.transfer(domains, "A", Full(0.1), 0),
                "normalize": NORMALIZE,
                "settings": SETTINGS,
                "seed": 0,
                "state": tmp_path / "last.ckpt",
                "cache": tmp_path / "cache",
                **changes,
            }
        )

    return make


def test_features_are_not_compiled(domains, task):
    """They are computed by a part of the network, which a compiled network does not compile."""
    trained = fit(frozen(batch_size=36), task(settings=replace(SETTINGS, compile=True)))
    assert trained.cost.settings.compile is None


@pytest.mark.parametrize("name", ["none", "mcc"])
def test_two_steps_are_those_of_plain_pytorch_in_float64(domains, task, name):
    """Batches of all images, so that their order does not matter."""
    source, target = (Subset(domain, np.arange(36)) for domain in domains[:2])
    chosen = subsets.Subsets(source, [target], target=target)
    model = network()
    fit(frozen(batch_size=36), task(chosen, model=model, adaptation=method(name)))

    plain = network().eval()
    with torch.no_grad():
        x, y = (
            plain.network.features(NORMALIZE(torch.from_numpy(s.domain.pixels[:36]))).double() for s in (source, target)
        )
    labels, tail = torch.from_numpy(source.labels), nn.ModuleList([plain.bottleneck, plain.head]).double()
    moving = {p: torch.zeros_like(p) for p in tail.parameters()}
    for step in range(2):
        z, t = (plain.head(F.relu(plain.bottleneck(features))) for features in (x, y))
        loss = F.cross_entropy(z, labels) + (0.7 * mcc(t) if name == "mcc" else 0)
        gradients = torch.autograd.grad(loss, list(moving))
        with torch.no_grad():
            for p, g in zip(list(moving), gradients, strict=True):
                g = g + DECAY * p
                moving[p] = 0.9 * moving[p] + g
                p -= LR * (1 + GAMMA * step) ** -0.75 * (g + 0.9 * moving[p])
    for ours, expected in zip((model.bottleneck, model.head), tail, strict=True):
        torch.testing.assert_close(ours.weight.double(), expected.weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.bias.double(), expected.bias, rtol=1e-4, atol=1e-6)


def mcc(logits: torch.Tensor) -> torch.Tensor:
    """Jin et al. 2020, eq. 2 to 6: temperature 2.5, no gradient of the weights."""
    p = (logits / 2.5).softmax(1)
    weights = 1 + (p * p.log()).sum(1).exp().detach()
    c = p.T @ (len(p) * weights / weights.sum() * p.T).T
    c = c / c.sum(1, keepdim=True)
    return (c.sum() - c.trace()) / p.shape[1]


def test_the_kept_network_predicts_from_images_what_is_recorded(domains, task):
    model, before = network(), network().state_dict()
    trained = fit(frozen(), task(model=model, settings=replace(SETTINGS, resident_gb=0.0)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("network."), name
    model.eval()
    for domain in domains:
        outputs = trained.outputs.domains[domain.name]
        images = NORMALIZE(torch.from_numpy(domain.pixels[outputs.index]))
        with torch.no_grad():
            features, logits = model.features(images).numpy(), model(images).numpy()
        np.testing.assert_allclose(outputs.logits[-1], logits, atol=2e-2, rtol=2e-3)  # kept as float16
        np.testing.assert_allclose(outputs.features[-1], features, atol=2e-3, rtol=2e-3)  # all, there are few images
        assert (outputs.feature_index == outputs.index).all()
        if domain.name != "A":
            made = mixed(Subset(domain, outputs.index), 200).images.domain.pixels
            with torch.no_grad():
                logits = model(NORMALIZE(torch.from_numpy(made))).numpy()
            np.testing.assert_allclose(outputs.mixed_logits[-1], logits, atol=2e-2, rtol=2e-3)
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]


def test_features_are_computed_once_and_an_interrupted_training_resumes(domains, task, tmp_path, monkeypatch):
    """With a method that has its own order of images; from the cache and the state alone."""
    chosen = subsets.adaptation(domains, "A", "W", Full(0.1), 0, with_source=True)
    recipe = frozen(epochs=4, evaluations=2)
    whole = fit(recipe, task(chosen, adaptation=method("mcc"), state=tmp_path / "other.ckpt"))
    assert whole.resumed_from == 0

    def gone(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Extractor, "_compute", gone)

    def stop(done: int, epochs: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(recipe, task(chosen, adaptation=method("mcc"), notify=stop))
    resumed = fit(recipe, task(chosen, adaptation=method("mcc")))
    assert resumed.resumed_from == 2
    assert resumed.curve == whole.curve
    for name, outputs in resumed.outputs.domains.items():
        assert (outputs.logits == whole.outputs.domains[name].logits).all()
        assert outputs.logits.shape[0] == 2


def test_the_small_network_trains_in_32_bits_whatever_the_features_were_computed_in(task):
    half = fit(frozen(epochs=1), task(settings=replace(SETTINGS, precision="bf16-mixed")))
    assert half.cost.environment()["precision"] == "bf16-mixed"  # of the features
    features = half.outputs.domains["W"].features[0].astype(np.float32)
    rounded = torch.from_numpy(features).bfloat16().float().numpy()
    assert (features != rounded).any()


class Undeclared(Method):
    """Asks for a second view without saying so."""

    phase = "joint"

    def loss(self, step):
        return {"second": step.strong().logits.mean()}


def test_a_second_view_is_refused_also_where_a_method_does_not_declare_it(domains, task):
    chosen = subsets.adaptation(domains, "A", "W", Full(0.1), 0, with_source=True)
    with pytest.raises(ConfigError, match=r"compares two views.*finetune=default"):
        fit(frozen(), task(chosen, adaptation=Adaptation(Undeclared())))
