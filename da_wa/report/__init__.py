"""What people read: tables and figures made from the records of a ledger. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from da_wa.report import figures, tables
from da_wa.report.matrix import Matrix, accuracy, collect, pretraining, transfer_matrix
from da_wa.runs.ledger import Ledger, write_atomically


@dataclass(frozen=True)
class Report:
    """What was written, and what is not there.

    Attributes:
        accuracy: one row per result, see :func:`da_wa.report.matrix.accuracy`.
        matrix: norm × pair.
        missing: planned results that are not there, e.g. ``BN + WA  A->W  seed 1: not finished``.
    """

    accuracy: pd.DataFrame
    matrix: Matrix
    missing: list[str]

    def summary(self) -> str:
        """The matrix and what is missing, as plain text for a terminal."""
        return tables.plain(self.matrix, self.missing)


def write_report(out: Path) -> Report:
    """Write every table and figure of ``out``'s records into ``out``.

    Raises:
        DataError: there are no runs, their results cannot stand in one table, or ``out`` cannot be written.
    """
    out = Path(out)
    runs = collect(Ledger(out))
    results, matrix, checkpoints = accuracy(runs.records), transfer_matrix(runs), pretraining(runs.records)
    texts = {
        "accuracy.csv": tables.accuracy_csv(results),
        "matrix.csv": tables.matrix_csv(matrix),
        "pretraining.csv": tables.pretraining_csv(checkpoints),
        "pretraining.md": tables.pretraining_markdown(checkpoints),
        "pretraining.tex": tables.pretraining_latex(checkpoints),
        "table.md": tables.markdown(matrix, runs.missing, runs.unreadable),
        "table.tex": tables.latex(matrix),
    }
    for name, text in texts.items():
        _write(out / name, text.encode())
    drawn = {"heatmap": figures.matrix_heatmap(matrix)}
    for name, figure in drawn.items():
        for kind in ("pdf", "png"):
            _write(out / f"{name}.{kind}", figures.rendered(figure, kind))
    return Report(results, matrix, [*map(str, runs.missing), *runs.unreadable])


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
