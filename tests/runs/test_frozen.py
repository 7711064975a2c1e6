"""Methods on frozen features as units: which can run, what is kept, and that an experiment's recipe can be replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.errors import ConfigError
from da_wa.models.checkpoint import CheckpointError, load_network
from da_wa.models.resnet import BasicBlock, ResNet
from da_wa.norm import named
from da_wa.records.store import Store
from da_wa.report import scoring
from da_wa.runs.preflight import preflight
from da_wa.select.catalogue import evaluate, load
from da_wa.train.frozen import Frozen
from da_wa.train.recipe import make_recipe

ON_FEATURES = ["afn", "bnm", "cdan", "coral", "dan", "dann", "mcc", "mdd", "shot"]
INSTEAD = "use finetune=default or finetune=imagenet with it"
TRAINABLE = r"use methods=\[shot\], another norm, or a finetune=… that trains the whole network"
SMALL = [
    "experiment=features", "model=resnet20", "pretrain=cifar100_short", "norms=[bn]", "data=digits", "data.size=32",
    "finetune.input.size=null",
]  # fmt: skip


def test_methods_that_need_features_only_can_run():
    preflight(compose([*SMALL, f"methods=[none,{','.join(ON_FEATURES)}]"]), [], [])


@pytest.mark.parametrize(
    ("method", "reason", "instead"),
    [
        (
            "adabn",
            r"changes norms \(bn, brn\) of the network, which is frozen",
            INSTEAD,
        ),
        ("bn_stats", r"changes norms \(bn, brn\) of the network, which is frozen", INSTEAD),
        ("dsbn", r"changes norms \(bn, brn\) of the network, which is frozen", INSTEAD),
        ("fixmatch", "compares two views of each image", INSTEAD),
        ("tent", "no affine parameters", TRAINABLE),
        ("sar", "no affine parameters", TRAINABLE),
    ],
)
def test_methods_that_need_more_are_refused_before_the_first_run(method, reason, instead):
    said = rf"method {method} cannot be used with norm bn, finetune=features: .*{reason}.*{instead}"
    with pytest.raises(ConfigError, match=said):
        preflight(compose([*SMALL, f"methods=[none,mcc,{method}]"]), [], [])


@pytest.mark.parametrize("recipe", ["features", "probe", "default"])
def test_another_recipe_takes_the_place_of_an_experiments_own(recipe):
    preflight(compose(["experiment=demo", "norms=[bn]", f"finetune={recipe}"]), [], [])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("finetune.width=0", "finetune.width=0: must be a whole number, 1 or more"),
        ("finetune.backbone_rate=0.1", "no option 'finetune.backbone_rate'"),
        ("finetune.schedule.name=cosine", "finetune.schedule.gamma=0.001: cosine has no such option"),
    ],
)
def test_a_wrong_option_is_named(option, said):
    with pytest.raises(ConfigError, match=said):
        compose([*SMALL, option])


def test_an_optimizer_of_ones_own_is_known_by_its_path():
    words = ["~finetune.optimizer.name", "+finetune.optimizer._target_=torch.optim.ASGD"]
    words += [f"~finetune.optimizer.{key}" for key in ("momentum", "nesterov")]
    recipe = make_recipe(compose([*SMALL, *words]).cfg["finetune"])
    assert isinstance(recipe, Frozen) and recipe.width == 256
    (group,) = recipe.optimizer([torch.zeros(1, requires_grad=True)]).param_groups
    assert (group["lr"], group["weight_decay"], "lambd" in group) == (0.01, 1e-3, True)


@pytest.mark.parametrize("recipe", ["features", "probe"])
def test_a_random_network_is_not_frozen(recipe, tmp_path):
    words = ["model=timm", "model.name=test_resnet", "norms=[keep]", "pretrain=none", "data=digits"]
    with pytest.raises(ConfigError, match=rf"finetune={recipe} freezes.*test_resnet.*model\.weights=….*pretrain=…"):
        preflight(compose([*words, f"finetune={recipe}"]), [], [])
    preflight(compose([*words, "finetune=default"]), [], [])
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    preflight(compose([*words, f"finetune={recipe}", f"model.weights={tmp_path}/weights.safetensors"]), [], [])
    preflight(compose([*words, f"finetune={recipe}", "pretrain=cifar100_short"]), [], [])


def test_statistics_are_frozen_where_they_fit_the_network(tmp_path):
    words = ["model=timm", "model.name=test_resnet", "pretrain=none", "data=digits", "finetune=default"]
    words += ["finetune.frozen_statistics=true"]
    with pytest.raises(ConfigError, match=r"frozen_statistics=true: test_resnet starts from its initialisation"):
        preflight(compose([*words, "norms=[keep]"]), [], [])
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    words += [f"model.weights={tmp_path}/weights.safetensors"]
    preflight(compose([*words, "norms=[keep]"]), [], [])
    with pytest.raises(ConfigError, match=r"changes the filters of test_resnet.*\d+ BatchNorms.*norms=\[keep\]"):
        preflight(compose([*words, "norms=[keep,bn_wa]"]), [], [])
    with pytest.raises(ConfigError, match=r"method dsbn has statistics of each domain"):
        preflight(compose([*words, "norms=[keep]", "methods=[none,dsbn]"]), [], [])
    preflight(compose([*words, "norms=[keep,wn]"]), [], [])  # gains alone: the filters are the same
    preflight(compose([*words, "norms=[keep,wa]"]), [], [])  # no BatchNorm is left
    own = ["model=resnet20", "pretrain=cifar100_short", "data=digits", "finetune.frozen_statistics=true"]
    preflight(compose([*own, "norms=[bn,bn_wa]"]), [], [])  # trained with the norm
    with pytest.raises(ConfigError, match=r"norm bn_wa changes the filters of resnet20.*pretrain\.norm=null"):
        preflight(compose([*own, "norms=[bn,bn_wa]", "pretrain.norm=bn"]), [], [])


@pytest.mark.parametrize("recipe", ["features", "probe"])
def test_a_frozen_network_keeps_the_filters_that_its_statistics_belong_to(recipe, tmp_path):
    words = ["model=timm", "model.name=test_resnet", "data=digits", f"finetune={recipe}"]
    here = [*words, "pretrain=cifar100_short", "norms=[bn,bn_wa]"]
    preflight(compose(here), [], [])  # each norm is pre-trained
    said = rf"finetune={recipe}: norm bn_wa changes the filters of test_resnet.*\d+ BatchNorms.*"
    with pytest.raises(ConfigError, match=said + r"pretrain\.norm=null.*finetune=default"):
        preflight(compose([*here, "pretrain.norm=bn"]), [], [])
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    words += ["pretrain=none", f"model.weights={tmp_path}/weights.safetensors"]
    preflight(compose([*words, "norms=[keep,none,wn]"]), [], [])  # merged BatchNorms, gains
    with pytest.raises(ConfigError, match=said + r"norms=\[keep\].*finetune=default"):
        preflight(compose([*words, "norms=[keep,bn_wa]"]), [], [])
    with pytest.raises(ConfigError, match=r"norm wa changes the filters"):
        preflight(compose([*words, "norms=[keep,wa]"]), [], [])


@pytest.mark.parametrize("recipe", ["features", "probe"])
def test_a_recipe_with_a_head_of_its_own_keeps_no_other(recipe):
    words = [*SMALL, f"finetune={recipe}", "methods=[none]", "pretrain.keep_head=true"]
    with pytest.raises(ConfigError, match=rf"pretrain\.keep_head=true: finetune={recipe} always fits a head.*=default"):
        preflight(compose(words), [], [])


def test_streams_choose_their_statistics_themselves():
    found = compose(["finetune.frozen_statistics=true", "methods=[tent,shot]"]).methods
    assert (found["tent"]["recipe"]["frozen_statistics"], found["shot"]["recipe"]["frozen_statistics"]) == (False, True)


def test_a_transformer_of_another_image_size_is_refused(tmp_path):
    """Before the first run, and with the size that it was trained at."""
    words = ["model=timm", "norms=[keep]", "model.name=vit_tiny_patch16_224", "pretrain=none", "finetune=features"]
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "weights.safetensors")
    words += ["data=digits", "model.factors.activation=ln", f"model.weights={tmp_path}/weights.safetensors"]
    preflight(compose([*words, "data.size=224"]), [], [])
    said = r"data.size=192: vit_tiny_patch16_224 fails on images of 192×192 pixels; it was trained at 224 pixels"
    with pytest.raises(ConfigError, match=said):
        preflight(compose([*words, "data.size=192"]), [], [])


@pytest.mark.timeout(1800)
def test_source_only_mcc_and_shot_from_images_to_scores(tmp_path, monkeypatch):
    """One network for all: features are computed once, its weights never change, SHOT keeps the head of the source."""
    monkeypatch.chdir(tmp_path)
    words = [
        *SMALL, "methods=[none,mcc,shot]", "data.per_class=4", "protocol.holdout=0.25",
        "sources=[H]", "finetune.epochs=1", "finetune.epoch_steps=3", "finetune.batch_size=20", "finetune.width=8",
        "finetune.evaluations=1", "keep=[weights,logits]", "label_firewall=true", "trainer.accelerator=cpu",
        "trainer.precision=32-true", "launcher.workers=1", "launcher.threads=1", "report.images=false",
        "cache_dir=cache", "out=out",
    ]  # fmt: skip
    assert main(words) == 0
    assert len(list(Path("cache/features").glob("*.npy"))) == 5  # three domains, mixtures of two targets
    runs = {(record.factors.method, record.target): (run, record)
            for run in Store(Path("out")).runs() for record in [run.record()]}  # fmt: skip
    assert set(runs) == {("none", None), *((m, t) for m in ("mcc", "shot") for t in "NP")}
    weights = {key: load_file(run.path / "weights.safetensors") for key, (run, _) in runs.items()}
    source = weights["none", None]
    for (method, _), tensors in weights.items():
        kept = {"network"} | ({"head"} if method == "shot" else set())
        for name, tensor in tensors.items():
            assert torch.equal(tensor, source[name]) == (method == "none" or name.split(".")[0] in kept), name
    for run, record in runs.values():
        assert record.label_firewall == (None if record.target is None else "passed")
        assert record.starts_from == (runs["none", None][1].id if record.factors.method == "shot" else None)
        outputs = run.load()[1]
        saved = scoring._saved(outputs, record.source, record.targets[0], 0)
        scores = evaluate(load(["source_val", "entropy", "im", "snd", "mixval"]), saved)
        assert np.isfinite(list(scores.values())).all()
        assert all(domain.features.shape[-1] == 8 for domain in outputs.domains.values())
    report = Path("out/accuracy.csv").read_text()
    assert "mcc" in report and "shot" in report
    with pytest.raises(CheckpointError, match="bottleneck"):
        plain = ResNet(named("bn"), 10, block=BasicBlock, depths=[3, 3, 3], widths=[16, 32, 64])
        load_network(runs["none", None][0].path / "weights.safetensors", plain)
