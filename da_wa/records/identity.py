"""Names of units and networks: hashes of declared facts.

A fact is a name, a parameter, a seed, or a digest of images or weights. Display labels, class paths and file layout are
not facts: moving a class or relabelling a norm does not change a name. The user increases ``version`` when their own
code changes what it computes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Facts = dict[str, Any]
_DISPLAY = frozenset({"label", "factors"})
"""What tables show of a norm, model or method; in the parts of these, arguments can have such names."""
_HYDRA = frozenset({"_target_", "_partial_", "_recursive_", "_convert_"})
"""The words of Hydra in a node: what it makes of it, and how."""


def digest(value: Any) -> str:
    """Eight hex digits of a nested plain value; the order of keys does not matter.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """A name as part of a file name, at most 40 bytes long.

    >>> slug("two words/ü")
    'two_words_ü'
    """
    return re.sub(r"[^\w.]+", "_", name).encode()[:40].decode(errors="ignore")


def parameters(node: Mapping[str, Any]) -> Facts:
    """The facts in a configuration node: everything but class paths (``_target_``) and its own label and factors.

    >>> parameters({"_target_": "a.B", "name": "b", "label": "B!", "eps": 1e-5})
    {'name': 'b', 'eps': 1e-05}
    """
    found: Facts = _without_paths({k: v for k, v in node.items() if k not in _DISPLAY})
    return found


def _without_paths(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(k): _without_paths(v) for k, v in node.items() if k not in _HYDRA}
    if isinstance(node, (list, tuple)):
        return [_without_paths(v) for v in node]
    return node


def norm_facts(name: str, node: Mapping[str, Any]) -> Facts:
    """Name, version and parameters of a norm.

    >>> node = {"_target_": "x.Norm", "label": "GN", "activation": {"_target_": "x.gn", "groups": 32}, "conv": {}}
    >>> norm_facts("gn", node)
    {'name': 'gn', 'version': 1, 'activation': {'groups': 32}}
    """
    found = {k: v for k, v in parameters(node).items() if v not in (None, {})}
    return {"name": name, "version": 1} | found


def model_facts(node: Mapping[str, Any], weights: str | None = None) -> Facts:
    """Name, version and parameters of a backbone.

    Args:
        node: its configuration.
        weights: the digest of the file that it starts from, instead of the path.

    >>> model_facts({"name": "resnet50", "weights": "a.pt", "build": {"_target_": "x.P", "weights": "a.pt"}}, "0f3c")
    {'version': 1, 'name': 'resnet50', 'build': {}, 'weights': '0f3c'}
    """
    found = {k: v for k, v in parameters(node).items() if k != "weights"}
    if isinstance(build := found.get("build"), Mapping):
        found["build"] = {k: v for k, v in build.items() if k != "weights"}
    return {"version": 1, **found} | ({"weights": weights} if weights else {})


def method_facts(name: str, node: Mapping[str, Any]) -> Facts:
    """Name, version and parameters of an adaptation method.

    >>> method_facts("none", {"label": "source only", "phase": "source"})
    {'name': 'none'}
    >>> method_facts("mcc", {"label": "MCC", "phase": "joint", "weight": 1.0, "build": {"_target_": "x.M", "T": 2.5}})
    {'name': 'mcc', 'weight': 1.0, 'build': {'T': 2.5}}
    """
    found = {k: v for k, v in node.items() if k not in ("phase", "changes", "recipe")}
    recipe = recipe_facts(node.get("recipe"))
    facts: Facts = {"name": name, **parameters(found)}
    if isinstance(build := facts.get("build"), Mapping):
        facts["build"] = {k: v for k, v in build.items() if v != _NEW_IN_METHODS.get(k, _ABSENT)}
    return facts | ({"recipe": recipe} if recipe else {})


_ABSENT = object()
_NEW_IN_RECIPES = {"backbone_rate": 1.0, "epoch_steps": None, "frozen_statistics": False}
"""Options that recipes did not always have, and the values that change nothing: these are not facts."""
_NEW_IN_METHODS = {"exact": True}
"""Likewise for what builds a method."""


