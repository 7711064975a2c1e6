"""The norms of ``conf/norm`` by name, without Hydra.

The files are those of the command line, where Hydra instantiates them; ``_target_`` and ``_partial_`` mean the same.
"""

from __future__ import annotations

import pkgutil
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from da_wa.errors import ConfigError, nearest
from da_wa.norm.spec import Norm
from da_wa.shipped import conf_dir


def norm_files() -> dict[str, Path]:
    """The files of ``conf/norm`` by name.

    >>> {"bn", "bn_wa", "none", "wa"} <= norm_files().keys()
    True
    """
    return {path.stem: path for path in sorted((conf_dir() / "norm").glob("*.yaml"))}


def named(name: str) -> Norm:
    """The :class:`Norm` of ``conf/norm/<name>.yaml``.

    Raises:
        ConfigError: there is no such file; the message lists the nearest names.

    >>> named("bn_wa").label
    'BN + WA'
    >>> named("bn_wa").factors
    {'weight': 'align', 'activation': 'bn'}
    """
    files = norm_files()
    if name not in files:
        raise ConfigError(f"unknown norm {name!r}. {nearest(name, files)}")
    norm: Norm = _instantiate(yaml.safe_load(files[name].read_text(encoding="utf-8")))
    return norm


def _instantiate(node: Any) -> Any:
    """``_target_`` called with the other keys, or ``functools.partial`` of it with ``_partial_: true``."""
    if not isinstance(node, dict):
        return node
    values = {key: _instantiate(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return values
    target = pkgutil.resolve_name(node["_target_"])
    return partial(target, **values) if node.get("_partial_", False) else target(**values)
