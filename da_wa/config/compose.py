"""Command line → experiment. Hydra composes the tree once; norms and models are read from their files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from da_wa.config.choices import OPTIMIZERS, SCHEDULES
from da_wa.config.methods import method_nodes
from da_wa.config.tree import folders, groups, options, read_node
from da_wa.config.validate import keys, shown, unknown, unreadable, validate
from da_wa.errors import ConfigError, nearest
from da_wa.select.catalogue import chosen

REQUIRED = ("data", "model", "pretrain", "finetune", "protocol", "trainer", "launcher", "report")
RECIPES = ("finetune", "pretrain.recipe")
FOLDERS = ("out", "cache_dir", "checkpoint_dir")
"""Where a command writes; ``~`` is the home folder."""

OLD_WORDS = (
    (re.compile(r"^([+~]*)normalise(?=[.=]|$)"), r"\1normalize"),
    (re.compile(r"^select(?==)"), "report.select"),
    (re.compile(r"^seeds\.max(?==)"), "seeds_max"),
    (re.compile(r"^((?:finetune|pretrain\.recipe)\.(?:optimizer|schedule|augment)\._\w+_=)"), r"++\1"),
)
"""Short options and those of earlier command lines, and what they stand for. A recipe always had a ``_target_``."""

OLD_TARGETS = {
    "optimizer": ("torch.optim.", {name: option for option, name in OPTIMIZERS.items()}),
    "schedule": ("da_wa.train.schedule.", {name: name for name in SCHEDULES}),
}
"""Where a recipe's named callables are; a ``_target_`` that gives one of them counts as its name."""

_NAME = re.compile(r"\$\{(?:\.+|model\.)name\}")
"""In the build of networks that are made by their name."""


@dataclass(frozen=True)
class Experiment:
    """A validated experiment, as nested plain values.

    Attributes:
        cfg: all options.
        norms: the node of each norm to compare, by name.
        models: the node of each model to compare, by its ``name``; ``cfg["model"]`` is the first.
        methods: the node of each adaptation method, by name; a list of weights is still one node.
        scores: the import path of each label-free score to report, by name.
        auto: ``seeds=auto``: seeds of ``cfg`` are run one by one, while a comparison is open.
    """

    cfg: dict[str, Any]
    norms: dict[str, Any]
    models: dict[str, Any]
    methods: dict[str, Any]
    scores: dict[str, str] = field(default_factory=dict)
    auto: bool = False


def compose(overrides: Sequence[str], extra_dir: Path | None = None) -> Experiment:
    """Compose and validate the experiment that a command line describes.

    Args:
        overrides: the words of the command line, Hydra's ``group=option`` and ``key=value``.
        extra_dir: a folder with more options for the groups (``--config-dir``).

    >>> experiment = compose(["experiment=quick", "norms=[bn,bn_wa]"])
    >>> list(experiment.norms), list(experiment.models), experiment.cfg["finetune"]["epochs"]
    (['bn', 'bn_wa'], ['resnet20'], 12)

    Raises:
        ConfigError: an unknown option or name, with the nearest ones, or a value that is not allowed.
    """
    where = folders(extra_dir)
    words = [_present(word, groups(where)) for word in rejoin(overrides)]
    _refuse_lists(words, where)
    of_methods = [word for word in words if word.lstrip("+").startswith("method.")]
    words = [word for word in words if word not in of_methods]
    try:
        tree = _compose(words, where)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(_explain(error, words, where)) from error
    for group in REQUIRED:
        if group not in tree:
            raise ConfigError(
                f"{group}=null: an experiment needs a {group}. Known: {', '.join(options(group, where))}."
            )
    try:
        return _experiment(tree, words, of_methods, where)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, words, where)) from error