def recipe_facts(node: Mapping[str, Any] | None) -> Facts | None:
    """Parameters of a training recipe, which is known by its name; callables in it by their paths (``_target_``).

    The path is the ``name`` of a callable, unless this is one of its arguments.

    >>> recipe_facts({"epochs": 6, "optimizer": {"_target_": "my.Lion", "_partial_": True, "lr": 0.1}})
    {'epochs': 6, 'optimizer': {'lr': 0.1, 'name': 'my.Lion'}}
    >>> recipe_facts({"augment": {"_target_": "my.augment", "name": "randaugment"}})
    {'augment': {'name': 'randaugment', '_target_': 'my.augment'}}
    """
    if node is None:
        return None
    parts = {k: v for k, v in node.items() if k != "name" and v != _NEW_IN_RECIPES.get(k, _ABSENT)}
    found: Facts = _with_paths(parts)
    return found | ({"name": node["name"]} if "name" in node else {})


def _with_paths(node: Any) -> Any:
    if isinstance(node, Mapping):
        known = {str(k): _with_paths(v) for k, v in node.items() if k not in _HYDRA}
        place = "_target_" if "name" in known else "name"
        return known | ({place: node["_target_"]} if "_target_" in node else {})
    if isinstance(node, (list, tuple)):
        return [_with_paths(v) for v in node]
    return node


def network_facts(
    *,
    norm: Facts,
    model: Facts,
    dataset: str,
    size: int,
    recipe: Facts,
    normalize: Mapping[str, Any],
    dtype: str,
    seed: int,
    images: Mapping[str, str] | None = None,
    holdout: float = 0.0,
) -> Facts:
    """What a pre-trained network depends on.

    Args:
        norm: see :func:`norm_facts`.
        model: see :func:`model_facts`.
        dataset: of the pre-training, by its display name.
        size: side of the images in pixels.
        recipe: see :func:`recipe_facts`.
        normalize: mean and standard deviation of the input.
        dtype: the type that weights are stored in.
        seed: of initialisation, order and augmentation.
        images: digests by name where the images need not be the original ones.
        holdout: the fraction of training images that is held out.
    """
    facts = {
        "norm": norm,
        "model": model,
        "dataset": dataset,
        "size": size,
        "recipe": recipe,
        "normalize": dict(normalize),
        "dtype": dtype,
        "seed": seed,
    }
    return facts | ({"images": dict(images)} if images else {}) | ({"holdout": holdout} if holdout else {})


def network_name(pretraining: str, facts: Facts) -> str:
    """The name of a network and of its file, e.g. ``resnet20-cifar100-bn-4d6a7dd6``; a ``/`` in names becomes ``_``."""
    return f"{facts['model']['name']}-{pretraining}-{facts['norm']['name']}-{digest(facts)}".replace("/", "_")


def unit_name(facts: Facts) -> str:
    """The name of a unit and of its folder, e.g. ``bn-A-s0-23f917cc``; see :func:`unit_facts`."""
    method, target = facts["method"]["name"], facts["target"]
    stem = [facts["norm"]["name"]]
    stem += [] if method == "none" else [method]
    stem += [slug(facts["source"])] + ([] if target is None else [slug(target)])
    return "-".join([*stem, f"s{facts['seed']}", digest(facts)])


def unit_facts(
    *,
    norm: Facts,
    model: Facts,
    method: Facts,
    source: str,
    target: str | None,
    seed: int,
    start: str | None,
    shared: Facts,
) -> Facts:
    """What the numbers of a unit depend on.

    Args:
        norm: see :func:`norm_facts`.
        model: see :func:`model_facts`.
        method: name and parameters of the adaptation method.
        source: the domain with labels.
        target: the one target, ``None`` for every other domain.
        seed: of split, order, augmentation and head.
        start: the name of the pre-trained network or of the source's unit, or the digest of a given file.
        shared: see :func:`shared_facts`.
    """
    return {
        "norm": norm,
        "model": model,
        "method": method,
        "source": source,
        "target": target,
        "seed": seed,
        "start": start,
        "shared": shared,
    }


def shared_facts(
    *,
    finetune: Facts,
    protocol: Mapping[str, Any],
    normalize: Mapping[str, Any],
    size: int,
    pretraining: Any,
    images: Mapping[str, str],
    classes: Sequence[str],
) -> Facts:
    """What all units of one table have in common; its digest is a record's ``experiment``.

    Args:
        finetune: its recipe, see :func:`recipe_facts`.
        protocol: name and parameters.
        normalize: mean and standard deviation of the input.
        size: side of the images in pixels.
        pretraining: what all networks' pre-training has in common.
        images: the digest of every domain, in display order.
        classes: class names.
    """
    return {
        "finetune": finetune,
        "protocol": parameters(protocol),
        "normalize": dict(normalize),
        "size": size,
        "pretraining": pretraining,
        "images": dict(images),
        "classes": list(classes),
    }
