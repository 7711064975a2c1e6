"""How command lines become experiments: once, with words of earlier versions, and from files of the user's own."""

from __future__ import annotations

import dataclasses

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import da_wa.config.compose as module
from da_wa.config.compose import compose, rejoin
from da_wa.config.loggers import check_loggers
from da_wa.config.tree import available, options, read_node
from da_wa.errors import ConfigError
from da_wa.shipped import conf_dir

NORM = "_target_: da_wa.norm.spec.Norm\nlabel: {label}\nactivation: null\n"


def test_the_tree_is_composed_once_for_any_number_of_norms_and_models(monkeypatch):
    calls = []
    original = module.hydra_compose
    monkeypatch.setattr(module, "hydra_compose", lambda *args, **more: calls.append(args) or original(*args, **more))
    experiment = compose(["models=[resnet20,resnet18,vgg16]"])
    assert (len(experiment.norms), len(experiment.models), len(calls)) == (10, 3, 1)


def test_a_file_of_the_users_own_cannot_have_the_name_of_one_of_the_package(tmp_path):
    for group in ("norm", "study"):
        (tmp_path / group).mkdir()
    (tmp_path / "norm" / "bn.yaml").write_text(NORM.format(label="MY BN"))
    with pytest.raises(ConfigError, match=r"norm/bn\.yaml: the package has norm=bn, which would be used instead"):
        compose(["norms=[bn]"], tmp_path)
    (tmp_path / "norm" / "bn.yaml").rename(tmp_path / "norm" / "my_bn.yaml")
    assert compose(["norms=[my_bn]"], tmp_path).norms["my_bn"]["label"] == "MY BN"


def test_a_program_that_uses_hydra_can_compose_experiments(tmp_path):
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert list(compose(["norms=[bn]"]).norms) == ["bn"]
        with pytest.raises(ConfigError):
            compose(["norms=[bnn]"])
        assert GlobalHydra.instance().hydra is outer
    assert not GlobalHydra.instance().is_initialized()


def test_an_experiment_cannot_be_reassigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose(["norms=[bn]"]).cfg = {}


def test_without_models_the_one_model_is_compared():
    experiment = compose(["norms=[bn]", "model=resnet20", "model.build.widths=[4,4,4]"])
    assert experiment.models == {"resnet20": experiment.cfg["model"]}
    assert experiment.models["resnet20"]["build"]["widths"] == [4, 4, 4]


def test_models_are_an_axis_in_the_given_order():
    experiment = compose(["norms=[bn]", "models=[resnet20,resnet18,resnet20]"])
    assert list(experiment.models) == ["resnet20", "resnet18"]
    assert experiment.models["resnet20"]["build"]["depths"] == [3, 3, 3]
    assert experiment.models["resnet18"]["build"]["depths"] == [2, 2, 2, 2]
    assert experiment.cfg["model"] == experiment.models["resnet20"]
    assert experiment.cfg["out"] == "out/Office-31-resnet20"


def test_a_value_of_the_model_is_set_for_each_of_several():
    experiment = compose(["norms=[bn]", "models=[resnet20,resnet18]", "model.gain_init=fixup"])
    assert {model["build"]["gain_init"] for model in experiment.models.values()} == {"fixup"}
    with pytest.raises(ConfigError, match="model vgg16: there is no option 'gain_init'"):
        compose(["models=[resnet20,vgg16]", "model.gain_init=fixup"])


def test_several_models_are_validated_each():
    with pytest.raises(ConfigError, match=r"model\.gain_init=foo|gain_init=foo"):
        compose(["models=[resnet20,resnet18]", "model.gain_init=foo"])


def test_every_norm_is_read_as_hydra_composes_it():
    """The same node as by Hydra's own ``+norm=NAME``, which took a composition for each."""
    names = list(options("norm", [conf_dir()]))
    norms = compose([f"norms=[{','.join(names)}]"]).norms
    for name in names[::4]:
        tree = module._compose([f"+norm={name}"], [conf_dir()])
        assert norms[name] == module.OmegaConf.to_container(tree.norm, resolve=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["norms=[bn,", "bn_wa]", "seeds=[0]"], ["norms=[bn, bn_wa]", "seeds=[0]"]),
        (["protocol.sizes={A:", "415,", "D:", "73}"], ["protocol.sizes={A: 415, D: 73}"]),
        (["norms=[bn, bn_wa]"], ["norms=[bn, bn_wa]"]),
        (["seeds=[", "norms=[bn]"], ["seeds=[", "norms=[bn]"]),
        (["data.root=/a[b", "norms=[bn]"], ["data.root=/a[b", "norms=[bn]"]),
        ([], []),
    ],
)
def test_a_list_that_the_shell_split_is_put_together(words, expected):
    assert rejoin(words) == expected


def test_a_list_with_spaces_is_understood():
    assert list(compose(["norms=[bn,", "bn_wa]"]).norms) == ["bn", "bn_wa"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("normalise.mean=[0,0,0]", "normalize.mean=[0,0,0]"),
        ("finetune.schedule._target_=da_wa.train.schedule.cosine", "finetune.schedule.name=cosine"),
        ("finetune.schedule._target_=da_wa.train.schedule.one_cycle", "finetune.schedule.name=one_cycle"),
        ("pretrain.recipe.schedule._target_=da_wa.train.schedule.cosine", "pretrain.recipe.schedule.name=cosine"),
        ("finetune.optimizer._target_=torch.optim.AdamW", "finetune.optimizer.name=adamw"),
        ("pretrain.recipe.optimizer._target_=torch.optim.RMSprop", "pretrain.recipe.optimizer.name=rmsprop"),
        ("finetune.augment._target_=da_wa.data.augment.Augment", "finetune.augment.flip=true"),
    ],
)
def test_a_command_line_of_an_earlier_version_means_the_same(old, new):
    assert compose(["norms=[bn]", old]).cfg == compose(["norms=[bn]", new]).cfg


