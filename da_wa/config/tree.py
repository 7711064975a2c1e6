"""The folders of YAML files: find them, list their options, read one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from da_wa.errors import ConfigError, nearest
from da_wa.shipped import conf_dir


def folders(extra_dir: Path | None = None) -> list[Path]:
    """Where options are looked up, first match first.

    Raises:
        ConfigError: ``extra_dir`` (``--config-dir``) is not a folder, or has an option with the name of one of the
            package.
    """
    if extra_dir is None:
        return [conf_dir()]
    if not extra_dir.is_dir():
        raise ConfigError(f"--config-dir {extra_dir} is not a folder; check the path")
    where = [conf_dir().resolve(), extra_dir.resolve()]
    if where[0] == where[1]:
        return where[:1]
    for group in sorted(groups(where) - OWN_FIRST):
        shipped, own = ({path.stem for path in (folder / group).glob("*.yaml")} for folder in where)
        if both := sorted(shipped & own):
            raise ConfigError(
                f"{extra_dir / group / both[0]}.yaml: the package has {group}={both[0]}, which would be used instead. "
                "Choose another name."
            )
    return where


OWN_FIRST = {"select", "study"}
"""Groups in which a file of the user's own is found first, or refused when it is read."""


def groups(where: Sequence[Path]) -> set[str]:
    """The groups of options, e.g. ``data`` and ``norm``."""
    return {path.name for folder in where for path in folder.iterdir() if path.is_dir()}


def options(group: str, where: Sequence[Path]) -> dict[str, Path]:
    """The options of a group and their files, in alphabetical order."""
    found = {path.stem: path for folder in reversed(where) for path in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def available(group: str, extra_dir: Path | None = None) -> list[tuple[str, str]]:
    """Names and one-line descriptions of the options of a group.

    The description is the first comment of the file, else its ``label``, else empty.

    >>> dict(available("norm"))["bn"]
    'BatchNorm (Ioffe & Szegedy 2015).'
    >>> [name for name, _ in available("protocol")]
    ['full', 'paper', 'whole']

    Raises:
        ConfigError: there is no such group, or ``extra_dir`` is not a folder.
    """
    where = folders(extra_dir)
    if group not in groups(where):
        raise ConfigError(f"there is no group {group!r}. {nearest(group, groups(where))}")
    return [(name, _description(path)) for name, path in options(group, where).items()]


def _description(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line]
    if comments and lines[0].startswith("#"):
        return comments[0]
    return next((line.removeprefix("label:").strip() for line in lines if line.startswith("label:")), "")


def add_code(folder: Path) -> None:
    """Let Python find the user's own code in ``folder``; workers inherit it. It stays on ``sys.path``."""
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.insert(0, place)


def read_node(group: str, name: str, where: Sequence[Path]) -> DictConfig:
    """One option of a group, with interpolations unresolved.

    A ``defaults`` list may name options of the same group, whose values the file then overrides
    (or is overridden by, when it lists ``_self_`` before them), as in Hydra.

    Raises:
        ConfigError: there is no such option, or its file is not a valid configuration.
    """
    known = options(group, where)
    if name not in known:
        raise ConfigError(f"there is no {group} called {name!r}. {nearest(name, known)}")
    try:
        node = OmegaConf.load(known[name])
    except (yaml.YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{known[name]} is not valid YAML: {error}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{known[name]} must contain options, one `name: value` per line")
    defaults = list(node.pop("defaults", []))
    order = defaults if "_self_" in defaults else [*defaults, "_self_"]
    if name in order or not all(isinstance(entry, str) for entry in order):
        raise ConfigError(f"{known[name]}: defaults={defaults} must name other options of {group}")
    merged = OmegaConf.merge(*(node if entry == "_self_" else read_node(group, entry, where) for entry in order))
    assert isinstance(merged, DictConfig)
    return merged
