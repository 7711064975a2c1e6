"""The scores of ``conf/select`` by name. A line in a YAML file adds one: ``name: package.module.function``."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from da_wa.errors import ConfigError, nearest
from da_wa.select.saved import NotSaved, Saved
from da_wa.shipped import conf_dir

Score = Callable[[Saved], float]
"""Higher is better. Raises :class:`~da_wa.select.saved.NotSaved` where an array is missing that it needs."""


def listed(folders: Iterable[Path] = ()) -> dict[str, str]:
    """Names of scores and their import paths, from every ``select/*.yaml`` of ``conf/`` and of ``folders``.

    Args:
        folders: more folders laid out like ``conf/`` (``--config-dir``).

    >>> listed()["entropy"]
    'da_wa.select.scores.entropy'

    Raises:
        ConfigError: a file that is not a mapping of names to import paths, or a name that is given twice.
    """
    found: dict[str, str] = {}
    files: dict[str, Path] = {}
    for folder in (conf_dir(), *folders):
        for file in sorted((folder / "select").glob("*.yaml")):
            for name, path in _read(file).items():
                if name in found:
                    raise ConfigError(f"{file}: the score {name!r} is already in {files[name]}; choose another name")
                found[name], files[name] = path, file
    return found


def load(names: Sequence[str] | None = None, folders: Iterable[Path] = ()) -> dict[str, Score]:
    """Scores by name, imported.

    Args:
        names: which; default: all that are listed.
        folders: as for :func:`listed`.

    >>> scores = load(["im", "entropy"])
    >>> round(scores["im"](Saved(target_logits=[[100.0, 0.0], [0.0, 100.0]])), 6)
    0.693147

    Raises:
        ConfigError: a name that is not listed, or an import path that does not lead to a function.
    """
    return imported(chosen(names, folders))


def chosen(names: Sequence[str] | None = None, folders: Iterable[Path] = ()) -> dict[str, str]:
    """Import paths of scores by name; nothing is imported.

    Args:
        names: which; default: all that are listed.
        folders: as for :func:`listed`.

    >>> chosen(["im"])
    {'im': 'da_wa.select.scores.im'}

    Raises:
        ConfigError: a name that is not listed.
    """
    paths = listed(folders)
    for name in names or ():
        if name not in paths:
            raise ConfigError(f"unknown score {name!r}. {nearest(name, paths)}")
    return {name: paths[name] for name in (paths if names is None else names)}


def imported(paths: Mapping[str, str]) -> dict[str, Score]:
    """Scores by name, from their import paths.

    Raises:
        ConfigError: an import path that does not lead to a function.
    """
    return {name: _imported(name, path) for name, path in paths.items()}


def evaluate(scores: Mapping[str, Score], saved: Saved) -> dict[str, float]:
    """Every score of one candidate. A score that needs an array that was not saved is NaN.

    >>> evaluate(load(["im", "source_val"]), Saved(target_logits=[[0.0, 0.0]]))
    {'im': 0.0, 'source_val': nan}

    Raises:
        ConfigError: a score that does not return a number; the message names it.
    """
    found = {}
    for name, score in scores.items():
        try:
            found[name] = value(name, score, saved)
        except NotSaved:
            found[name] = float("nan")
    return found


def value(name: str, score: Score, saved: Saved) -> float:
    """One score of one candidate.

    Raises:
        NotSaved: the score needs an array that was not saved.
        ConfigError: the score does not return a number; the message names it.
    """
    try:
        return float(score(saved))
    except NotSaved:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"the score {name!r} failed: {error}") from error


def _read(file: Path) -> dict[str, str]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(t, str) for line in content.items() for t in line):
        raise ConfigError(f"{file} must hold lines of the form `name: package.module.function`")
    return content


def _imported(name: str, path: str) -> Score:
    try:
        score = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the score {name!r} cannot be imported from {path}: {error}") from error
    if not callable(score):
        raise ConfigError(f"the score {name!r}: {path} is not a function of Saved")
    loaded: Score = score
    return loaded
