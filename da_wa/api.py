"""The command line as Python functions.

>>> from da_wa import api
>>> results = api.run(["experiment=demo", "norms=[bn,bn_wa]"])  # doctest: +SKIP
>>> results.matrix()  # doctest: +SKIP

:func:`run` takes the overrides of the command line; :func:`load` reads the results of an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from da_wa.config.compose import compose
from da_wa.config.tree import add_code
from da_wa.errors import ConfigError, DataError, nearest
from da_wa.launchers.launch import Planned, launch, prepare
from da_wa.launchers.progress import phase
from da_wa.records.store import Store
from da_wa.report import SPREADS, report_options, sections_of, selected, write_report
from da_wa.report.candidates import RULES
from da_wa.report.choices import Choices, Rule, choices
from da_wa.report.content import Plot
from da_wa.report.contrasts import effects_frame, refuse_unknown
from da_wa.report.facts import Facts, load_facts
from da_wa.report.latex import table_latex
from da_wa.report.matrix import HEADLINE
from da_wa.report.pivot import pivot
from da_wa.report.tables import Spread, matrix_table
from da_wa.select.catalogue import listed
from da_wa.select.catalogue import load as load_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from da_wa.train.predictor import Predictor


@dataclass(frozen=True)
class Results:
    """The results in one ``out`` folder.

    Attributes:
        out: the folder.
        config_dir: a folder with your own scores, laid out like ``conf/``.
    """

    out: Path
    config_dir: Path | None = None

    @cached_property
    def facts(self) -> Facts:
        """Everything that the report reads.

        Raises:
            DataError: there are no runs, or their results are not comparable.
        """
        return load_facts(self.out)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per result, with every factor; accuracies are fractions. See :class:`~da_wa.report.facts.Facts`."""
        return self.facts.frame

    def matrix(
        self, rows: Sequence[str] = ("label",), columns: Sequence[str] = ("source", "target"), selection: str = "last"
    ) -> pd.DataFrame:
        """Mean accuracy on targets, as fractions, over any two factors.

        Args:
            rows: columns of :attr:`frame` whose levels are the rows.
            columns: columns of :attr:`frame` whose levels are the columns.
            selection: what chooses the epoch: ``last``, ``source_val``, ``target_oracle``, each weight of a method in a
                row of its own; or a label-free score (``da-wa list scores``), which chooses among the weights, too.

        Raises:
            ConfigError: another factor or selection.
            DataError: no run is finished, or what the score needs was not saved.
        """
        for name, factors in (("rows", rows), ("columns", columns)):
            if isinstance(factors, str):
                raise ConfigError(f"{name} is one text; write a list of it: [{factors!r}].")
        known = list(map(str, self.frame["selection"].unique()))
        if not known:
            raise DataError(f"No run in {self.out} is finished; `missing` has the reasons. Rerun the command.")
        frame = self.frame if selection in known else selected.frame(*self._chosen(selection))
        return pivot(frame, tuple(rows), tuple(columns), selection=selection).mean / 100

    def effect(
        self,
        factor: str = "weight",
        base: str | None = None,
        levels: Sequence[str] | None = None,
        selection: str = "last",
    ) -> pd.DataFrame:
        """Effect of each level of a factor, averaged over pairs, in points, with interval and test; all else is equal.

        The p-values are corrected over the rows of the table (Holm), so decide what to compare before you look: several
        tables are not corrected for each other.

        Args:
            factor: ``weight``, ``method``, ``norm`` or ``activation`` (norms with the same weights).
            base: the level that the others are compared with; default: ``plain`` weights, the method ``none``.
            levels: the others; default: all.
            selection: what chooses the epoch, and the weight of the method where there are several, in every row for
                every pair and seed: ``source_val``, ``target_oracle`` or a label-free score, which rejects collapsed
                candidates. ``last`` compares methods at equal weights.

        Raises:
            ConfigError: another factor, level or selection, or no base for ``norm`` or ``activation``.
            DataError: what the score needs was not saved.

        >>> results.effect("norm", base="bn", levels=["wa"])  # WA against BN, with every method  # doctest: +SKIP
        >>> results.effect("method", base="mcc")  # every method against MCC, with the same norm  # doctest: +SKIP
        >>> results.effect("method", selection="im")  # epoch and weight chosen without target labels  # doctest: +SKIP
        """
        if selection == HEADLINE:
            return self.facts.effects(factor, base, levels)
        made, rule = self._chosen(selection)
        refuse_unknown(selected.levels(self.facts, made), factor, base, levels)
        return effects_frame(selected.effects_under(self.facts, made, rule, factor, base, levels))

    def table(self, rows: Sequence[str] | None = None, selection: str = "last", spread: Spread = "interval") -> str:
        """The headline table, or some rows of it, as LaTeX: percent, ±, the best of these rows bold.

        Args:
            rows: labels in their order, values of the column ``label`` of :attr:`frame`; default: all.
            selection: see :meth:`effect`.
            spread: what stands after ±: ``interval`` (95 %), ``std``, ``sem`` or ``none``.

        Raises:
            ConfigError: another row, selection or spread.
            DataError: what the score needs was not saved.

        >>> print(results.table(["BN", "BN + WA"], spread="std"))  # doctest: +SKIP
        """
        if spread not in SPREADS:
            raise ConfigError(f"{spread!r} is not a spread. {nearest(str(spread), SPREADS)}")
        whole = self.facts.matrix
        if selection != HEADLINE:
            whole = selected.matrix(self.facts, *self._chosen(selection))
        if isinstance(rows, str):
            raise ConfigError(f"rows is one text; write a list of it: [{rows!r}].")
        for label in rows or ():
            if label not in whole.mean.index:
                raise ConfigError(f"There is no row {label!r}. {nearest(label, map(str, whole.mean.index))}")
        return table_latex(matrix_table(whole if rows is None else whole.only(rows), spread))

    @property
    def _own(self) -> list[Path]:
        return [] if self.config_dir is None else [self.config_dir]

    def _chosen(self, selection: str) -> tuple[Choices, Rule]:
        """What a rule or label-free score chooses in every run.

        Raises:
            ConfigError: there is no such rule or score.
            DataError: it chooses nothing, because what it needs was not saved.
        """
        own = self._own
        scores = listed(own)
        if selection not in {*RULES, *scores}:
            raise ConfigError(f"{selection!r} is not a selection. {nearest(selection, [*RULES, *scores])}")
        made = choices(self.facts, load_scores([selection] if selection in scores else [], own), self.out)
        if selection not in made.names:
            reason = made.reasons.get(selection, "no run has it")
            raise DataError(f"Nothing can be selected by {selection} in {self.out}: {reason}.")
        return made, (selection, selection in scores)

    def figure(self, name: str = "heatmap") -> Figure:
        """A figure of the report by its file name, e.g. ``heatmap`` or ``effect``.

        Raises:
            ConfigError: there is no such figure; the message lists the nearest names.
        """
        figures = {
            part.name: part.figure
            for section in sections_of(self.facts, select=load_scores(None, self._own), out=self.out)
            for part in section.everything
            if isinstance(part, Plot)
        }
        if name not in figures:
            raise ConfigError(f"There is no figure {name!r}. {nearest(name, figures)}")
        return figures[name]

    def network(self, run_id: str) -> Predictor:
        """The trained network of a run, to predict new images. The run needs ``keep=[weights]``.

        Args:
            run_id: a value of the column ``run_id`` of :attr:`frame`.

        Raises:
            ConfigError: there is no such run; the message lists the nearest ones.
            DataError: the run is not finished, or has not kept its network.

        >>> network = results.network("bn-A-s0-059e0cf6")  # doctest: +SKIP
        >>> logits = network(network.decode(["one.jpg", "two.jpg"]))  # doctest: +SKIP
        >>> [network.classes[k] for k in logits.argmax(1)]  # doctest: +SKIP
        """
        from da_wa.runs.predict import predictor  # imports torch

        runs = {run.id: run for run in Store(self.out).runs()}
        if run_id not in runs:
            raise ConfigError(f"There is no run {run_id!r}. {nearest(run_id, runs)}")
        return predictor(runs[run_id])

    @property
    def missing(self) -> list[str]:
        """Planned results that do not exist, with the reason."""
        return [*map(str, self.facts.missing), *self.facts.unreadable]


