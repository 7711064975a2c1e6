import pytest

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.errors import ConfigError
from da_wa.train.settings import Settings


@pytest.mark.parametrize(
    ("norm", "channels_last"), [("none", True), ("bn_wa", True), ("ln", True), ("gn", False), ("in_wa", False)]
)
def test_the_layout_is_the_faster_one_in_results_benchmarks(norm: str, channels_last: bool) -> None:
    experiment = compose(["model=resnet20", f"norms=[{norm}]"])
    cfg, norms = experiment.cfg, experiment.norms
    model = make(cfg["model"]["build"])(make(norms[norm]), 2)
    assert Settings(accelerator="cpu").resolve(model).channels_last is channels_last


def test_what_is_given_stays() -> None:
    given = Settings("cpu", precision="32-true", channels_last=False, fused=True)
    experiment = compose(["model=resnet20", "norms=[bn]"])
    cfg, norms = experiment.cfg, experiment.norms
    assert given.resolve(make(cfg["model"]["build"])(make(norms["bn"]), 2)) == given


def test_a_mode_or_backend_that_is_not_there_is_told_at_once() -> None:
    for name in ("reduce-overhead", "cudagraphs", "aot_eager"):
        assert Settings(compile=name).compile == name
    with pytest.raises(ConfigError, match="Did you mean 'reduce-overhead'"):
        Settings(compile="reduce_overhead")
