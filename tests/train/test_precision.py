"""precision=auto: the faster of two, decided once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from da_wa.train import precision
from da_wa.train.precision import decided, step_seconds
from da_wa.train.settings import Settings

BATCH = (2, 3, 8, 8)
BACKBONE = {"name": "resnet20", "build": {"depths": [3, 3, 3]}}


@pytest.fixture
def network(monkeypatch):
    """On a processor with bfloat16 units."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def times(monkeypatch, single: float, half: float) -> list[str]:
    measured: list[str] = []

    def seconds(model, images, settings, name):
        measured.append(name)
        return {"32-true": single, "bf16-mixed": half}[name]

    monkeypatch.setattr(precision, "step_seconds", seconds)
    return measured


def test_the_faster_precision_is_chosen_and_the_decision_stays(network, monkeypatch, tmp_path):
    measured = times(monkeypatch, single=1.0, half=2.0)

    def choice(images=BATCH, backbone=BACKBONE) -> str:
        return decided(Settings("cpu"), network, images, tmp_path, backbone).precision

    assert choice() == "32-true"
    assert measured == ["32-true", "bf16-mixed"]
    again = times(monkeypatch, single=2.0, half=1.0)  # another worker would measure something else
    assert choice() == "32-true"
    assert not again
    assert choice(images=(4, 3, 8, 8)) == "bf16-mixed"  # another batch
    assert choice(backbone={"name": "resnet20", "build": {"depths": [9, 9, 9]}}) == "bf16-mixed"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(precision, "cpu", lambda: "another processor")
        assert choice() == "bf16-mixed"
    (kept,) = (path for path in tmp_path.glob("*.json") if '"seconds": {"32-true": 1.0' in path.read_text())
    kept.write_text("torn")
    assert choice() == "bf16-mixed"


def test_nothing_is_measured_where_there_is_nothing_to_decide(network, monkeypatch, tmp_path):
    measured = times(monkeypatch, 1.0, 1.0)
    told = Settings("cpu", precision="bf16-mixed")
    assert decided(told, network, BATCH, tmp_path, BACKBONE) == told
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert decided(Settings("cpu"), network, BATCH, tmp_path, BACKBONE).precision == "auto"
    assert not measured
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["32-true", "bf16-mixed"])
def test_a_measurement_changes_neither_the_network_nor_the_random_generator(network, name):
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    before = torch.get_rng_state()
    assert step_seconds(network, BATCH, Settings("cpu").resolve(network), name) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in state.items())
    assert all(parameter.grad is None for parameter in network.parameters())