def load(out: str | Path, config_dir: str | Path | None = None) -> Results:
    """Load the results of an earlier run.

    Args:
        out: its folder, ``out=DIR``; ``~`` is the home folder.
        config_dir: a folder with your own scores and code; it stays on ``sys.path``.

    Raises:
        DataError: there are no runs, or their results are not comparable.

    >>> load("no/such/folder")
    Traceback (most recent call last):
    da_wa.errors.DataError: There are no runs to report in no/such/folder/runs...
    """
    if config_dir is not None:
        add_code(Path(config_dir))
    results = Results(Path(out).expanduser(), None if config_dir is None else Path(config_dir))
    _ = results.facts
    return results


def run(overrides: Sequence[str], config_dir: str | Path | None = None, quiet: bool = False) -> Results:
    """Run an experiment and write its report, like the command. Finished runs are kept.

    Args:
        overrides: as on the command line, e.g. ``["experiment=demo", "norms=[bn,bn_wa]"]``.
        config_dir: a folder with your own options and code; it stays on ``sys.path``.
        quiet: do not show progress.

    Returns:
        The results; :attr:`Results.missing` names what failed.

    Raises:
        UserError: an option, the data or a file is wrong; the message names the next step.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is one text; write a list of them: [{overrides!r}].")
    if any(override.startswith("study=") for override in overrides):
        raise ConfigError("a study is not one experiment; run it on the command line: da-wa run study=NAME.")
    if config_dir is not None:
        add_code(Path(config_dir))
    experiment = compose(overrides, None if config_dir is None else Path(config_dir))
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=quiet)
    planned = prepare(experiment, console)
    launch(planned, console)
    if planned.inputs is not None and not planned.submitted:
        write_results(planned, console)
    return Results(planned.out, None if config_dir is None else Path(config_dir))


def write_results(planned: Planned, console: Console) -> None:
    """Write the report of an experiment and print its table.

    Raises:
        DataError: results are not comparable, or the folder cannot be written.
    """
    options = planned.experiment.cfg["report"]
    domains = planned.inputs.decoded if planned.inputs is not None and options["images"] else []
    with phase(console, "Writing the report") as progress:
        report = write_report(
            planned.out,
            images={domain.name: domain.pixels for domain in domains} or None,
            progress=progress,
            **report_options(options, planned.experiment.scores),
        )
    console.print(report.summary())
    console.print(f"The report is in {planned.out}")
