"""Every file of the configuration tree composes, and every part of it can be made."""

from __future__ import annotations

import pytest

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.errors import ConfigError
from da_wa.runs.preflight import preflight
from da_wa.shipped import conf_dir

GIVEN = {
    "features": ["model=timm", "model.name=test_resnet"],
    "folders": ["data.root=x"],
    "lists": ["data.root=x"],
    "probe": ["model=timm", "model.name=test_resnet"],
    "timm": ["model.name=test_resnet"],
    "torchvision": ["model.name=resnet18"],
}
TRAINED_ELSEWHERE = ("timm", "torchvision")
DEEPER = {"resnet34": ["bn_wa"], "resnet101": ["bn_wa"], "resnet152": ["none", "bn_wa"]}
"""Networks with the blocks of resnet18 and resnet50, and the norms that are enough for them."""


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


CHOICES = [
    (g.name, option)
    for g in sorted(conf_dir().iterdir())
    if g.is_dir() and g.name not in ("method", "norm", "select", "study")
    for option in options(g.name)
]


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_composes(group, option):
    experiment = compose([f"{group}={option}", *GIVEN.get(option, [])])
    cfg, norms = experiment.cfg, experiment.norms
    assert list(norms) == cfg["norms"]
    assert cfg["pretrain"]["name"]


@pytest.mark.parametrize("method", options("method"))
def test_every_method_composes(method):
    experiment = compose([f"methods=[{method}]"])
    assert list(experiment.methods) == [method]


@pytest.mark.parametrize("model", options("model"))
def test_every_network_can_be_made_with_every_norm(model):
    norms = [name for name in options("norm") if name != "keep" or model in TRAINED_ELSEWHERE]
    norms = DEEPER.get(model, norms)
    experiment = compose([f"model={model}", f"norms=[{','.join(norms)}]", *GIVEN.get(model, [])])
    preflight(experiment, [], [])


def test_a_network_that_is_built_here_has_nothing_to_keep():
    with pytest.raises(ConfigError, match="model=timm"):
        preflight(compose(["model=resnet20", "norms=[keep]"]), [], [])


@pytest.mark.parametrize(("group", "key"), [("protocol", "protocol"), ("launcher", "launcher"), ("trainer", "trainer")])
def test_every_part_can_be_made(group, key):
    for option in options(group):
        cfg = compose([f"{group}={option}"]).cfg
        assert make(cfg[key]) is not None


def test_labels_of_norms_are_all_different():
    norms = compose([f"norms=[{','.join(options('norm'))}]"]).norms
    labels = [norm["label"] for norm in norms.values()]
    assert len(set(labels)) == len(labels)


def test_the_ten_rows_have_the_papers_names():
    norms = compose([]).norms
    rows = ["Baseline", "WA", "BN", "BN + WA", "GN", "GN + WA", "IN", "IN + WA", "LN", "LN + WA"]
    assert [norm["label"] for norm in norms.values()] == rows


def test_no_argument_is_the_papers_experiment():
    cfg = compose([]).cfg
    assert (cfg["data"]["name"], cfg["model"]["name"], cfg["pretrain"]["label"]) == (
        "Office-31",
        "resnet50",
        "CIFAR-100",
    )
    assert cfg["finetune"]["optimizer"]["lr"] == 0.001
    assert cfg["sources"] == "all"


@pytest.mark.parametrize(
    "wrong", ["report.images=no", "data.verify=off", "trainer.deterministic=maybe", "pretrain.download=null"]
)
def test_a_switch_is_true_or_false(wrong):
    with pytest.raises(ConfigError, match=f"{wrong}: must be true or false"):
        compose([wrong])


def test_the_nearest_option_is_looked_for_where_the_wrong_one_was_meant(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'data\.folders'"):
        compose(["data=folders", "data.root=x", "data.folder=x"])
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "rms.yaml").write_text("label: RMS")
    with pytest.raises(ConfigError, match="Did you mean 'rms'"):
        compose(["norms=[rmss]"], tmp_path)


def test_the_papers_counts_can_be_set():
    cfg = compose(["protocol=paper", "protocol.sizes={A:415,D:73,W:130}"]).cfg
    assert make(cfg["protocol"]).sizes == {"A": 415, "D": 73, "W": 130}


def test_a_missing_folder_of_options_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not a folder"):
        compose([], tmp_path / "nowhere")
