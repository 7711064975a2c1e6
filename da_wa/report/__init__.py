"""Tables, figures and one page from the records of an ``out`` folder. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from da_wa.errors import ConfigError, nearest, printable
from da_wa.report import (
    comparison,
    conversions,
    cost,
    cube,
    curves,
    decisions,
    effect,
    failures,
    methods,
    overview,
    page,
    scores,
    selection,
    shift,
    side_by_side,
    start,
    tables,
)
from da_wa.report.checkpoints import checkpoints
from da_wa.report.choices import choices
from da_wa.report.content import Plot, Section, Table
from da_wa.report.facts import Facts, load_facts
from da_wa.report.figures import rendered
from da_wa.report.latex import table_latex
from da_wa.report.matrix import Matrix
from da_wa.report.scoring import identity
from da_wa.report.tables import Spread
from da_wa.report.wording import counted, of_networks, spanned
from da_wa.report.writing import inputs_digest, is_current, write_files
from da_wa.select.catalogue import Score, imported, load

pd.set_option("mode.string_storage", "python")  # pyarrow's strings, where it is installed, refuse undecodable names

__all__ = ["Facts", "Report", "load_facts", "sections_of", "write_report"]

SPREADS: tuple[Spread, ...] = get_args(Spread)
"""What may stand after ±: half of the 95 % interval, standard deviation, standard error, nothing."""


@dataclass(frozen=True)
class Report:
    """What was written, and what is missing.

    Attributes:
        accuracy: one row per result, see :class:`da_wa.report.facts.Facts`.
        matrix: the headline table.
        missing: planned results that do not exist, e.g. ``BN + WA  A->W  seed 1: not finished``.
        warnings: imbalanced targets, collapsed predictions, differing hardware; one sentence each.
        spread: what stands after ± in the table.
    """

    accuracy: pd.DataFrame
    matrix: Matrix
    missing: list[str]
    warnings: Sequence[str] = ()
    spread: Spread = "interval"

    def summary(self) -> str:
        """The table, warnings and missing results as plain text for a terminal."""
        table = tables.plain(self.matrix, self.missing, spread=self.spread)
        return "\n".join([table, *map(printable, self.warnings)])


def report_options(options: Mapping[str, Any], scores: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of :func:`write_report`.

    Args:
        options: of an experiment, see ``conf/report``.
        scores: the import path of each label-free score, by name.
    """
    return {
        "compare": [Path(other).expanduser() for other in options["compare"]],
        "spread": options["spread"],
        "select": imported(scores),
        "guard": options.get("guard", True),
        "contrasts": options.get("contrasts"),
    }


def write_report(
    out: Path,
    *,
    images: Mapping[str, np.ndarray] | None = None,
    compare: Sequence[Path] = (),
    spread: Spread = "interval",
    select: Mapping[str, Score] | None = None,
    guard: bool = True,
    contrasts: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda phase: None,
) -> Report:
    """Write every table, every figure and the page of ``out``'s records into ``out``.

    ``page.html`` holds everything; ``tables/`` has its tables (LaTeX) and exact numbers (CSV), ``figures/`` its
    figures (PNG, PDF). A report whose records and options have not changed is not written again.

    Args:
        out: the folder of the experiment.
        images: by domain (n, 3, h, w) uint8 pixels; without them no image is shown or written.
        compare: the folders of other experiments to compare with.
        spread: what stands after ± in the headline tables, one of :data:`SPREADS`.
        select: label-free scores by name, see :func:`da_wa.select.load`; default: all that are listed in ``conf/``.
        guard: whether scores reject collapsed candidates where one number per score is shown.
        contrasts: levels whose comparison with their base is decided; default: WeightAlign and every method.
        progress: receives the name of every phase as it begins.

    Raises:
        ConfigError: ``compare`` names a folder twice, ``spread`` is unknown, or a score fails.
        DataError: there are no runs, their results are not comparable, or ``out`` cannot be written.
    """
    if spread not in SPREADS:
        raise ConfigError(f"report.spread={spread} is not a spread. {nearest(str(spread), SPREADS)}")
    out = Path(out)
    progress("reading runs")
    facts = load_facts(out, images)
    notices = facts.notices
    absent = [*map(str, facts.missing), *facts.unreadable]
    report = Report(facts.frame, facts.matrix, absent, notices, spread)
    others = [side_by_side.section(out, facts, compare)] if compare else []
    label_free = load() if select is None else select
    digest = inputs_digest(facts, spread, others, [*identity(label_free), f"guard {guard}", f"contrasts {contrasts}"])
    if is_current(out, digest):
        progress("nothing changed")
        return report
    sections = sections_of(facts, spread, progress, label_free, guard, out, contrasts) + others
    progress("writing tables and figures")
    networks, table = checkpoints(facts), tables.matrix_table(facts.matrix, spread)
    files = {
        "accuracy.csv": tables.accuracy_csv(facts.frame).encode(),
        "results.csv": tables.csv(facts.frame, "%.6f").encode(),
        "matrix.csv": tables.matrix_csv(facts.matrix).encode(),
        "pretraining.csv": tables.csv(networks, "%.2f").encode(),
        "pretraining.md": tables.pretraining_markdown(networks).encode(),
        "pretraining.tex": tables.pretraining_latex(networks).encode(),
        "table.md": tables.markdown(facts.matrix, facts.missing, facts.unreadable, " ".join(notices), spread).encode(),
        "table.tex": table_latex(replace(table, notes=[*table.notes, *notices])).encode(),
        **_files(sections),
    }
    for kind in ("pdf", "png"):
        files[f"heatmap.{kind}"] = files[f"figures/heatmap.{kind}"]
    files["page.html"] = _page(facts, sections, files).encode()
    write_files(out, files, digest)
    return report


