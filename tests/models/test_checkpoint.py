"""Checkpoints keep weights and facts, and refuse what they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from da_wa.models import checkpoint
from da_wa.models.checkpoint import CheckpointError, Header
from da_wa.models.resnet import ResNet
from da_wa.norm.spec import Norm
from da_wa.norm.weight_align import WeightAlignConv2d

BN = Norm("BN", nn.Conv2d, nn.BatchNorm2d)
BN_WA = Norm("BN + WA", WeightAlignConv2d, nn.BatchNorm2d)


def tiny(norm: Norm, classes: int = 5, width: int = 4) -> ResNet:
    return ResNet(norm, classes, block="basic", depths=[1, 1], widths=[width, 2 * width])


def test_a_backbone_comes_back_whatever_the_head(tmp_path):
    trained, fresh = tiny(BN, 5), tiny(BN, 31)
    path = tmp_path / "sub" / "net.safetensors"
    checkpoint.save(path, trained, Header({"model": "tiny"}, {"correct": 3}))
    checkpoint.load_backbone(path, fresh)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fresh.eval().features(x), trained.eval().features(x))
    assert fresh.head.out_features == 31
    header = checkpoint.read_header(path)
    assert (header.facts, header.result) == ({"model": "tiny"}, {"correct": 3})
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]  # no draft is left


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tied_weights_are_saved_and_stay_tied(tmp_path, dtype):
    def tied():
        model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
        model[1].weight = model[0].weight
        return model

    trained, fresh = tied(), tied()
    checkpoint.save(tmp_path / "net.safetensors", trained, Header({}, {}), dtype)
    checkpoint.load_network(tmp_path / "net.safetensors", fresh)
    assert torch.equal(fresh[0].weight, trained[0].weight.to(dtype).float())
    assert fresh[1].weight is fresh[0].weight


def test_half_precision_rounds_to_eleven_bits(tmp_path):
    trained, fresh = tiny(BN), tiny(BN)
    checkpoint.save(tmp_path / "net.safetensors", trained, Header({}, {}), torch.float16)
    checkpoint.load_backbone(tmp_path / "net.safetensors", fresh)
    assert fresh.stem[0].weight.dtype == torch.float32
    torch.testing.assert_close(fresh.stem[0].weight, trained.stem[0].weight, rtol=2**-11, atol=2**-24)


def test_a_value_too_large_for_half_precision_is_refused(tmp_path):
    model = tiny(BN)
    model.stem[1].running_var.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"running_var .* too large for torch.float16.*pretrain\.dtype=float32"):
        checkpoint.save(tmp_path / "net.safetensors", model, Header({}, {}), torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mask_of_infinite_values_is_saved(tmp_path, dtype):
    mask = torch.full((3, 3), -torch.inf).triu(1)
    trained, fresh = nn.Linear(2, 2), nn.Linear(2, 2)
    trained.register_buffer("mask", mask)
    fresh.register_buffer("mask", torch.zeros(3, 3))
    checkpoint.save(tmp_path / "net.safetensors", trained, Header({}, {}), dtype)
    checkpoint.load_network(tmp_path / "net.safetensors", fresh)
    assert torch.equal(fresh.mask, mask)


@pytest.mark.parametrize(
    ("other", "named"),
    [(tiny(BN_WA), r"missing: .*\.gain.* and 1 more"), (tiny(BN, width=8), r"different shapes: .*\.weight \(4, ")],
)
def test_another_network_is_refused_by_key(tmp_path, other, named):
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, tiny(BN), Header({}, {}))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=named):
        checkpoint.load_backbone(path, other)
    for key, value in other.state_dict().items():  # nothing was copied
        torch.testing.assert_close(value, before[key])


def test_extra_keys_are_named(tmp_path):
    checkpoint.save(tmp_path / "net.safetensors", tiny(BN_WA), Header({}, {}))
    with pytest.raises(CheckpointError, match=r"unexpected: .*gain"):
        checkpoint.load_backbone(tmp_path / "net.safetensors", tiny(BN))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None])
def test_missing_or_torn_files_are_reported(tmp_path, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        checkpoint.read_header(path)


def test_a_truncated_file_is_reported(tmp_path):
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, tiny(BN), Header({}, {}))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        checkpoint.load_backbone(path, tiny(BN))


def test_a_foreign_safetensors_file_is_reported(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no facts"):
        checkpoint.read_header(tmp_path / "other.safetensors")
