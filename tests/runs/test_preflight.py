"""What would fail in every unit is refused before the first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from da_wa.config.compose import compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.models.checkpoint import CheckpointError
from da_wa.records.identity import model_facts, norm_facts
from da_wa.runs.inputs import find_pretraining
from da_wa.runs.plan import plan
from da_wa.runs.preflight import preflight
from da_wa.runs.started import pretraining

SMALL = ["model=resnet20", "norms=[bn]", "sources=[A]", "seeds=[0]", "data.size=8", "finetune.batch_size=4"]


def domains(classes: int, called: Sequence[str] = ()) -> list[DecodedDomain]:
    called = tuple(called or map(str, range(classes)))
    names, labels = tuple(f"{k:02d}" for k in range(8 * classes)), np.repeat(np.arange(classes), 8)
    pixels = np.zeros((len(names), 3, 8, 8), np.uint8)
    return [DecodedDomain(n, pixels, labels, names, n, called) for n in "AW"]


def check(folder: Path, *options: str, classes: int = 2, called: Sequence[str] = ()) -> None:
    experiment, found = compose([*SMALL, f"cache_dir={folder}", *options]), domains(classes, called)
    preflight(experiment, found, plan(experiment, found, folder / "out", folder / "networks"))


def network(path: Path, without: str = "", classes: int = 4, **changes: Any) -> Path:
    """A file that says it is a network, as docs/extending.md writes one."""
    cfg = compose(SMALL)
    facts = {"dataset": "mine", "norm": norm_facts("bn", cfg.norms["bn"]), "model": model_facts(cfg.cfg["model"])}
    header = {
        "facts": {**facts, "normalize": cfg.cfg["normalize"]},
        "result": {"correct": 6012, "n": 10000, "epochs": 90, **changes},
    }
    kept = {part: {k: v for k, v in values.items() if k not in without.split()} for part, values in header.items()}
    head = {"head.weight": np.zeros((classes, 64), np.float32)}
    save_file(head, path, {part: json.dumps(values) for part, values in kept.items()})
    return path


def test_an_option_that_a_logger_does_not_take(tmp_path):
    for words in (["logger=csv"], ["logger=tensorboard"], ["+logger.csv.prefix=mine"]):
        check(tmp_path, "pretrain=none", *words)
    with pytest.raises(ConfigError, match=r"logger\.csv: .*CSVLogger cannot be called .* argument 'foo'"):
        check(tmp_path, "pretrain=none", "+logger.csv.foo=1")
    with pytest.raises(ConfigError, match=r"logger\.csv: .*CSVLogger cannot be called .*"):
        check(tmp_path, "pretrain=none", "logger.csv._partial_=false", "+logger.csv.save_dir=.")


@pytest.mark.parametrize("entries", ["dataset", "correct n", "epochs"])
def test_a_checkpoint_of_which_is_not_known_what_it_was_trained_on(entries, tmp_path):
    told = rf"net\.safetensors: {', '.join(entries.split())} is missing in its header.*docs/extending\.md"
    file = network(tmp_path / "net.safetensors", without=entries)
    with pytest.raises(CheckpointError, match=told):
        check(tmp_path, f"pretrain.checkpoint={file}")


def test_an_entry_of_another_type_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="n='many' in its header is not valid"):
        check(tmp_path, f"pretrain.checkpoint={network(tmp_path / 'net.safetensors', n='many')}")
    found = pretraining(network(tmp_path / "unknown.safetensors", correct=None, n=None))
    assert (found.name, found.dataset, found.correct, found.epochs) == ("unknown", "mine", None, 90)


def test_a_classifier_that_is_kept_has_the_classes_of_the_images(tmp_path, cifar_root):
    """``cifar_root`` has four classes."""
    given = [f"pretrain.checkpoint={network(tmp_path / 'net.safetensors')}"]
    trained = [f"pretrain.root={cifar_root}", "pretrain.verify=false", "pretrain.recipe.batch_size=4"]
    names = find_pretraining(compose([*SMALL, *trained]).cfg["pretrain"]["data"]).classes
    for start, of in ((given, r".*net\.safetensors"), (trained, "CIFAR-100")):
        check(tmp_path, *start, classes=2)
        check(tmp_path, *start, "pretrain.keep_head=true", classes=4, called=names)
        with pytest.raises(
            ConfigError, match=rf"keep_head=true: the classifier of {of} has 4 classes, the images have 2"
        ):
            check(tmp_path, *start, "pretrain.keep_head=true", classes=2)

    turned = f"keep_head=true: the class {names[0]} of CIFAR-100 would be {names[-1]} of the images"
    with pytest.raises(ConfigError, match=turned):
        check(tmp_path, *trained, "pretrain.keep_head=true", classes=4, called=names[::-1])


def test_mistakes_in_code_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine" / "select").mkdir(parents=True)
    (tmp_path / "mine" / "norm").mkdir()
    (tmp_path / "mine" / "select" / "mine.yaml").write_text("margin: layers_with_mistakes.margin")
    (tmp_path / "mine" / "norm" / "broken.yaml").write_text(
        "label: Broken\n_target_: da_wa.norm.spec.Norm\nconv: {_target_: torch.nn.Conv2d, _partial_: true}\n"
        "activation: {_target_: layers_with_mistakes.norm, _partial_: true}\n"
        "factors: {weight: plain, activation: mine}\n"
    )
    (tmp_path / "layers_with_mistakes.py").write_text("def norm(channels):\n    return {}['size']")
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = compose([*SMALL, "pretrain=none"], tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"the score .margin. cannot be imported from layers_with_mistakes\.margin"):
        preflight(experiment, domains(2), [])
    experiment = compose([*SMALL, "pretrain=none", "norms=[broken]"], tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"resnet20 cannot be built with norm broken: KeyError: .size."):
        preflight(experiment, domains(2), [])


def test_random_crops_that_are_none_are_told():
    words = ["model=timm", "model.name=test_resnet", "norms=[keep]", "pretrain=none", "data=digits", "data.size=40"]
    words += ["finetune=imagenet", "finetune.augment.size=32"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preflight(compose(words), [], [])
        preflight(compose([*words, "finetune.augment.crop=1.0", "finetune.augment.scale=[0.5,1.0]"]), [], [])
    words[2] = "norms=[keep,bn_wa]"
    with pytest.warns(UserWarning, match=r"test_resnet.*no random crops.*augment\.scale=\[0\.08,1\.0\]") as told:
        preflight(compose([*words, "finetune.augment.crop=1.0"]), [], [])
    assert sum("no random crops" in str(each.message) for each in told) == 1


def test_a_method_that_would_change_layers_that_a_norm_leaves_is_not_said_to_do_nothing():
    """A BatchNorm1d before the classifier is not converted."""
    words = ["model=timm", "model.name=efficientvit_m0", "model.weights=null", "pretrain=none", "data.size=224"]
    experiment = compose([*words, "norms=[gn]", "methods=[none,adabn]"])
    with pytest.raises(
        ConfigError, match=r"norm gn leaves layers with running statistics in efficientvit_m0, which method adabn"
    ):
        preflight(experiment, [], [])
    preflight(compose([*words, "norms=[gn]", "methods=[none]"]), [], [])
