"""A table of the paper: rows × columns of any factors, by configuration alone.

``conf/study/table1.yaml`` is an example. Every factor has levels: a list of names, which one experiment compares
(``norm: [bn, wa]`` is ``norms=[bn,wa]``), or a mapping of levels to options, with one experiment for each
(``batch_size: {64: [finetune.batch_size=64], …}``). Several such mappings give an experiment for each combination.
Stages:

==========  ===========================================================================================
table       all runs, the first seed of every cell first; cells that cannot be trained are left out, with the reason
report      the table beside the paper's numbers, and which of the paper's claims hold
==========  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

from da_wa.config.compose import Experiment, compose
from da_wa.config.validate import shown
from da_wa.errors import ConfigError, DataError, nearest
from da_wa.launchers.launch import Planned
from da_wa.records.design import Design, Measure, Refusal, joined, level_text, read_design, write_design
from da_wa.records.schema import Factors
from da_wa.runs.jobs import Job, UnitJob
from da_wa.studies.study import Bench, ScopedStudy, changes, merged, option_of

Levels = Sequence[str] | Mapping[Any, Sequence[str]]
"""Names that one experiment compares, or levels and their options."""


LISTS = ("norm", "model", "method")
"""Factors whose levels one experiment compares."""


@dataclass(frozen=True)
class Scope:
    """The size of a study.

    Attributes:
        options: overrides for every experiment.
        caption: what it is, and what differs from the paper.
        factors: levels that differ from those of the study.
    """

    options: Sequence[str]
    caption: str
    factors: Mapping[str, Levels] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One experiment of a study.

    Attributes:
        folder: of its results, in that of the study.
        levels: of the factors with one experiment for each level.
        options: of these levels.
    """

    folder: str
    levels: Mapping[str, str]
    options: Sequence[str]


