"""What people read: tables, figures and one page, made from the records of a ledger. Never imports torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from da_wa.report import (
    comparison,
    cost,
    curves,
    effect,
    failures,
    overview,
    page,
    selection,
    shift,
    side_by_side,
    start,
    tables,
)
from da_wa.report.content import Plot, Section, Table
from da_wa.report.figures import rendered
from da_wa.report.matrix import Collection, Matrix, accuracy, collect, pretraining, transfer_matrix
from da_wa.report.outcomes import features, outcomes, saved
from da_wa.report.resampling import Resamples
from da_wa.report.wording import counted, spanned
from da_wa.runs.ledger import Ledger, write_atomically

CONTENTS = "report.json"
"""Names the files that the report wrote, so that the next one removes those that it no longer writes."""


@dataclass(frozen=True)
class Report:
    """What was written, and what is not there.

    Attributes:
        accuracy: one row per result, see :func:`da_wa.report.matrix.accuracy`.
        matrix: norm × pair.
        missing: planned results that are not there, e.g. ``BN + WA  A->W  seed 1: not finished``.
        mixed: in what the runs were computed differently, a sentence or nothing.
    """

    accuracy: pd.DataFrame
    matrix: Matrix
    missing: list[str]
    mixed: str = ""

    def summary(self) -> str:
        """The matrix, in what its runs differ and what is missing, as plain text for a terminal."""
        return "\n".join(part for part in (tables.plain(self.matrix, self.missing), self.mixed) if part)


def write_report(out: Path, *, images: Mapping[str, np.ndarray] | None = None, compare: Sequence[Path] = ()) -> Report:
    """Write every table, every figure and the page of ``out``'s records into ``out``.

    ``page.html`` holds everything; ``tables/`` has its tables (LaTeX) and exact numbers (CSV), ``figures/``
    its figures (PNG, PDF).

    Args:
        out: the folder of the experiment.
        images: by domain its (n, 3, h, w) uint8 pixels; without them no image is shown or written.
        compare: the folders of other experiments to put beside this one.

    Raises:
        ConfigError: ``compare`` names a folder twice.
        DataError: there are no runs, their results cannot stand in one table, or ``out`` cannot be written.
    """
    out = Path(out)
    ledger = Ledger(out)
    runs = collect(ledger)
    results, matrix, checkpoints = accuracy(runs.records), transfer_matrix(runs), pretraining(runs.records)
    sections = _sections(ledger, runs, matrix, checkpoints, images)
    if compare:
        sections.append(side_by_side.section(out, compare))
    files = {
        "accuracy.csv": tables.accuracy_csv(results).encode(),
        "matrix.csv": tables.matrix_csv(matrix).encode(),
        "pretraining.csv": tables.pretraining_csv(checkpoints).encode(),
        "pretraining.md": tables.pretraining_markdown(checkpoints).encode(),
        "pretraining.tex": tables.pretraining_latex(checkpoints).encode(),
        "table.md": tables.markdown(matrix, runs.missing, runs.unreadable, runs.mixed).encode(),
        "table.tex": tables.table_latex(tables.matrix_table(matrix)).encode(),
        **_files(sections),
    }
    for kind in ("pdf", "png"):
        files[f"heatmap.{kind}"] = files[f"figures/heatmap.{kind}"]
    files["page.html"] = _page(runs, matrix, sections, files).encode()
    _write(out, files)
    return Report(results, matrix, [*map(str, runs.missing), *runs.unreadable], runs.mixed)


def _sections(
    ledger: Ledger,
    runs: Collection,
    matrix: Matrix,
    checkpoints: pd.DataFrame,
    images: Mapping[str, np.ndarray] | None,
) -> list[Section]:
    """The answers, in the order in which they are read."""
    predicted = [outcome for record, arrays in saved(ledger, runs.records) for outcome in outcomes(record, arrays)]
    resamples = Resamples(predicted)
    classes = runs.records[0]["classes"] if runs.records else []
    samples = (
        (record["label"], record["source"], record["seed"], features(record, arrays))
        for record, arrays in saved(ledger, runs.records)
    )
    return [
        overview.section(runs, matrix, resamples),
        comparison.section(matrix, resamples, checkpoints),
        effect.section(matrix, resamples, predicted),
        start.section(matrix, checkpoints),
        selection.section({rule: transfer_matrix(runs, rule) for rule in tables.SELECTIONS}, runs.records),
        failures.section(matrix, classes, predicted, images),
        shift.section(matrix, samples),
        curves.section(runs.records),
        cost.section(runs.records),
    ]


def _files(sections: Sequence[Section]) -> dict[str, bytes]:
    """Every table and figure of the sections, by its path in ``out``."""
    files: dict[str, bytes] = {}
    for section in sections:
        for part in section.parts:
            if isinstance(part, Table):
                files[f"tables/{part.name}.tex"] = tables.table_latex(part).encode()
            elif isinstance(part, Plot):
                for kind in ("pdf", "png"):
                    files[f"figures/{part.name}.{kind}"] = rendered(part.figure, kind)
        for name, frame in section.data.items():
            files[f"tables/{name}.csv"] = tables.csv(frame, "%.6g").encode()
    return files


def _page(runs: Collection, matrix: Matrix, sections: Sequence[Section], files: Mapping[str, bytes]) -> str:
    figures = {
        Path(name).stem: content
        for name, content in files.items()
        if name.startswith("figures/") and name.endswith("png")
    }
    summaries = [section.summary for section in sections if section.summary]
    if absent := len(runs.missing) + len(runs.unreadable):
        summaries.append(f"{counted(absent, 'planned result')} missing; they are named in section 1.")
    setting = matrix.setting
    if setting is None:
        return page.html("Transfer across domains", "No run is finished yet.", summaries, sections, figures)
    title = f"{setting.dataset}: which normalisation transfers best?"
    lead = (
        f"{setting.model}, {setting.size}×{setting.size} pixels, "
        f"{f'pre-trained on {setting.pretraining}' if setting.pretraining else 'not pre-trained'}, protocol "
        f"{setting.protocol}; {counted(len(matrix.mean), 'norm')}, {counted(len(matrix.pairs), 'pair')} of domains, "
        f"{spanned(matrix.least_seeds, matrix.most_seeds, 'seed')}. Trained on the "
        "source alone, evaluated on the target after the last epoch."
    )
    return page.html(title, lead, summaries, sections, figures)


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_atomically(out / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    for name in _former(out) - set(files):
        (out / name).unlink(missing_ok=True)
    contents = json.dumps({"files": sorted(files)}, indent=1).encode()
    write_atomically(out / CONTENTS, lambda file: file.write(contents))


def _former(out: Path) -> set[str]:
    """Tables and figures that an earlier report says it wrote; nothing outside their two folders."""
    try:
        names = json.loads((out / CONTENTS).read_bytes())["files"]
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {name for name in map(str, names) if re.fullmatch(r"(tables|figures)/[a-z_0-9]+\.[a-z]+", name)}
