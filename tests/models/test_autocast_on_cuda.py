"""Which types a network computes in on a GPU, found out without one: fake tensors know types and devices alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.norm import group_norm

TEN = ["none", "wa", "bn", "bn_wa", "gn", "gn_wa", "in", "in_wa", "ln", "ln_wa"]


@pytest.fixture
def autocast() -> Iterator[None]:
    """bfloat16 autocast on a CUDA device that is not there; ``torch.autocast`` itself would look for it."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    with FakeTensorMode(), torch.device("cuda"):
        yield
    torch.set_autocast_dtype("cuda", before)
    torch.set_autocast_enabled("cuda", False)
    torch.clear_autocast_cache()


@pytest.mark.usefixtures("autocast")
def test_group_norm_keeps_the_type_of_its_input_where_torchs_does_not() -> None:
    x = torch.empty(2, 8, 4, 4, dtype=torch.bfloat16)
    assert nn.GroupNorm(4, 8)(x).dtype == torch.float32
    assert group_norm(8, groups=4)(x).dtype == torch.bfloat16


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("model", ["resnet20", "resnet50"])
@pytest.mark.parametrize("norm", TEN)
def test_the_residual_stream_is_bfloat16_under_every_norm(model: str, norm: str) -> None:
    experiment = compose([f"model={model}", f"norms=[{norm}]"])
    cfg, norms = experiment.cfg, experiment.norms
    network = make(cfg["model"]["build"])(make(norms[norm]), 31)
    types: list[torch.dtype] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        types.append(output.dtype)

    for block in network.stages.modules():
        if hasattr(block, "branch"):
            block.register_forward_hook(note)
    network(torch.empty(2, 3, 32, 32))
    assert len(types) >= 9
    assert set(types) == {torch.bfloat16}
