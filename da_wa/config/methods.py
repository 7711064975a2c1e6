"""The nodes of adaptation methods: files of ``conf/method``, changed by ``method.…=value``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from da_wa.config.tree import read_node
from da_wa.config.validate import keys, unknown, unreadable
from da_wa.errors import ConfigError

CALLABLES = ("optimizer", "schedule", "augment")
"""Parts of a recipe that are replaced, not merged, where a method names another callable."""

UNUSED = {
    "stream": {
        *("epochs", "evaluations", "epoch_steps", "optimizer", "backbone_rate", "schedule", "label_smoothing"),
        "frozen_statistics",
    },
    "target": {"epoch_steps"},
}
"""Options of a recipe that a method of a phase does not use."""

_WHY = {
    "stream": "a stream is one pass over the target, and the method has its own optimizer",
    "target": "an epoch is one pass over the target",
}


def method_nodes(
    names: Sequence[str], words: Sequence[str], finetune: Mapping[str, Any], where: Sequence[Path]
) -> dict[str, Any]:
    """The node of each method.

    ``method.KEY=value`` sets an option of every method that has it, ``method.NAME.KEY=value`` of one method.

    Args:
        names: of files in ``conf/method``.
        words: the words of the command line that start with ``method.``.
        finetune: the recipe of the fine-tuning, which ``recipe`` of a method changes.
        where: folders with options.

    >>> from da_wa.config.tree import folders
    >>> nodes = method_nodes(["none", "mcc"], ["method.weight=2.0"], {}, folders())
    >>> nodes["mcc"]["weight"], nodes["mcc"]["build"]["temperature"]
    (2.0, 2.5)

    Raises:
        ConfigError: an unknown method, or an option that none of them has.
    """
    nodes = {name: read_node("method", name, where) for name in names}
    for word in words:
        _override(nodes, word)
    resolved = {name: OmegaConf.to_container(node, resolve=True, throw_on_missing=True) for name, node in nodes.items()}
    return {name: _with_recipe(name, node, finetune) for name, node in resolved.items() if isinstance(node, dict)}


def _override(nodes: Mapping[str, DictConfig], word: str) -> None:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(unreadable(word)) from error
    if override.is_sweep_override():
        raise ConfigError(unreadable(word))
    key = override.key_or_group.removeprefix("method.")
    name, _, rest = key.partition(".")
    chosen, key = ({name: nodes[name]}, rest) if rest and name in nodes else (nodes, key)
    adds = override.is_add() or override.is_force_add()
    named = chosen is not nodes
    having = [node for node in chosen.values() if _has(node, key, named) or (adds and "build" in node)]
    if not having:
        known = sorted({option for node in chosen.values() for option in keys(node)})
        raise ConfigError(f"method: {unknown(key, known)} Chosen: methods=[{','.join(nodes)}]")
    for node in having:
        with open_dict(node):
            OmegaConf.update(node, key, override.value(), force_add=True)


def _has(node: DictConfig, key: str, named: bool) -> bool:
    """Whether a method has an option; those of its recipe, of a method that is named, are checked when it is merged."""
    if not key.startswith("recipe.") or "recipe" not in node:
        return key in keys(node)
    return named or key.split(".")[1] not in UNUSED.get(str(node.get("phase")), ())


def _with_recipe(name: str, node: dict[Any, Any], finetune: Mapping[str, Any]) -> dict[Any, Any]:
    """``node`` with a whole recipe where it has one; a stream is one epoch, and its method chooses the statistics."""
    own = node.get("recipe")
    if not isinstance(own, dict):
        return node
    if unused := sorted(own.keys() & UNUSED.get(str(node.get("phase")), set())):
        raise ConfigError(
            f"method.{name}.recipe.{unused[0]} has no effect: {_WHY[str(node.get('phase'))]}. Leave it out; options of "
            f"the method itself are method.{name}.build.…"
        )
    recipe = {**finetune, **own}
    for key in CALLABLES:
        before, change = finetune.get(key), own.get(key)
        if isinstance(before, Mapping) and isinstance(change, Mapping) and not {"name", "_target_"} & change.keys():
            recipe[key] = {**before, **change}
    if node.get("phase") == "stream":
        recipe |= {"epochs": 1, "evaluations": 1}
        recipe |= {"frozen_statistics": False} if "frozen_statistics" in recipe else {}
    return {**node, "recipe": recipe}