def _compose(words: Sequence[str], where: Sequence[Path]) -> DictConfig:
    own, *more = where
    added = ",".join(quoted(f"file://{folder}") for folder in more)
    with _own_hydra(), initialize_config_dir(str(own), version_base="1.3"):
        tree = hydra_compose("config", [*words, f"hydra.searchpath=[{added}]"], return_hydra_config=True)
    with open_dict(tree):
        chosen_model = tree.pop("hydra").runtime.choices.get("model")
    if chosen_model is not None:
        _refuse_other_name(chosen_model, tree.model, where)
    return tree


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra can be initialised once in a process: the caller's, if it uses Hydra, is put aside for this time."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def _refuse_other_name(option: str, node: DictConfig, where: Sequence[Path]) -> None:
    """Refuse a name for a network that does not depend on it; tables would call it something else."""
    name, own = node.get("name"), read_node("model", option, where).get("name")
    build = OmegaConf.to_yaml(node.get("build") or {})
    if name is not None and own is not None and name != own and not _NAME.search(build):
        there = f"model={name}" if name in options("model", where) else "model=NAME"
        raise ConfigError(
            f"model.name={name} does not change the network of model={option}. For a network of timm write model=timm "
            f"model.name={name}, for one of this package {there} alone. An experiment with a network of its own, such "
            "as experiment=imagenet, takes no other model=; set its model.name."
        )


def _experiment(tree: DictConfig, words: Sequence[str], of_methods: Sequence[str], where: Sequence[Path]) -> Experiment:
    with open_dict(tree):
        tree.setdefault("logger", {})  # logger=null: none
        norms = {name: _resolved(tree, "norm", read_node("norm", name, where)) for name in _names(tree, "norms")}
        tree.pop("norm", None)
        started = tree.model.get("weights") is not None
        nodes = {name: _model(name, words, where) for name in reversed(_names(tree, "models"))}
        for name, node in nodes.items():
            _refuse_other_name(name, node, where)
        models = [_resolved(tree, "model", node) for node in nodes.values()]
        models = models[::-1] or [_resolved(tree, "model", tree.model)]
    untrained = [model.get("name") for model in models if model.get("weights") is None]
    if started and untrained and tree.pretrain.get("recipe") is None and tree.pretrain.get("checkpoint") is None:
        raise ConfigError(
            f"models={shown(_names(tree, 'models'))}: {untrained[0]} has no weights, and the experiment starts from "
            "trained networks without training them first. Write a file for each network, see docs/backbones.md."
        )
    named = {str(model.get("name")): model for model in models}
    if len(named) < len(models):
        raise ConfigError(
            f"models={shown(_names(tree, 'models'))}: two of these files have the same `name`; change one"
        )
    for recipe in RECIPES:
        _canonical(OmegaConf.select(tree, recipe))
    cfg = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    assert isinstance(cfg, dict)
    cfg |= {key: os.path.expanduser(cfg[key]) for key in FOLDERS if isinstance(cfg[key], str)}
    methods = method_nodes(_names(tree, "methods"), of_methods, cfg["finetune"], where)
    validate(cfg, norms, named, methods)  # type: ignore[arg-type]
    _check_norms_of_pretraining(cfg["pretrain"], options("norm", where))
    _check_rates_of_norms(cfg["pretrain"], norms, words)
    if cfg["pretrain"]["checkpoint"] is not None and (several := cfg["pretrain"].get("seeds")):
        raise ConfigError(
            f"pretrain.seeds={shown(several)}: pretrain.checkpoint gives one network for each norm, of whatever seed. "
            "Leave one of them out; several networks need a command each, with an out of its own."
        )
    _check_contrasts(cfg["report"].get("contrasts"), norms | named, methods)
    scores = chosen(cfg["report"].get("select"), where[1:])
    if auto := cfg["seeds"] == "auto":
        cfg["seeds"] = list(range(cfg["seeds_max"]))
    return Experiment(cfg, norms, named, methods, scores, auto)  # type: ignore[arg-type]


