"""The configuration tree: where it lies, and how an experiment is composed from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from da_wa.errors import ConfigError, nearest

SEARCHPATH = "hydra.searchpath=[file://"


def conf_dir() -> Path:
    """The folder of ``config.yaml`` and the groups: ``conf/`` of a checkout, ``da_wa/conf/`` of a wheel."""
    package = Path(__file__).resolve().parent
    packed = package / "conf"
    return packed if packed.is_dir() else package.parent / "conf"


def compose_experiment(
    overrides: Sequence[str], extra_dir: Path | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of an experiment, and those of the norms it names, as nested plain values.

    Args:
        overrides: Hydra's ``group=option`` and ``key=value``.
        extra_dir: a folder with more options for the groups (``--config-dir``).

    Raises:
        ConfigError: an unknown option, key or norm, with the nearest names, or a value that does not parse.
    """
    if extra_dir is not None:
        if not extra_dir.is_dir():
            raise ConfigError(f"--config-dir {extra_dir} is not a folder")
        overrides = [*overrides, f"{SEARCHPATH}{extra_dir.resolve()}]"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = _compose(overrides)
        _check_switches(cfg, OmegaConf.to_container(compose("config", _choices(overrides)), resolve=False))
        names = cfg["norms"]
        if not isinstance(names, list) or not names:
            raise ConfigError(f"norms={names} is not a list of norms; write norms=[bn,bn_wa]")
        search = [o for o in overrides if o.startswith(SEARCHPATH)]
        norms = {str(name): _compose([f"+norm={name}", *search])["norm"] for name in names}
    return cfg, norms


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(str(error), overrides)) from error


def _choices(overrides: Sequence[str]) -> list[str]:
    """Those overrides that choose an option of a group, without the values that are set."""
    groups = {str(path.relative_to(conf_dir())) for path in conf_dir().rglob("*") if path.is_dir()}
    return [o for o in overrides if o.lstrip("+").split("=")[0] in groups or o.startswith(SEARCHPATH)]


def _check_switches(cfg: Any, usual: Any, prefix: str = "") -> None:
    """Refuse what is not true or false where the option itself says one of them: ``no`` would count as true."""
    for name, value in cfg.items():
        expected = usual.get(name)
        if isinstance(value, dict) and isinstance(expected, dict):
            _check_switches(value, expected, f"{prefix}{name}.")
        elif isinstance(expected, bool) and not isinstance(value, bool):
            raise ConfigError(f"{prefix}{name}={value} is neither true nor false; write {prefix}{name}=true or =false")


def _explain(message: str, overrides: Sequence[str]) -> str:
    """Hydra's message, and the nearest names to the one that is wrong."""
    option = re.search(r"(?:Could not find|In '.*?': Could not find) '([\w/-]+)/([^'/]+)'", message)
    key = re.search(r"Key '([^']+)' is not in struct|Could not override '([^']+)'", message)
    missing = re.search(r"Missing mandatory value.*full_key: (\S+)", message, re.DOTALL)
    if missing:
        return f"{missing[1]} is not set; give it as {missing[1]}=…"
    if option:
        group, name = option.groups()
        known = [p.stem for folder in _folders(overrides) for p in (folder / group).glob("*.yaml")]
        return f"there is no {group} called {name!r}. {nearest(name, known)}"
    if key:
        wrong = next((o.lstrip("+~").split("=")[0] for o in overrides if (key[2] or key[1]) in o), key[2] or key[1])
        return f"there is no option {wrong!r}. {_nearest_key(wrong, overrides)}"
    return f"{message}\nin the options: {' '.join(overrides)}"


def _folders(overrides: Sequence[str]) -> list[Path]:
    """Where options are looked for."""
    more = [o.removeprefix(SEARCHPATH) for o in overrides if o.startswith(SEARCHPATH)]
    return [conf_dir(), *(Path(path.removesuffix("]")) for path in more)]


def _nearest_key(wrong: str, overrides: Sequence[str]) -> str:
    try:
        cfg = compose("config", _choices(overrides))
    except HydraException:
        cfg = compose("config")
    keys = _keys(OmegaConf.to_container(cfg, resolve=False))
    close = difflib.get_close_matches(wrong, keys, n=3, cutoff=0.6)
    if not close:  # a right word in the wrong place
        leaf = wrong.rsplit(".", 1)[-1]
        close = [k for k in keys if k.rsplit(".", 1)[-1] == leaf][:3]
    known = " or ".join(repr(c) for c in close)
    return f"Did you mean {known}?" if close else "See `--cfg` for all of them; a new key is added with +key=value."


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    below = [k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else str(name))]
    return [prefix, *below] if prefix else below
