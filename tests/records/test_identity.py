from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from da_wa.records import identity

NORM = {
    "_target_": "da_wa.norm.spec.Norm",
    "label": "GN + WA",
    "factors": {"weight": "align", "activation": "gn"},
    "conv": {"_target_": "da_wa.norm.weight_align.WeightAlignConv2d", "_partial_": True},
    "activation": {"_target_": "da_wa.norm.spec.group_norm", "_partial_": True, "groups": 32},
}
MODEL = {
    "name": "resnet20",
    "gain_init": "one",
    "build": {"_target_": "da_wa.models.resnet.ResNet", "_partial_": True, "block": "basic", "depths": [3, 3, 3]},
}
RECIPE = {
    "epochs": 6,
    "batch_size": 128,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "one_cycle"},
    "augment": {"crop": 0.125, "flip": True, "erase": 0.0},
}
OWN = {"_target_": "my.Lion", "_partial_": True, "_args_": [0.9], "lr": 0.1, "inner": {"_target_": "my.Ahead", "k": 5}}
NORMALIZE = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
PROTOCOL = {"_target_": "da_wa.data.splits.Full", "name": "full", "holdout": 0.1}


def experiment() -> dict[str, Any]:
    """All that a name depends on and some that it does not, as nested plain values."""
    return copy.deepcopy(
        {
            "norm_name": "gn_wa",
            "norm": NORM,
            "model": MODEL,
            "method": {"name": "none"},
            "recipe": {**RECIPE, "own": OWN},
            "normalize": NORMALIZE,
            "protocol": PROTOCOL,
            "dataset": "CIFAR-100",
            "dtype": "float16",
            "network_images": {"train": "1", "test": "2"},
            "holdout": 0.1,
            "size": 32,
            "source": "A",
            "target": None,
            "seed": 0,
            "start": "resnet20-cifar100-gn_wa-1234abcd",
            "pretraining": {"name": "cifar100", "epochs": 6},
            "images": {"A": "a", "W": "w"},
            "classes": ["x", "y"],
        }
    )


def unit(e: dict[str, Any]) -> str:
    shared = identity.shared_facts(
        finetune=identity.recipe_facts(e["recipe"]) or {},
        protocol=e["protocol"],
        normalize=e["normalize"],
        size=e["size"],
        pretraining=e["pretraining"],
        images=e["images"],
        classes=e["classes"],
    )
    return identity.unit_name(
        identity.unit_facts(
            norm=identity.norm_facts(e["norm_name"], e["norm"]),
            model=identity.model_facts(e["model"]),
            method=identity.parameters(e["method"]),
            source=e["source"],
            target=e["target"],
            seed=e["seed"],
            start=e["start"],
            shared=shared,
        )
    )


def network(e: dict[str, Any]) -> str:
    facts = identity.network_facts(
        norm=identity.norm_facts(e["norm_name"], e["norm"]),
        model=identity.model_facts(e["model"]),
        dataset=e["dataset"],
        size=e["size"],
        recipe=identity.recipe_facts(e["recipe"]) or {},
        normalize=e["normalize"],
        dtype=e["dtype"],
        seed=e["seed"],
        images=e["network_images"],
        holdout=e["holdout"],
    )
    return identity.network_name("cifar100", facts)


def changed(path: str, value: Any) -> dict[str, Any]:
    e = experiment()
    *parents, last = path.split(".")
    node = e
    for key in parents:
        node = node[key]
    node[last] = value
    return e


@pytest.mark.parametrize("name", [unit, network])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("norm.label", "GroupNorm with WeightAlign"),
        ("norm._target_", "da_wa.norm.moved.Norm"),
        ("norm.conv._target_", "da_wa.norm.moved.WeightAlignConv2d"),
        ("norm.activation._target_", "da_wa.norm.moved.group_norm"),
        ("norm.activation._convert_", "all"),
        ("norm.factors", {"weight": "align", "activation": "gn", "extra": "level"}),
        ("norm.version", 1),
        ("model.build._target_", "da_wa.models.moved.ResNet"),
        ("model.version", 1),
        ("protocol._target_", "da_wa.data.moved.Full"),
        ("recipe.own._partial_", False),
    ],
)
def test_labels_and_moved_classes_change_no_name(name: Callable[..., str], path: str, value: Any) -> None:
    assert name(changed(path, value)) == name(experiment())


