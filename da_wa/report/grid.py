"""The report of a study: its table, the paper's numbers beside ours, and whether the paper's claims hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from da_wa.records.design import Key
from da_wa.records.files import write_bytes
from da_wa.report import page, tables
from da_wa.report.cells import Cell, Cells, read_cells
from da_wa.report.claims import Finding, findings, printed
from da_wa.report.content import NONE, Section, Table
from da_wa.report.latex import table_latex
from da_wa.report.wording import counted, listed, number, signed


@dataclass(frozen=True)
class StudyReport:
    """What was written.

    Attributes:
        table: ours, beside the paper's numbers.
        findings: about each claim.
        missing: planned runs without a result.
    """

    table: Table
    findings: Sequence[Finding]
    missing: int

    def summary(self) -> str:
        """Table and claims as text for a terminal."""
        return "\n\n".join([tables.table_text(self.table), tables.table_text(claims_table(self.findings))])


def write_study(out: Path) -> StudyReport:
    """Write ``table.*``, ``claims.*`` and ``page.html`` of a study from its records.

    Raises:
        DataError: ``out`` is not the folder of a study, a file cannot be read, or ``out`` cannot be written.
    """
    cells = read_cells(out)
    design, found = cells.design, findings(cells)
    table, decided = study_table(cells), claims_table(found)
    title = f"{design.title} (scope {design.scope})"
    sections = [Section("Ours and the paper's", [table]), Section("Do the paper's claims hold?", [decided])]
    files = {
        "table.csv": tables.csv(frame(cells), "%.4f"),
        "claims.csv": tables.csv(claims_frame(found), "%.4f"),
        **{f"{part.name}.md": tables.table_markdown(part) for part in (table, decided)},
        **{f"{part.name}.tex": table_latex(part) for part in (table, decided)},
        "page.html": page.html(title, design.caption, [], sections, {}),
    }
    for name, content in files.items():
        write_bytes(out / name, content.encode())
    return StudyReport(table, found, sum(cell.open for cell in cells.cells.values()))


def frame(cells: Cells) -> pd.DataFrame:
    """One row per cell: levels, value with interval in percent, seeds, images, the paper's number, the difference."""
    rows = []
    for key, cell in cells.cells.items():
        value, low, high, seeds = _value(cells, key)
        theirs = _theirs(cells, cell)
        known = None if theirs in (None, NONE) else float(str(theirs))
        rows.append(
            {
                **dict(zip(cells.design.factors, key, strict=True)),
                cells.design.measure: value,
                "low": low,
                "high": high,
                "seeds": seeds,
                "diverged": len(cell.diverged),
                "unfinished": cell.open,
                "images": cell.images,
                "paper": theirs,
                "difference": math.nan if known is None else value - known,
                "note": cell.refused,
            }
        )
    return pd.DataFrame(rows)


def study_table(cells: Cells) -> Table:
    """Rows × columns: mean ± half of the 95 % interval, and below it the paper's number and the difference."""
    design = cells.design
    by_place: dict[tuple[str, str], Key] = {
        (design.label(key, design.rows), design.label(key, design.columns)): key for key in cells.cells
    }
    rows, columns = (list(dict.fromkeys(place[side] for place in by_place)) for side in (0, 1))
    text = {place: _text(cells, key) for place, key in by_place.items()}
    best = _best(cells, by_place, columns)
    shown = [[row, *(text.get((row, column), NONE) for column in columns)] for row in rows]
    bold = frozenset((i, j) for i, row in enumerate(rows) for j, column in enumerate(columns, 1) if best[column] == row)
    corner = " · ".join(factor.replace("_", " ") for factor in design.rows)
    caption = f"{design.title}: {design.measure} on test images (%)"
    return Table(
        "table", caption, [corner, *(column or design.measure for column in columns)], shown, bold, _notes(cells)
    )