class Grid(ScopedStudy[Scope]):
    """The study; see the module docstring.

    Args:
        study: its name, by which ``report/paper.yaml`` and ``report/claims.yaml`` know it.
        title: of its table.
        experiment: the file in ``conf/experiment`` that all its experiments start from.
        factors: the levels of every factor, in display order.
        rows: factors whose levels are the rows.
        columns: factors whose levels are the columns.
        scopes: plain values of :class:`Scope` by name.
        measures: what the table shows, in percent, each in its own columns; one may stand without a list.
        names: display names of levels, by factor; norms have their labels.

    Raises:
        ConfigError: an unknown factor or measure, no measure, rows and columns that are not the factors, or a list of
            levels for a factor that one experiment does not compare.
    """

    def __init__(
        self,
        study: str,
        title: str,
        experiment: str,
        factors: Mapping[str, Levels],
        rows: Sequence[str],
        columns: Sequence[str],
        scopes: Mapping[str, Mapping[str, Any]],
        measures: str | Sequence[str] = ("error",),
        names: Mapping[str, Mapping[Any, str]] | None = None,
    ) -> None:
        super().__init__(experiment, {name: Scope(**node) for name, node in scopes.items()})
        self.study, self.title, self.measures = study, title, _known(measures)
        self.factors, self.rows, self.columns = factors, rows, columns
        self.names = {f: {level_text(k): v for k, v in given.items()} for f, given in (names or {}).items()}
        for scope in self.scopes:
            self._refuse_lists(scope)
            if unknown := [factor for factor in self._factors(scope) if factor not in Factors.model_fields]:
                raise ConfigError(f"factors: {unknown[0]} is unknown. {nearest(unknown[0], Factors.model_fields)}")
            if sorted([*rows, *columns]) != sorted(self._factors(scope)):
                raise ConfigError(f"rows {rows} and columns {columns} must be the factors {list(self._factors(scope))}")

    def options(self, scope: str) -> list[str]:
        """Overrides for every experiment of a scope.

        Raises:
            ConfigError: there is no such scope.
        """
        start = super().options(scope)
        compared = {f: levels for f, levels in self._factors(scope).items() if not isinstance(levels, Mapping)}
        return [*start, *(f"{factor}s=[{','.join(levels)}]" for factor, levels in compared.items())]

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> dict[str, Experiment]:
        """All of them, by folder."""
        start = [*self.options(scope), *words]
        found = {}
        for part in self.parts(scope):
            found[part.folder] = compose([*start, *part.options], config_dir)
            self._refuse_levels(scope, found[part.folder])
        return found

    def sets(self, scope: str) -> list[str]:
        """The options of all levels."""
        return [option_of(option) for part in self.parts(scope) for option in part.options]

    def unused(self) -> Sequence[str]:
        """Those of a report, of which its table has none."""
        return ("report", "select")

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        return {"table": partial(self._table, scope=scope), "report": self._report}

    def parts(self, scope: str) -> list[Part]:
        """The experiments of a scope."""
        mappings = {f: levels for f, levels in self._factors(scope).items() if isinstance(levels, Mapping)}
        found = []
        for chosen in product(*(levels.items() for levels in mappings.values())):
            levels = {factor: level_text(level) for factor, (level, _) in zip(mappings, chosen, strict=True)}
            folder = "_".join(f"{factor}-{level}" for factor, level in levels.items()) or "table"
            found.append(Part(folder, levels, [option for _, options in chosen for option in options]))
        return found

    def _factors(self, scope: str) -> dict[str, Levels]:
        return {**self.factors, **self.scopes[scope].factors}

    def _refuse_lists(self, scope: str) -> None:
        for factor, levels in self._factors(scope).items():
            if not isinstance(levels, Mapping) and factor not in LISTS:
                raise ConfigError(
                    f"factors.{factor} is a list; only {', '.join(LISTS)} may be one. Give each level its options: "
                    f"{{{', '.join(f'{level}: [OPTION=VALUE]' for level in levels)}}}."
                )

    def _refuse_levels(self, scope: str, experiment: Experiment) -> None:
        """Refuse several values where the table has one cell for all of them.

        Raises:
            ConfigError: names the option.
        """
        factors = self._factors(scope)
        compared = {
            "norm": ("norms", list(experiment.norms)),
            "model": ("models", list(experiment.models)),
            "method": ("methods", list(experiment.methods)),
            "source": ("sources", experiment.cfg["sources"]),
        }
        for factor, (option, given) in compared.items():
            levels = factors.get(factor)
            if given != "all" and (len(given) < 2 or (levels is not None and not isinstance(levels, Mapping))):
                continue
            several = f"{option}={shown(given)}: study={self.study} needs one {factor} per experiment."
            if levels is None:
                advice = f"Its factors: {', '.join(factors)}. Choose one {factor}"
            else:
                advice = f"It chooses {', '.join(map(level_text, levels))} itself. Leave {option} out"
            raise ConfigError(f"{several} {advice}, or use a study of your own, see docs/paper.md.")

    def _table(self, bench: Bench, scope: str) -> None:
        parts = self.parts(scope)
        for part in parts:  # before the first one is planned, which may download images
            self._refuse_levels(scope, bench.compose(part.options))
        asked = [bench.prepare(part.folder, part.options) for part in parts]
        _refuse_equal_runs(parts, asked)
        _refuse_shared_cells(parts, asked, list(self._factors(scope)))
        planned, refusals = [], []
        for part, whole in zip(parts, asked, strict=True):
            experiment, reasons = _trainable(whole)
            planned.append(experiment)
            refusals += [
                Refusal(levels={**part.levels, "norm": norm}, reason=reason) for norm, reason in reasons.items()
            ]
        design = self._design(scope, asked[0], refusals, changes(bench.words))
        with suppress(DataError):  # the first command, or a damaged file, which is replaced
            design = joined(design, read_design(bench.out), self._chosen(scope))
        write_design(bench.out, design)
        for reason in dict.fromkeys(refusal.reason for refusal in refusals):
            bench.console.print(f"left out: {reason}")
        bench.run(merged(planned), _first_seeds_first(planned))

    def _design(self, scope: str, asked: Planned, refusals: Sequence[Refusal], changed: str) -> Design:
        """What the report needs to know beside the records; ``asked``: the first experiment."""
        experiment = asked.experiment
        compared = {"norm": experiment.norms, "model": experiment.models, "method": experiment.methods}
        return Design(
            study=self.study,
            scope=scope,
            title=self.title,
            caption=self.scopes[scope].caption + changed,
            measures=self.measures,
            factors={
                factor: list(map(level_text, levels if isinstance(levels, Mapping) else compared[factor]))
                for factor, levels in self._factors(scope).items()
            },
            rows=list(self.rows),
            columns=list(self.columns),
            names={"norm": {name: node["label"] for name, node in experiment.norms.items()}, **self.names},
            norms={name: dict(node.get("factors") or {}) for name, node in experiment.norms.items()},
            folders=[part.folder for part in self.parts(scope)],
            refused=list(refusals),
        )

    def _chosen(self, scope: str) -> dict[str, list[str]]:
        """The factors whose levels a command may choose, and the study's own levels."""
        factors = self._factors(scope).items()
        return {factor: list(map(level_text, own)) for factor, own in factors if not isinstance(own, Mapping)}

    def _report(self, bench: Bench) -> None:
        from da_wa.report.grid import write_study  # imports pandas

        report = write_study(bench.out)
        bench.console.print(report.summary())
        bench.console.print(f"The report is in {bench.out}")


