"""``study=NAME``: run the stages of a study, up to a time limit."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from da_wa.config.make import make
from da_wa.config.tree import folders, read_node
from da_wa.errors import ConfigError, nearest
from da_wa.records.design import FILE
from da_wa.studies.study import Bench, Composed, Paused, Study, Submitted, refuse_without_effect

OPTIONS = {"study": "", "scope": "full", "stage": "all", "minutes": "inf", "out": ""}
"""Options of a study and their defaults; all others are passed to its experiments."""


EXAMPLES = {"study": "table1", "scope": "small", "stage": "report", "minutes": "9", "out": "DIR"}
"""A value of each option, for messages."""


def is_study(words: Sequence[str]) -> bool:
    """Whether the overrides of a command name a study."""
    return any(word.startswith("study=") for word in words)


def composed(words: Sequence[str], config_dir: Path | None = None) -> Mapping[str, Composed]:
    """The experiments of a study that are known beforehand, by folder; nothing is run.

    >>> experiments = composed(["study=table2", "scope=full"])
    >>> {folder: experiment.cfg["finetune"]["batch_size"] for folder, experiment in experiments.items()}
    {'batch_size-64': 64, 'batch_size-1': 1}

    Raises:
        UserError: see :func:`run_study`.
    """
    chosen, overrides = _split(words)
    study = _study(chosen["study"], config_dir)
    study.options(chosen["scope"])  # a scope that is unknown
    refuse_without_effect(overrides, study, chosen["scope"])
    return study.experiments(chosen["scope"], overrides, config_dir)


def run_study(words: Sequence[str], console: Console, config_dir: Path | None = None) -> list[str]:
    """Run a study.

    Args:
        words: ``study=NAME scope=… stage=… minutes=… out=DIR`` and overrides for all its experiments.
        console: shows progress.
        config_dir: a folder with the user's own options; ``study/NAME.yaml`` in it defines a study.

    Returns:
        The ids of jobs that failed.

    Raises:
        UserError: an unknown study, scope or stage, or a wrong option of an experiment.
    """
    chosen, overrides = _split(words)
    study = _study(chosen["study"], config_dir)
    bench = Bench(
        out=Path(chosen["out"] or f"out/{chosen['study']}-{chosen['scope']}"),
        options=study.options(chosen["scope"]),
        words=overrides,
        console=console,
        ends=time.monotonic() + 60 * _minutes(chosen["minutes"]),
        config_dir=config_dir,
    )
    refuse_without_effect(overrides, study, chosen["scope"])
    stages = study.stages(chosen["scope"])
    named = stages | study.extra_stages(chosen["scope"])
    if chosen["stage"] != "all" and chosen["stage"] not in named:
        raise ConfigError(f"stage={chosen['stage']} is unknown. {nearest(chosen['stage'], ['all', *named])}")
    try:
        for stage in stages if chosen["stage"] == "all" else (chosen["stage"],):
            named[stage](bench)
    except Paused:
        console.print("Time is up. Rerun the command to resume.")
    except Submitted:
        again = "Rerun the command when these runs are finished; until then it would submit them again."
        console.print(f"Submitted. {again}")
        followed = (bench.out / FILE).exists()
        console.print(f"{'Follow it with: da-wa watch out=' if followed else 'The study is in '}{bench.out}")
    return bench.failed


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options of the study, and overrides for its experiments."""
    if bare := [word for word in words if word in OPTIONS]:
        raise ConfigError(f"{bare[0]!r} has no value; write it, e.g. {bare[0]}={EXAMPLES[bare[0]]}.")
    own = [word for word in words if word.split("=", 1)[0] in OPTIONS]
    chosen = {**OPTIONS, **dict(word.split("=", 1) for word in own)}
    if quote := re.fullmatch(r"'(.*)'|\"(.*)\"", chosen["out"]):  # as experiments need it
        chosen["out"] = quote[1] or quote[2]
    chosen["out"] = os.path.expanduser(chosen["out"])
    return chosen, [word for word in words if word not in own]


def _study(name: str, config_dir: Path | None) -> Study:
    node = read_node("study", name, folders(config_dir)[::-1])
    if "_target_" not in node:
        raise ConfigError(
            f"study={name}: its file needs the class of the study, e.g. `_target_: da_wa.studies.grid.Grid`. "
            "See the other files of conf/study."
        )
    study: Study = make(node)
    return study


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise ConfigError(f"minutes={text} must be a positive number, e.g. minutes=9.")
    return minutes