def sections_of(
    facts: Facts,
    spread: Spread = "interval",
    progress: Callable[[str], None] = lambda phase: None,
    select: Mapping[str, Score] | None = None,
    guard: bool = True,
    out: Path | None = None,
    contrasts: Sequence[str] | None = None,
) -> list[Section]:
    """The answers, in reading order; see :func:`write_report`."""
    methods_used = {record.factors.method for record in facts.records}
    progress("label-free scores")
    made = choices(facts, load() if select is None else select, out)
    several = len(methods_used) > 1
    named: list[tuple[str, Callable[[], Section]]] = [
        *([("methods", lambda: methods.section(facts))] if several else []),
        ("accuracies", lambda: overview.section(facts, spread)),
        ("effects of weight normalisation", lambda: effect.section(facts)),
        *([("effects of adaptation", lambda: effect.adaptation(facts))] if several else []),
        ("decisions", lambda: decisions.section(facts, contrasts)),
        ("comparison with the paper", lambda: comparison.section(facts)),
        ("pre-training", lambda: start.section(facts)),
        *([("conversion", lambda: conversions.section(facts.conversions))] if facts.conversions else []),
        ("selection of the epoch", lambda: selection.section(facts)),
        ("selection without labels", lambda: scores.section(facts, made, guard)),
        *([("norm, method and selection", lambda: cube.section(facts, made, guard))] if made.several else []),
        ("failures", lambda: failures.section(facts)),
        ("shift", lambda: shift.section(facts)),
        ("curves", lambda: curves.section(facts)),
        ("cost", lambda: cost.section(facts)),
    ]
    found = []
    for name, section in named:
        progress(name)
        found.append(section())
    return found


def _files(sections: Sequence[Section]) -> dict[str, bytes]:
    """Every table and figure of the sections, by its path in ``out``."""
    files: dict[str, bytes] = {}
    for section in sections:
        for part in section.everything:
            if isinstance(part, Table):
                files[f"tables/{part.name}.tex"] = table_latex(part).encode()
            elif isinstance(part, Plot):
                for kind in ("pdf", "png"):
                    files[f"figures/{part.name}.{kind}"] = rendered(part.figure, kind)
        for name, frame in section.data.items():
            files[f"tables/{name}.csv"] = tables.csv(frame, "%.6g").encode()
    return files


def _page(facts: Facts, sections: Sequence[Section], files: Mapping[str, bytes]) -> str:
    figures = {
        Path(name).stem: content
        for name, content in files.items()
        if name.startswith("figures/") and name.endswith("png")
    }
    summaries = [section.summary for section in sections if section.summary]
    summaries[1:1] = [*facts.warnings, *conversions.notices(facts.conversions)]
    if absent := len(facts.missing) + len(facts.unreadable):
        place = next(k for k, section in enumerate(sections, 1) if section.title == overview.TITLE)
        summaries.append(f"{counted(absent, 'planned result')} missing; see section {place}.")
    matrix, setting = facts.matrix, facts.matrix.setting
    if setting is None:
        return page.html("Transfer across domains", "No run is finished yet.", summaries, sections, figures)
    methods_used = {record.factors.method for record in facts.records}
    adapted = methods_used != {"none"}
    title = f"{setting.dataset}: which normalisation {'and method ' if len(methods_used) > 1 else ''}transfers best?"
    trained = "" if adapted else "Trained on the source alone, e"
    lead = (
        f"{setting.model}, {setting.size}×{setting.size} pixels, "
        f"{f'pre-trained on {setting.pretraining}' if setting.pretraining else 'not pre-trained'}, protocol "
        f"{setting.protocol}; {counted(len(matrix.mean), 'row' if adapted else 'norm')}, "
        f"{counted(len(matrix.pairs), 'pair')} of domains, "
        f"{of_networks(spanned(matrix.least_seeds, matrix.most_seeds, 'seed'), matrix.networks)}. "
        f"{trained or 'E'}valuated on the target after the last epoch."
    )
    return page.html(title, lead, summaries, sections, figures)
