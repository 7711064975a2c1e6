"""Check a composed experiment against its types; report all mistakes in terms of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from da_wa.config.method_types import AnyMethod
from da_wa.config.schema import AnyModel, Config, Norm
from da_wa.errors import ConfigError

LIMIT = 10
"""Mistakes listed at once."""

Options = TypeVar("Options", bound=BaseModel)


def validate(
    cfg: Mapping[str, Any], norms: Mapping[str, Any], models: Mapping[str, Any], methods: Mapping[str, Any]
) -> None:
    """Check types, ranges and names of a whole experiment. Needs neither torch nor data.

    Args:
        cfg: the composed configuration as nested plain values.
        norms: the node of each norm, by name.
        models: the node of each model, by name.
        methods: the node of each method, by name.

    Raises:
        ConfigError: one line per wrong option: its name, the value, and the allowed values.
    """
    _refuse_adaptation(cfg.get("finetune"), methods)
    mistakes = list(_mistakes(Config, cfg))
    for name, node in norms.items():
        mistakes += _mistakes(Norm, node, f"norm {name}: ")
    for name, node in models.items():
        if node != cfg.get("model"):
            mistakes += _mistakes(AnyModel, node, f"model {name}: ")
    for name, node in methods.items():
        mistakes += _mistakes(AnyMethod, node, f"method {name}: ")
    _refuse(mistakes)


def checked(kind: type[Options], node: Any) -> Options:
    """Nested plain values as options of one type.

    >>> from da_wa.config.schema import Normalize
    >>> checked(Normalize, {"mean": [0.5, 0.5, 0.5], "std": [0, 0, 0]})
    Traceback (most recent call last):
    da_wa.errors.ConfigError: std=[0,0,0]: must be three numbers above 0 and up to 1, ...

    Raises:
        ConfigError: see :func:`validate`.
    """
    _refuse(list(_mistakes(kind, node)))
    return kind.model_validate(node)


def _refuse(mistakes: Sequence[str]) -> None:
    if mistakes:
        more = [f"… and {len(mistakes) - LIMIT} more"] if len(mistakes) > LIMIT else []
        raise ConfigError("\n".join([*mistakes[:LIMIT], *more]))


def _refuse_adaptation(recipe: Any, methods: Mapping[str, Any]) -> None:
    """Methods train by gradient descent; our recipes without an optimizer do not. The user's own say it themselves."""
    adapting = [name for name, node in methods.items() if isinstance(node, Mapping) and node.get("phase") != "source"]
    ours = isinstance(recipe, Mapping) and str(recipe.get("_target_")).startswith("da_wa.")
    if adapting and ours and "optimizer" not in recipe:
        raise ConfigError(
            f"methods=[{','.join(methods)}]: finetune={recipe.get('name', recipe['_target_'])} trains nothing by "
            f"gradient descent, and {', '.join(adapting)} would. Use methods=[none] with it. For adaptation on frozen "
            "features use finetune=features; finetune=default trains the whole network."
        )


def _mistakes(kind: Any, node: Any, prefix: str = "") -> Iterator[str]:
    check = kind.model_validate if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    try:
        (check or TypeAdapter(kind).validate_python)(node)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            # Pydantic names the kind of a node, <own> or <shipped>, between the options.
            path = [str(part) for part in found["loc"] if not str(part).startswith("<")]
            yield prefix + _explain(".".join(path), found["type"], found["msg"], found["input"], node)


def _explain(option: str, kind: str, message: str, value: Any, node: Any) -> str:
    if kind == "extra_forbidden":
        known = [key for key in keys(node) if key != option and not key.startswith(f"{option}.")]
        return unknown(option, known)
    if kind == "missing":
        return f"{option} is missing; write {option}=…"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a group of options, not a single value"
    if kind == "rule":
        return f"{option}.{message}".removeprefix(".")
    return f"{option}={shown(value)}: {message}"


def unknown(option: str, known: Sequence[str]) -> str:
    """Message for an unknown option: suggest the same name in another group, or a similar name."""
    group, leaf = option.split(".")[0], option.rsplit(".", 1)[-1]
    same = sorted((k for k in known if k.rsplit(".", 1)[-1] == leaf), key=lambda k: k.split(".")[0] != group)
    beside = [k for k in same if k.split(".")[0] == group]
    close = beside or difflib.get_close_matches(option, known, n=3, cutoff=0.6) or same
    if close:
        return f"there is no option {option!r}. Did you mean {' or '.join(repr(k) for k in close[:3])}?"
    return f"there is no option {option!r}. `--cfg` prints all of them."


def unreadable(word: str) -> str:
    """Message for a word of the command line that does not give one value to one option.

    >>> print(unreadable("out=a(b)"))
    out=a(b) cannot be read. A list is out=[a,b]; text with special letters needs two pairs of quotes, "out='…'".
    >>> print(unreadable("names=[é]"))
    names=[é] cannot be read. A list is names=[a,b]; text with special letters needs two pairs of quotes, "names=['…']".
    """
    key, equals, value = word.partition("=")
    if not (key and equals):
        return f"{word!r} cannot be read; write option=value."
    text = "['…']" if value.startswith("[") else "'…'"
    return (
        f"{word} cannot be read. A list is {key}=[a,b]; text with special letters needs two pairs of quotes, "
        f'"{key}={text}".'
    )


def keys(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all options of a composed configuration.

    >>> keys({"finetune": {"epochs": 30, "schedule": {"name": "cosine"}}})
    ['finetune', 'finetune.epochs', 'finetune.schedule', 'finetune.schedule.name']
    """
    if not isinstance(node, Mapping):
        return [prefix]
    below = [k for name, child in node.items() for k in keys(child, f"{prefix}.{name}" if prefix else str(name))]
    return [prefix, *below] if prefix else below


def shown(value: Any) -> str:
    """A value as it is written on the command line.

    >>> shown([None, True, {"A": 1.5}])
    '[null,true,{A:1.5}]'
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{shown(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
