"""The basis of all studies: experiments in one folder, a common deadline, and a list of failures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rich.console import Console

from da_wa.config.compose import Experiment, compose, quoted, rejoin
from da_wa.config.make import make
from da_wa.errors import ConfigError, UserError, nearest
from da_wa.launchers.launch import Planned, launch, prepare
from da_wa.records.export import without_folders
from da_wa.records.files import write_bytes, write_json
from da_wa.records.identity import digest, model_facts, parameters, recipe_facts
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import Job, PretrainJob

if TYPE_CHECKING:
    import pandas as pd


SETTINGS = "settings"
"""The key of a decision that holds a digest of the settings that it was made with."""


class Paused(Exception):
    """The time of this command is up; rerunning it resumes the study."""


class Submitted(Exception):
    """Workers were submitted and the command does not wait for them (``launcher.detach=true``)."""


class Composed(Protocol):
    """An experiment, or whatever else a study makes of the words of a command."""

    @property
    def cfg(self) -> Mapping[str, Any]:
        """All options, as nested plain values; ``--cfg`` prints them."""


class Study(Protocol):
    """Stages by name, each a function of the bench that it works on."""

    def options(self, scope: str) -> list[str]:
        """Overrides for every experiment.

        Raises:
            ConfigError: there is no such scope.
        """

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> Mapping[str, Composed]:
        """What is known before anything runs, by the folder of its results.

        Args:
            scope: the size of the study.
            words: the user's overrides.
            config_dir: a folder with the user's own options.

        Raises:
            ConfigError: there is no such scope, or an override is wrong.
        """

    def sets(self, scope: str) -> Sequence[str]:
        """The names of options that it sets itself in some stage; none by default."""
        return ()

    def unused(self) -> Sequence[str]:
        """The names of options of an experiment that its results do not depend on; none by default."""
        return ()

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """The stages of a scope, in order."""

    def extra_stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """Stages that run only on request; none by default."""
        return {}


class HasOptions(Protocol):
    """A scope: how much a study computes."""

    @property
    def options(self) -> Sequence[str]:
        """Overrides for every experiment."""


Scope = TypeVar("Scope", bound=HasOptions)


class ScopedStudy(Study, Generic[Scope]):
    """A study whose experiments all start from one file of ``conf/experiment``.

    Args:
        experiment: the file.
        scopes: by name, what each changes for every experiment.
    """

    def __init__(self, experiment: str, scopes: Mapping[str, Scope]) -> None:
        self.experiment, self.scopes = experiment, scopes

    def options(self, scope: str) -> list[str]:
        """Overrides for every experiment: the file that all start from, and what the scope changes.

        Raises:
            ConfigError: there is no such scope.
        """
        if scope not in self.scopes:
            raise ConfigError(f"scope={scope} is unknown. {nearest(scope, self.scopes)}")
        return [f"experiment={self.experiment}", *self.scopes[scope].options]


def option_of(word: str) -> str:
    """The option that an override sets.

    >>> option_of("++finetune.epochs=2")
    'finetune.epochs'
    """
    return word.lstrip("+~").partition("=")[0]


NO_CHANGE = (
    *("out", "cache_dir", "checkpoint_dir", "data.root", "data.download", "pretrain.root", "pretrain.download"),
    *("seeds", "norms", "models", "methods", "launcher", "trainer", "report", "select", "logger"),
    *("keep", "keep_epochs", "caption"),
)
"""Options that leave the experiments of a table what its caption says: places, levels, repetitions, how they run."""


def changes(words: Sequence[str]) -> str:
    """What a command changed of a study, as an addition to its caption.

    >>> changes(["finetune.epochs=60", "seeds=[0,", "1]", "data.root=PATH", "launcher.workers=2", "model=vgg16"])
    ' Changed: finetune.epochs=60, model=vgg16.'
    >>> changes(["norms=[bn]"])
    ''
    """
    told = [w for w in rejoin(words) if not any(f"{option_of(w)}.".startswith(f"{name}.") for name in NO_CHANGE)]
    return without_folders(f" Changed: {', '.join(told)}.") if told else ""


def refuse_without_effect(words: Sequence[str], study: Study, scope: str) -> None:
    """Refuse options of a command that would have no effect.

    Args:
        words: the overrides of the command.
        study: that the command runs.
        scope: of the study.

    Raises:
        ConfigError: a word sets an option that the study sets itself or does not use, a part of it, or a mapping with
            it.
    """
    for word, name in product(words, study.sets(scope)):
        if _concerns(word, name):
            raise ConfigError(
                f"{word}: the study sets {name} itself. Leave it out, or use a study of your own: a changed copy of "
                "its file, see docs/paper.md."
            )
    for word, name in product(words, study.unused()):
        if _concerns(word, name):
            raise ConfigError(f"{word}: the tables of this study do not depend on {name}. Leave it out.")


def _concerns(word: str, name: str) -> bool:
    own = option_of(word)
    return f"{own}.".startswith(f"{name}.") or ("={" in word and f"{name}.".startswith(f"{own}."))


def merged(experiments: Sequence[Planned]) -> Planned:
    """One launch for the jobs of several experiments, so that all workers have something to do; one or more."""
    jobs = [job for planned in experiments for job in planned.jobs]
    return replace(experiments[0], jobs=jobs, merged=experiments)


def training_result(job: PretrainJob) -> Mapping[str, Any]:
    """What is known of a pre-training: its result, error and curve if it diverged, nothing if it is not finished."""
    from da_wa.models.checkpoint import read_header  # imports torch

    return read_header(job.checkpoint).result if job.checkpoint.exists() else job.divergence() or {}


@dataclass(eq=False)
class Bench:
    """Runs experiments in one folder until a deadline; there is one for each command.

    Attributes:
        out: the folder of the study.
        options: overrides for every experiment.
        console: shows progress.
        ends: the deadline, a value of ``time.monotonic()``; nothing starts after it.
        config_dir: a folder with the user's own options.
        words: the overrides of the command, which come after ``options``.
        began: when the command began, likewise; ``launcher.deadline_s`` counts from there.
        failed: ids of jobs that failed; a diverged job is done.
    """

    out: Path
    options: Sequence[str]
    console: Console
    ends: float
    config_dir: Path | None = None
    words: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)
    _inputs: Inputs | None = None  # of the last experiment

    def compose(self, options: Sequence[str] = ()) -> Experiment:
        """An experiment of the study.

        Raises:
            ConfigError: a wrong option, or one that a study cannot have.
        """
        experiment = compose([*self.options, *self.words, *options], self.config_dir)
        if experiment.auto:
            raise ConfigError("seeds=auto: a study needs to know its seeds; write them down, e.g. seeds=[0,1,2].")
        return experiment

    def prepare(self, folder: str, options: Sequence[str] = ()) -> Planned:
        """Plan the experiment with its results in ``folder``; nothing is decoded."""
        places = [f"out={quoted(str(self.out / folder))}"]
        if "checkpoint_dir" not in map(option_of, self.words):
            places.append(f"checkpoint_dir={quoted(str(self.out / 'networks'))}")
        planned = prepare(self.compose([*places, *options]), self.console, self._inputs)
        self._inputs = planned.inputs or self._inputs
        return planned

    def run(self, planned: Planned, jobs: Sequence[Job] | None = None) -> None:
        """Run unfinished jobs until the deadline.

        Raises:
            Paused: the time is up before all jobs are done.
            Submitted: the launcher does not wait for the jobs.
        """
        jobs = planned.jobs if jobs is None else jobs
        pending = [job for job in jobs if not job.done]
        if not pending:
            return
        options = planned.experiment.cfg["launcher"]
        limit = options.get("deadline_s")
        queues = make(options).queues
        if limit is not None and not queues:
            self.ends = min(self.ends, self.began + limit)
        left = self.ends - time.monotonic()
        if left <= 0:
            raise Paused
        options["deadline_s"] = min(left, limit) if limit is not None and queues else left
        self.console.print(f"== {planned.out}")
        this = launch(planned, self.console, jobs)
        if planned.detached:
            raise Submitted
        failed = [job.id for job in pending if job.failed(this) and not job.done]
        self.failed += failed
        if any(not job.done and job.id not in failed for job in pending):
            raise Paused

    def decide(self, name: str, found: Mapping[str, Any], **facts: Any) -> None:
        """Write what a stage decided as ``out/<name>``.

        Args:
            name: of the file.
            found: what was decided.
            facts: what it holds for beside the networks and their pre-training.
        """
        write_json(self.out / name, {**found, SETTINGS: self._settings(facts)})

    def decided(self, name: str, stage: str, **facts: Any) -> dict[str, Any]:
        """What a stage decided with the settings of this command; see :meth:`decide`.

        Raises:
            UserError: the stage was not run, or with other settings.
        """
        try:
            found: dict[str, Any] = json.loads((self.out / name).read_text())
        except FileNotFoundError:
            raise UserError(f"{self.out} has no {name} yet: run stage={stage} first.") from None
        if (made_with := found.pop(SETTINGS, None)) not in (None, self._settings(facts)):  # None: of earlier versions
            raise UserError(
                f"{self.out / name} was found with other settings of the network or its training ({made_with}): run "
                f"stage={stage} again, or use a separate out."
            )
        return found

    def _settings(self, facts: Mapping[str, Any]) -> str:
        return digest({**self._training, **facts})

    @cached_property
    def _training(self) -> dict[str, Any]:
        """The networks and their pre-training, as the command says."""
        experiment = self.compose()
        pretrain = experiment.cfg["pretrain"]
        started = ("name", "norm", "checkpoint", "size", "dtype", "keep_head", "rates", "epochs")
        return {
            "models": [model_facts(node) for node in experiment.models.values()],
            "normalize": parameters(experiment.cfg["normalize"]),
            "pretraining": {
                **{key: pretrain.get(key) for key in started},
                "recipe": recipe_facts(pretrain["recipe"]),
            },
        }

    def write_csv(self, name: str, frame: pd.DataFrame) -> None:
        """A table of the study as ``out/<name>``."""
        write_bytes(self.out / name, frame.to_csv(index=False, lineterminator="\n").encode())