def _check_norms_of_pretraining(pretrain: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a rate or a number of epochs for a norm that does not exist; without effect it would go unnoticed."""
    for key in ("rates", "epochs"):
        for name in set(pretrain.get(key, ())).difference(known):
            raise ConfigError(f"pretrain.{key}.{name}: there is no norm {name!r}. {nearest(name, known)}")


def _check_rates_of_norms(pretrain: Mapping[str, Any], norms: Iterable[str], words: Sequence[str]) -> None:
    """Refuse one rate or number of epochs for all norms where some have their own, which would be used."""
    given = {word.lstrip("+~").partition("=")[0] for word in words}
    trained = [pretrain["norm"]] if pretrain.get("norm") else list(norms)
    for key, option in (("rates", "pretrain.recipe.optimizer.lr"), ("epochs", "pretrain.recipe.epochs")):
        own = [n for n in trained if n in pretrain.get(key, ()) and f"pretrain.{key}.{n}" not in given]
        if own and option in given and f"pretrain.{key}" not in given:
            raise ConfigError(
                f"{option}: without effect on {', '.join(own)}, which pretrain.{key} has values for. Add "
                f"~pretrain.{key} for one value for all norms, or set ++pretrain.{key}.{own[0]}=… instead."
            )


def _check_contrasts(
    wanted: Sequence[str] | None, compared: Mapping[str, Mapping[str, Any]], methods: Iterable[str]
) -> None:
    """Refuse to compare what is neither a weight of the norms nor a method."""
    weights = [(node.get("factors") or {}).get("weight", name) for name, node in compared.items()]
    known = list(dict.fromkeys([*weights, *methods]))
    for level in wanted or ():
        if level not in known:
            raise ConfigError(
                f"report.contrasts: {level!r} is neither a weight of these norms nor one of these methods. "
                f"{nearest(level, known)}"
            )


def _names(tree: DictConfig, key: str) -> list[str]:
    """The names under ``key``, without repetition; none where they are not a list of names (the schema refuses)."""
    value = OmegaConf.select(tree, key)
    names = list(value) if OmegaConf.is_list(value) else []
    return list(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else []


def _resolved(tree: DictConfig, key: str, node: Any) -> dict[str, Any]:
    """``node`` resolved at ``key`` of the tree; it stays there."""
    tree[key] = node
    resolved = OmegaConf.to_container(tree[key], resolve=True, throw_on_missing=True)
    if not isinstance(resolved, dict):
        raise ConfigError(f"{key}={shown(resolved)} must be a group of options")
    return resolved  # type: ignore[return-value]


def _model(name: str, words: Sequence[str], where: Sequence[Path]) -> DictConfig:
    """A model of ``models=[…]`` with the values set by ``model.…=value``."""
    node = read_node("model", name, where)
    for word in words:
        if word.lstrip("+").startswith("model."):
            override = OverridesParser.create().parse_override(word)
            key = override.key_or_group.removeprefix("model.")
            if not override.is_add() and not override.is_force_add() and key not in keys(node):
                raise ConfigError(f"model {name}: {unknown(key, keys(node))}")
            OmegaConf.update(node, key, override.value())
    return node


def _canonical(recipe: Any) -> None:
    """Give callables of the package by name: ``_target_: torch.optim.SGD`` is ``name: sgd``."""
    if not OmegaConf.is_dict(recipe):
        return
    with open_dict(recipe):
        for key, (module, names) in OLD_TARGETS.items():
            node = recipe.get(key)
            if not OmegaConf.is_dict(node) or "_target_" not in node:
                continue
            target = str(node["_target_"])
            if target.removeprefix(module) in names:
                node["name"] = names[target.removeprefix(module)]
                node.pop("_target_")
                node.pop("_partial_", None)
            else:
                node.pop("name", None)
        augment = recipe.get("augment")
        if OmegaConf.is_dict(augment) and augment.get("_target_") == "da_wa.data.augment.Augment":
            augment.pop("_target_")


def rejoin(words: Sequence[str]) -> list[str]:
    """Join words that the shell split at spaces inside brackets.

    >>> rejoin(["norms=[bn,", "bn_wa]", "seeds=[0]"])
    ['norms=[bn, bn_wa]', 'seeds=[0]']
    """
    joined, rest = [], list(words)
    while rest:
        lengths = range(1, len(rest) + 1) if re.match(r"[^=]+=\s*[\[{]", rest[0]) else range(1, 2)
        length = next((n for n in lengths if _depth(rest[:n]) <= 0), 1)
        joined.append(" ".join(rest[:length]))
        del rest[:length]
    return joined


def _depth(words: Sequence[str]) -> int:
    text = " ".join(words)
    return sum(text.count(c) for c in "[{(") - sum(text.count(c) for c in "]})")


def _present(word: str, known: set[str]) -> str:
    """An override as Hydra writes it today: renamed options, ``group=null``, quotes around letters like é and ``~``."""
    for old, new in OLD_WORDS:
        word = old.sub(new, word)
    key, _, value = word.partition("=")
    if value == "null" and key in known:
        return f"~{key}"
    if (value.isascii() and not value.startswith("~")) or value[0] in "'\"[{":
        return word
    return f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """A value as Hydra reads it, whatever characters it has."""
    return "'{}'".format(text.replace("'", r"\'"))


def _refuse_lists(words: Sequence[str], where: Sequence[Path]) -> None:
    """One option of a group at a time; of loggers there may be several."""
    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        if group in groups(where) - {"logger"} and (value.startswith("[") or "," in value):
            several = f"; compare several with {group}s=[a,b]" if group in ("method", "model", "norm") else ""
            raise ConfigError(f"{word}: choose one {group}{several}")


def _explain(error: Exception, words: Sequence[str], where: Sequence[Path]) -> str:
    """Hydra's message in terms of the command line, with the nearest names."""
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    message = str(error)
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", message):
        return unreadable(sweep[1])
    option = re.search(r"(?:Could not find|In '.*?': Could not find) '(\w+)/([^']*)'", message)
    key = re.search(
        r"Key '([^']+)' is not in struct|Could not override '([^']+)'|Could not delete.*?'([^']+)'", message
    )
    missing = re.search(r"Missing mandatory value.*full_key: (\S+)", message, re.DOTALL)
    if missing:
        return f"{missing[1]} is not set; write {missing[1]}=…"
    if option:
        group, name = option.groups()
        if group == "data" and "/" in name:
            return f"data={name}: must be a name; for a folder write data=folders data.root={name}"
        return f"there is no {group} called {name!r}. {nearest(name, options(group, where))}"
    if key:
        name = next(found for found in key.groups() if found)
        wrong = next((w.lstrip("+~").split("=")[0] for w in words if name in w), name)
        within = str(getattr(error.__cause__, "full_key", None))  # of a mapping: launcher.sbatch={nice: 100}
        return _unknown_or_new(within if within.startswith(f"{wrong}.") else wrong, wrong, _chosen(words, where))
    return f"{message}\nin the options: {' '.join(words)}"


def _unknown_or_new(entry: str, option: str, tree: Any) -> str:
    """Message for an unknown ``entry``, given as ``option``; if it may be a new one of a mapping, how to add it.

    So are ``a.b.c`` of ``a.b={c: 1}``, and of ``a.b.c=1`` where ``a.b`` is empty.
    """
    above, _, _ = entry.rpartition(".")
    empty = OmegaConf.select(OmegaConf.create(tree), above) == {}
    message = f"there is no option {entry!r}." if empty else unknown(entry, keys(tree))
    return f"{message} To add an entry, write +{entry}=…" if empty or above == option else message


def _chosen(words: Sequence[str], where: Sequence[Path]) -> Any:
    """All options with their defaults, given the groups' choices; interpolations are not resolved."""
    try:
        tree = _compose([word for word in words if word.lstrip("+").split("=")[0] in groups(where)], where)
    except HydraException:
        tree = _compose([], where)
    return OmegaConf.to_container(tree, resolve=False)