FACTS_OF_BOTH = [
    ("norm_name", "gn"),
    ("norm.activation.groups", 16),
    ("norm.multiple", 2.0),
    ("norm.version", 2),
    ("model.name", "resnet32"),
    ("model.gain_init", "fixup"),
    ("model.build.depths", [5, 5, 5]),
    ("model.build.block", "bottleneck"),
    ("model.version", 2),
    ("recipe.epochs", 7),
    ("recipe.optimizer.lr", 0.05),
    ("recipe.optimizer.name", "adamw"),
    ("recipe.optimizer._target_", "my.SGD"),
    ("recipe.schedule.name", "cosine"),
    ("recipe.augment.flip", False),
    ("recipe.own._target_", "my.Other"),
    ("recipe.own.lr", 0.2),
    ("recipe.own._args_", [0.8]),
    ("recipe.own.inner._target_", "my.Behind"),
    ("recipe.own.inner.k", 6),
    ("normalize.mean", [0.4, 0.5, 0.5]),
    ("normalize.std", [0.3, 0.2, 0.2]),
    ("size", 64),
    ("seed", 1),
]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *FACTS_OF_BOTH,
        ("method.name", "dann"),
        ("method.weight", 0.5),
        ("method.version", 2),
        ("source", "W"),
        ("target", "W"),
        ("start", "resnet20-cifar100-gn_wa-ffffffff"),
        ("start", None),
        ("protocol.name", "paper"),
        ("protocol.holdout", 0.2),
        ("pretraining.epochs", 7),
        ("images.W", "another"),
        ("images", {"W": "w", "A": "b"}),
        ("classes", ["y", "x"]),
    ],
)
def test_every_fact_changes_the_name_of_a_unit(path: str, value: Any) -> None:
    assert unit(changed(path, value)) != unit(experiment())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *FACTS_OF_BOTH,
        ("dataset", "CIFAR-10"),
        ("dtype", "float32"),
        ("network_images.train", "3"),
        ("network_images", None),
        ("holdout", 0.0),
    ],
)
def test_every_fact_changes_the_name_of_a_network(path: str, value: Any) -> None:
    assert network(changed(path, value)) != network(experiment())


def with_schedule(*, of: str, **arguments: Any) -> dict[str, Any]:
    """An experiment with a schedule of the user's own."""
    return changed("recipe.schedule", {"_target_": of, "_partial_": True, **arguments})


@pytest.mark.parametrize("naming", [unit, network])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (with_schedule(of="my.steps", name="short"), with_schedule(of="my.steps", name="long")),
        (with_schedule(of="my.steps", name="short"), with_schedule(of="your.steps", name="short")),
        (with_schedule(of="my.steps", factors=[1, 0.1]), with_schedule(of="my.steps", factors=[1, 0.2])),
        (with_schedule(of="my.steps", label="a"), with_schedule(of="my.steps", label="b")),
        (changed("norm.activation.factors", [1, 2]), changed("norm.activation.factors", [1, 3])),
        (changed("model.build.label", "a"), changed("model.build.label", "b")),
    ],
)
def test_arguments_of_own_callables_are_facts_whatever_their_names(
    naming: Callable[..., str], one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert naming(one) != naming(other)


def reverse(node: Any) -> Any:
    return {k: reverse(v) for k, v in reversed(node.items())} if isinstance(node, dict) else node


@pytest.mark.parametrize("name", [unit, network])
def test_the_order_of_keys_does_not_matter(name: Callable[..., str]) -> None:
    assert name(reverse(experiment())) == name(experiment())


def test_absent_parameters_do_not_count() -> None:
    assert identity.norm_facts("bn", {"label": "BN", "groups": None, "conv": {"_target_": "x"}}) == {
        "name": "bn",
        "version": 1,
    }
    assert identity.recipe_facts(None) is None


def test_an_option_that_methods_did_not_always_have_is_no_fact_until_it_changes_something() -> None:
    node = {"label": "AdaBN", "phase": "target", "build": {"_target_": "x.AdaBN", "alpha": 1.0}}
    earlier = identity.method_facts("adabn", node)
    assert identity.method_facts("adabn", node | {"build": node["build"] | {"exact": True}}) == earlier
    assert identity.method_facts("adabn", node | {"build": node["build"] | {"exact": False}}) != earlier


def test_names_can_be_read() -> None:
    assert unit(experiment()).startswith("gn_wa-A-s0-")
    assert unit(changed("target", "W")).startswith("gn_wa-A-W-s0-")
    assert unit(changed("method", {"name": "dann"})).startswith("gn_wa-dann-A-s0-")
    assert network(experiment()).startswith("resnet20-cifar100-gn_wa-")


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_domain_gives_a_folder_name(source: str, target: str) -> None:
    e = experiment() | {"source": source * 30, "target": target * 30, "images": {source: "a", target: "b"}}
    name = unit(e)
    assert len(name.encode()) < 200  # file systems allow 255
    assert not set(name) & set("/\\\0 \n")


def test_long_names_of_wide_characters_fit_in_a_folder_name() -> None:
    e = experiment() | {"source": "\U00020000" * 60, "target": "漢" * 60}
    assert len(unit(e).encode()) < 200


def test_domains_that_look_alike_in_a_folder_name_differ() -> None:
    assert unit(changed("source", "a b")) != unit(changed("source", "a_b"))
    assert unit(changed("source", "\udcfe")) != unit(changed("source", "\udcff"))


FINISHED = sorted((Path(__file__).parents[2] / "results").glob("*/runs/*/config.yaml"))


def test_finished_runs_keep_their_names() -> None:
    """The facts of every committed run still give its name."""
    checked = 0
    for file in FINISHED:
        config = yaml.safe_load(file.read_text())
        if "shared" in config.get("facts", {}):  # others are of earlier versions
            assert identity.unit_name(config["facts"]) == file.parent.name
            checked += 1
    assert checked > 50
