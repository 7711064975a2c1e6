import pytest
import torch
from torch import nn

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.errors import ConfigError
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm import named
from da_wa.train.engine import interruptible
from da_wa.train.settings import Settings


def network(norm: str) -> nn.Module:
    experiment = compose(["model=resnet20", f"norms=[{norm}]"])
    made: nn.Module = make(experiment.models["resnet20"]["build"])(make(experiment.norms[norm]), 2)
    return made


@pytest.mark.parametrize(
    ("norm", "channels_last"), [("none", True), ("bn_wa", True), ("ln", True), ("gn", False), ("in_wa", False)]
)
def test_the_layout_is_the_faster_one_in_results_benchmarks(norm: str, channels_last: bool) -> None:
    assert Settings(accelerator="cpu").resolve(network(norm)).channels_last is channels_last


@pytest.mark.parametrize(
    ("norm", "compile"), [("none", False), ("bn_wa", False), ("ln", False), ("gn", True), ("in", True)]
)
def test_what_is_compiled_is_faster_so_in_results_benchmarks(norm: str, compile: bool) -> None:
    resolved = Settings(accelerator="cpu", compile="auto").resolve(network(norm))
    assert (resolved.compile, resolved.channels_last) == (compile, True)
    on_gpu = Settings(accelerator="gpu", compile="auto").resolve(network(norm))
    assert on_gpu.compile is False and on_gpu.channels_last is not compile


def test_what_is_given_stays() -> None:
    given = Settings("cpu", precision="32-true", channels_last=False, fused=True)
    assert given.resolve(network("bn")) == given


def test_a_mode_or_backend_that_is_not_there_is_refused_at_once() -> None:
    for name in ("reduce-overhead", "cudagraphs", "aot_eager"):
        assert Settings(compile=name).compile == name
    with pytest.raises(ConfigError, match="Did you mean 'reduce-overhead'"):
        Settings(compile="reduce_overhead")


def test_cuda_is_another_name_of_the_gpu(monkeypatch) -> None:
    model = nn.Linear(1, 1)
    assert Settings(accelerator="cuda").resolve(model) == Settings(accelerator="gpu").resolve(model)
    assert Settings(accelerator="gpu").resolve(model).device == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "gpu"):
        with pytest.raises(ConfigError, match=f"trainer.accelerator={name}: this machine has none"):
            Settings(accelerator=name).check_device()
    Settings(accelerator="cpu").check_device()


def test_an_operation_without_a_deterministic_kernel_names_the_option() -> None:
    values, first = torch.zeros(4), torch.tensor([0])
    torch.use_deterministic_algorithms(True)
    try:
        said = r"trainer\.deterministic=false.*torch says: .*put_"
        with pytest.raises(ConfigError, match=said) as caught, interruptible():
            values.put_(first, torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="shape"), interruptible():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_narrow_networks_never_get_the_layout_in_which_their_gradients_are_wrong() -> None:
    narrow = ResNet(named("bn"), 3, block=BasicBlock, depths=[1, 1], widths=[4, 8])
    assert Settings(accelerator="cpu").resolve(narrow).channels_last is False
    with pytest.raises(ConfigError, match=r"channels_last=true: .* use auto or false"):
        Settings(accelerator="cpu", channels_last=True).resolve(narrow)
    wide = ResNet(named("bn"), 3, block=BasicBlock, depths=[1, 1], widths=[16, 32])
    assert Settings(accelerator="cpu").resolve(wide).channels_last is True