def test_an_experiment_file_of_an_earlier_version_means_the_same(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nfinetune:\n  schedule: {_target_: da_wa.train.schedule.cosine, _partial_: true}\n"
    )
    cfg = compose(["experiment=mine", "norms=[bn]"], tmp_path).cfg
    assert cfg["finetune"]["schedule"] == {"name": "cosine"}


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_callable_of_the_users_own_replaces_the_name(prefix):
    cfg = compose(["norms=[bn]", f"{prefix}finetune.optimizer._target_=mine.Lion"]).cfg
    assert cfg["finetune"]["optimizer"]["_target_"] == "mine.Lion"
    assert "name" not in cfg["finetune"]["optimizer"]


def test_files_of_the_users_own(tmp_path):
    for group, name, text in [
        ("norm", "mine", NORM.format(label="Mine")),
        ("norm", "derived", "defaults: [mine]\nlabel: Derived\n"),
        ("norm", "other", "defaults: [bn]\nlabel: BN of ${data.name}\n"),
        ("model", "plain", "name: plain\nwide: 3\nbuild: {_target_: layers.Plain, width: '${..wide}'}\n"),
        ("data", "birds", "name: birds\nsize: 8\non_bad: error\nclasses: equal\nextra: {}\nflock: 3\n"
                          "domains: {_target_: birds.load, flock: '${data.flock}'}\n"),
        ("protocol", "half", "_target_: birds.Half\nname: half\nshare: 0.5\n"),
    ]:  # fmt: skip
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{name}.yaml").write_text(text)
    options = ["norms=[mine,derived,other]", "model=plain", "data=birds", "protocol=half", "+data.domains.nest=2"]
    experiment = compose(options, tmp_path)
    assert [node["label"] for node in experiment.norms.values()] == ["Mine", "Derived", "BN of birds"]
    assert experiment.norms["derived"]["_target_"] == "da_wa.norm.spec.Norm"
    assert experiment.cfg["model"]["build"]["width"] == 3
    assert experiment.cfg["data"]["domains"] == {"_target_": "birds.load", "flock": 3, "nest": 2}
    with pytest.raises(ConfigError, match=r"data\.size=true"):
        compose([*options, "data.size=true"], tmp_path)
    assert list(compose(["models=[plain,resnet20]", *options[:1], *options[2:]], tmp_path).models) == [
        "plain",
        "resnet20",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label: [", "not valid YAML"),
        ("- a\n- b\n", "must contain options"),
        ("_target_: a.B\n", "norm mine: label is missing"),
        ("label: X\n", "norm mine: _target_ is missing"),
        (NORM.format(label=5), "norm mine: label=5: must be text"),
        (NORM.format(label="X") + "version: new\n", "norm mine: version=new"),
        ("defaults: [mine]\n" + NORM.format(label="X"), "must name other options of norm"),
        ("defaults: [nowhere]\n" + NORM.format(label="X"), "no norm called 'nowhere'"),
        (NORM.format(label="${nowhere}"), "nowhere"),
    ],
)
def test_a_wrong_file_of_the_users_own_is_named(tmp_path, text, said):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        compose(["norms=[mine]"], tmp_path)
    assert said in str(error.value)


def test_a_folder_with_a_quote_and_a_space_in_its_name(tmp_path):
    extra = tmp_path / "l'été de 2026, [x]"
    (extra / "norm").mkdir(parents=True)
    (extra / "norm" / "mine.yaml").write_text(NORM.format(label="Mine"))
    (extra / "report").mkdir()
    (extra / "report" / "quiet.yaml").write_text("images: false\nspread: none\ncompare: []\n")
    experiment = compose(["norms=[mine]", "report=quiet", f"data.root={tmp_path}/bilder/für"], extra)
    assert experiment.norms["mine"]["label"] == "Mine"
    assert experiment.cfg["report"]["images"] is False
    assert experiment.cfg["data"]["root"] == f"{tmp_path}/bilder/für"


def test_options_are_listed_with_a_description(tmp_path):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "rms.yaml").write_text("# Root mean square.\nlabel: RMS\n")
    (tmp_path / "norm" / "short.yaml").write_text("label: A label alone\n")
    norms = dict(available("norm", tmp_path))
    assert norms["short"] == "A label alone"
    assert norms["rms"] == "Root mean square."
    assert norms["bn_wa"] == "BatchNorm with WeightAlign (Shi et al. 2020)."
    assert dict(available("experiment"))["demo"].startswith("No download")
    assert {"office31", "folders"} <= dict(available("data")).keys()
    with pytest.raises(ConfigError, match="Did you mean 'norm'"):
        available("norms")


def test_a_file_of_the_package_wins_over_one_of_the_same_name(tmp_path):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "bn.yaml").write_text(NORM.format(label="Not BN"))
    assert read_node("norm", "bn", [conf_dir(), tmp_path]).label == "BN"


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow"])
def test_a_missing_logger_package_is_named_with_the_command_that_installs_it(monkeypatch, name):
    monkeypatch.setattr("da_wa.config.loggers.find_spec", lambda package: None)
    cfg = compose(["norms=[bn]", f"logger={name}"]).cfg
    with pytest.raises(
        ConfigError, match=rf"uv sync --extra {name} in a clone, or pip install 'PATH_OF_CLONE\[{name}\]'"
    ):
        check_loggers(cfg["logger"])
    monkeypatch.setattr("da_wa.config.loggers.find_spec", lambda package: package)
    check_loggers(cfg["logger"])