def _refuse_equal_runs(parts: Sequence[Part], asked: Sequence[Planned]) -> None:
    """Refuse levels between which a run does not differ: it would be run for one of them only."""
    folders: dict[str, str] = {}
    for part, planned in zip(parts, asked, strict=True):
        for job in planned.jobs:
            if isinstance(job, UnitJob) and (other := folders.setdefault(job.id, part.folder)) != part.folder:
                raise ConfigError(
                    f"The run {job.id} is in {part.folder} and in {other}: it does not depend on "
                    f"{', '.join(part.options)}. Leave one of these levels, or its norm or method, out of the study."
                )


def _refuse_shared_cells(parts: Sequence[Part], asked: Sequence[Planned], factors: Sequence[str]) -> None:
    """Refuse levels that records do not have, and several runs for one cell and seed."""
    cells: dict[tuple[Any, ...], str] = {}
    for part, planned in zip(parts, asked, strict=True):
        for job in (job for job in planned.jobs if isinstance(job, UnitJob)):
            unit = job.unit
            for factor, level in part.levels.items():
                if (recorded := level_text(getattr(unit.factors, factor))) != level:
                    raise ConfigError(
                        f"factors.{factor}: with {', '.join(part.options)} runs have {factor}={recorded}, not {level}. "
                        f"Call the level {recorded}; `names` gives it another name in tables."
                    )
            levels = tuple(level_text(getattr(unit.factors, factor)) for factor in factors)
            cell = (*levels, unit.factors.pretraining_seed, unit.factors.seed)
            if (other := cells.setdefault(cell, job.id)) != job.id:
                raise ConfigError(
                    f"{', '.join(levels)}: the table has one cell for the runs {other} and {job.id}. Make what differs "
                    "a factor. Methods have a run for each target, so they need data with two domains."
                )


def _known(measures: str | Sequence[str]) -> list[Measure]:
    """Measures by name."""
    names: list[Any] = [measures] if isinstance(measures, str) else list(measures)
    known = get_args(Measure)
    if wrong := [name for name in names if name not in known] or ([] if names else ["[]"]):
        raise ConfigError(f"measures: {wrong[0]} is unknown. {nearest(str(wrong[0]), known)}")
    return names


def _trainable(planned: Planned) -> tuple[Planned, dict[str, str]]:
    """An experiment without the norms that cannot be trained, and why these cannot."""
    from da_wa.runs.preflight import refused  # imports torch

    reasons = refused(planned.experiment)
    if not reasons:
        return planned, reasons
    norms = {name: node for name, node in planned.experiment.norms.items() if name not in reasons}
    jobs = [job for job in planned.jobs if job.config["facts"]["norm"]["name"] in norms]
    return replace(planned, experiment=replace(planned.experiment, norms=norms), jobs=jobs), reasons


def _first_seeds_first(planned: Sequence[Planned]) -> list[Job]:
    """Jobs of all experiments: pre-training, then the first seed of every cell, then the next."""
    jobs = {job.id: job for experiment in planned for job in experiment.jobs}
    return sorted(jobs.values(), key=_seed)


def _seed(job: Job) -> int:
    return job.unit.factors.seed if isinstance(job, UnitJob) else -1