def claims_table(found: Sequence[Finding]) -> Table:
    """One row per claim and scope."""
    titles = printed()
    rows = [
        [
            f.claim.statement,
            titles[f.claim.table].title,
            f.scope,
            f.verdict if f.measured else "not run",
            f"{f.as_claimed} of {f.measured}" + (f" (of {f.planned})" if f.measured < f.planned else ""),
            f"{f.paper[0]} of {f.paper[1]}" if f.paper[1] else NONE,
            str(f.seeds or NONE),
            f.evidence or NONE,
        ]
        for f in found
    ]
    header = ["Claim", "In", "Scope", "Verdict", "As claimed", "In the paper's numbers", "Seeds", "Weakest evidence"]
    notes = [
        "holds: the 95 % intervals of all comparisons are as claimed. does not: the interval of one is contrary to the "
        "claim, corrected for the number of comparisons (Bonferroni). open: all else, and all comparisons of one seed.",
        "As claimed: comparisons of mean errors, whatever their intervals. Weakest evidence: the comparison that "
        "supports the claim least, in points of error, with its 95 % interval over seeds and images.",
        "A small scope decides the claim for its networks and recipe, not for the paper's.",
    ]
    return Table("claims", "What of the paper holds", header, rows, notes=notes)


def claims_frame(found: Sequence[Finding]) -> pd.DataFrame:
    """One row per claim and scope, for programs."""
    return pd.DataFrame(
        {
            "claim": f.claim.id,
            "study": f.claim.table,
            "scope": f.scope,
            "statement": f.claim.statement,
            "verdict": f.verdict if f.measured else "not run",
            "as_claimed": f.as_claimed,
            "measured": f.measured,
            "planned": f.planned,
            "paper_as_claimed": f.paper[0],
            "paper_comparisons": f.paper[1],
            "seeds": f.seeds,
            "evidence": f.evidence,
        }
        for f in found
    )


def _value(cells: Cells, key: Key) -> tuple[float, float, float, int]:
    """Value, bounds and seeds of a cell, in percent of what the study shows."""
    measured = cells.measure([(1.0, key)]) if not cells.cells[key].fails else None
    if measured is None:
        return math.nan, math.nan, math.nan, 0
    value, low, high = measured.value, measured.low, measured.high
    if cells.design.measure == "accuracy":
        value, low, high = 100 - value, 100 - high, 100 - low
    return value, low, high, measured.seeds


def _theirs(cells: Cells, cell: Cell) -> str | None:
    paper = printed().get(cells.design.study)
    return paper.of(cell.levels) if paper else None


def _text(cells: Cells, key: Key) -> str:
    cell = cells.cells[key]
    value, low, high, _ = _value(cells, key)
    theirs = _theirs(cells, cell)
    if cell.refused:
        ours = NONE
    elif cell.fails:
        ours = "diverged"
    else:
        ours = number(value, 2) + ("" if math.isnan(low) else f" ± {(high - low) / 2:.2f}")
    if theirs is None:
        return ours
    known = theirs != NONE and not math.isnan(value)
    return f"{ours}\npaper {theirs}" + (f" ({signed(value - float(theirs), 2)})" if known else "")


def _best(cells: Cells, by_place: dict[tuple[str, str], Key], columns: Sequence[str]) -> dict[str, str | None]:
    """The row with the best value of every column that has two or more."""
    sign = 1 if cells.design.measure == "accuracy" else -1
    best: dict[str, str | None] = {}
    for column in columns:
        known = {
            row: sign * value
            for (row, place), key in by_place.items()
            if place == column and not math.isnan(value := _value(cells, key)[0])
        }
        best[column] = max(known, key=known.__getitem__) if len(known) > 1 else None
    return best


def _notes(cells: Cells) -> list[str]:
    design = cells.design
    seeds = sorted({len(cell.seeds) for cell in cells.cells.values() if cell.seeds})
    images = max((cell.images for cell in cells.cells.values()), default=0)
    notes = [f"Scope {design.scope}. {design.caption}".strip()]
    if seeds:
        span = counted(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {counted(seeds[-1], 'seed')}"
        over = "over images; other seeds may differ by more" if seeds[-1] == 1 else "over seeds and images"
        notes.append(f"{span}, {counted(images, 'test image')}, last epoch. ± half of the 95 % interval {over}.")
    notes.append(f"Small: the paper's number and the difference. Bold: the best of a column. {NONE}: no result.")
    notes += sorted({f"{NONE}: {cell.refused}" for cell in cells.cells.values() if cell.refused})
    partly = [design.label(key) for key, cell in cells.cells.items() if cell.seeds and cell.diverged]
    notes += [f"Some seeds diverged: {listed(partly)}."] if partly else []
    if holes := sum(cell.open for cell in cells.cells.values()):
        notes.append(f"{counted(holes, 'planned run')} without a result.")
    return notes
