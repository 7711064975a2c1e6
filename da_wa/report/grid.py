"""The report of a study: its table, the paper's numbers beside ours, and whether the paper's claims hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from da_wa.records.design import Design, Key, Measure
from da_wa.records.files import write_bytes
from da_wa.report import page, tables
from da_wa.report.cells import Cell, Cells, read_cells
from da_wa.report.claims import Finding, findings, printed
from da_wa.report.content import NONE, Section, Table
from da_wa.report.latex import table_latex
from da_wa.report.measures import MEASURES
from da_wa.report.wording import counted, listed, number, signed, spanned

Place = tuple[str, str]
"""(row, column) of a table."""


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
        """Table and claims as text for a terminal, and how many planned runs have no result."""
        shown = [tables.table_text(self.table), tables.table_text(claims_table(self.findings))]
        if self.missing:
            shown.append(
                f"{counted(self.missing, 'planned run')} without a result yet; run it without stage= to go on."
            )
        return "\n\n".join(shown)


def write_study(out: Path) -> StudyReport:
    """Write ``table.*``, ``claims.*`` and ``page.html`` of a study from its records.

    Raises:
        DataError: ``out`` is not the folder of a study, a file cannot be read, or ``out`` cannot be written.
    """
    cells = read_cells(out)
    design, found = cells.design, findings(cells)
    table = study_table(cells)
    write_tables(out, design, table, frame(cells), found)
    return StudyReport(table, found, sum(cell.open for cell in cells.cells.values()))


def write_tables(out: Path, design: Design, table: Table, data: pd.DataFrame, found: Sequence[Finding]) -> None:
    """Write ``table.*``, ``claims.*`` and ``page.html`` of a study of any task.

    Args:
        out: folder of the study.
        design: of the study.
        table: ours, beside the paper's numbers.
        data: the same, for programs.
        found: about each claim.

    Raises:
        DataError: ``out`` cannot be written.
    """
    title, decided = f"{design.title} (scope {design.scope})", claims_table(found)
    sections = [Section("Ours and the paper's", [table]), Section("Do the paper's claims hold?", [decided])]
    files = {
        "table.csv": tables.csv(data, "%.4f"),
        "claims.csv": tables.csv(claims_frame(found), "%.4f"),
        **{f"{part.name}.md": tables.table_markdown(part) for part in (table, decided)},
        **{f"{part.name}.tex": table_latex(part) for part in (table, decided)},
        "page.html": page.html(title, design.caption, [], sections, {}),
    }
    for name, content in files.items():
        write_bytes(out / name, content.encode())


def frame(cells: Cells) -> pd.DataFrame:
    """One row per cell: levels, value with interval in percent, seeds, images, the paper's number, the difference.

    A second measure has its own columns, e.g. ``top5_error``, ``top5_error_low``, …
    """
    first, *others = cells.design.measures
    rows = []
    for key, cell in cells.cells.items():
        rows.append(
            {
                **dict(zip(cells.design.factors, key, strict=True)),
                **_numbers(cells, key, first, ""),
                "seeds": _value(cells, key, first)[3],
                "diverged": len(cell.diverged),
                "unfinished": cell.open,
                "images": cell.images,
                **{k: v for other in others for k, v in _numbers(cells, key, other, f"{other}_").items()},
                "note": cell.refused,
            }
        )
    return pd.DataFrame(rows)


def _numbers(cells: Cells, key: Key, measure: Measure, prefix: str) -> dict[str, object]:
    """Value, interval, the paper's number and the difference."""
    value, low, high, _ = _value(cells, key, measure)
    theirs = _theirs(cells, cells.cells[key], measure)
    known = None if theirs in (None, NONE) else float(str(theirs))
    return {
        measure: value,
        f"{prefix}low": low,
        f"{prefix}high": high,
        f"{prefix}paper": theirs,
        f"{prefix}difference": math.nan if known is None else value - known,
    }


def study_table(cells: Cells) -> Table:
    """Rows × columns: mean ± half of the 95 % interval, and below it the paper's number and the difference."""
    design = cells.design
    by_place: dict[Place, tuple[Key, Measure]] = {
        (design.label(key, design.rows), _column(cells, key, measure)): (key, measure)
        for key in cells.cells
        for measure in design.measures
    }
    rows, columns = (list(dict.fromkeys(place[side] for place in by_place)) for side in (0, 1))
    text = {place: _text(cells, *shown) for place, shown in by_place.items()}
    best = _best(cells, by_place, columns)
    shown = [[row, *(text.get((row, column), NONE) for column in columns)] for row in rows]
    bold = frozenset((i, j) for i, row in enumerate(rows) for j, column in enumerate(columns, 1) if row in best[column])
    corner = " · ".join(factor.replace("_", " ") for factor in design.rows)
    measures = listed([MEASURES[measure].title for measure in design.measures])
    caption = f"{design.title}: {measures} on test images (%)"
    return Table("table", caption, [corner, *columns], shown, bold, _notes(cells))


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
        "claim, corrected for the number of comparisons (Bonferroni). open: all else, comparisons of cells with one "
        "seed, and claims about levels that were not run.",
        "As claimed: comparisons of means, whatever their intervals. Weakest evidence: of the comparisons that decide "
        "the verdict, the one that supports the claim least, in points of error (of mIoU for segmentation), with its "
        "95 % interval over seeds and images, over images alone for a cell with one seed.",
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


def _column(cells: Cells, key: Key, measure: Measure) -> str:
    """The header of a cell's column, with the measure where it is needed."""
    label, title = cells.design.label(key, cells.design.columns), MEASURES[measure].title
    if not label:
        return title
    return label if len(cells.design.measures) == 1 else f"{label}, {title}"


def _value(cells: Cells, key: Key, measure: Measure) -> tuple[float, float, float, int]:
    """Value, bounds and seeds of a cell, in percent."""
    shown = MEASURES[measure]
    measured = cells.measure([(1.0, key)], shown.top) if not cells.cells[key].fails else None
    if measured is None:
        return math.nan, math.nan, math.nan, 0
    low, high = sorted(map(shown.of_error, measured.bounds()))
    return shown.of_error(measured.value), low, high, measured.seeds


def _theirs(cells: Cells, cell: Cell, measure: Measure) -> str | None:
    """The paper's number, which is an error."""
    paper, shown = printed().get(cells.design.study), MEASURES[measure]
    return paper.of(cell.levels, shown.top) if paper and not shown.accuracy else None


def _text(cells: Cells, key: Key, measure: Measure) -> str:
    cell = cells.cells[key]
    value, low, high, _ = _value(cells, key, measure)
    theirs = _theirs(cells, cell, measure)
    if cell.refused:
        ours = NONE
    elif cell.fails:
        ours = "diverged"
    elif cell.seeds and cell.unranked and MEASURES[measure].top > 1:
        ours = "not recorded"
    else:
        ours = number(value, 2) + ("" if math.isnan(low) else f" ± {(high - low) / 2:.2f}")
    if theirs is None:
        return ours
    known = theirs != NONE and not math.isnan(value)
    return f"{ours}\npaper {theirs}" + (f" ({signed(value - float(theirs), 2)})" if known else "")


def _best(
    cells: Cells, by_place: Mapping[Place, tuple[Key, Measure]], columns: Sequence[str]
) -> dict[str, Collection[str]]:
    """The rows with the best value of every column that has two or more."""
    best: dict[str, Collection[str]] = {}
    for column in columns:
        known = {
            row: value if MEASURES[measure].accuracy else -value
            for (row, place), (key, measure) in by_place.items()
            if place == column and not math.isnan(value := _value(cells, key, measure)[0])
        }
        top = max(known.values(), default=0.0)
        best[column] = [row for row, value in known.items() if value == top] if len(known) > 1 else []
    return best


def _notes(cells: Cells) -> list[str]:
    design = cells.design
    seeds = [len(cell.seeds) for cell in cells.cells.values() if cell.seeds]
    images = max((cell.images for cell in cells.cells.values()), default=0)
    notes = [f"Scope {design.scope}. {design.caption}".strip(), *interval_notes(seeds, images)]
    beside = any(_theirs(cells, cell, m) is not None for cell in cells.cells.values() for m in design.measures)
    notes += ["Small: the paper's number and the difference."] if beside else []
    notes.append(f"Bold: the best of a column. {NONE}: no result.")
    notes += sorted({f"{NONE}: {cell.refused}" for cell in cells.cells.values() if cell.refused})
    notes += _top_notes(cells)
    notes += [cells.mixed] if cells.mixed else []
    if paper := printed().get(design.study):
        notes += [paper.note] if paper.note else []
    if any(len(cell.networks) == 1 for cell in cells.cells.values()):
        notes.append(
            "Runs that start from one pre-trained network: intervals do not include the variance of pre-training."
        )
    partly = [design.label(key) for key, cell in cells.cells.items() if cell.seeds and cell.diverged]
    notes += [f"Some seeds diverged: {listed(partly)}."] if partly else []
    if holes := sum(cell.open for cell in cells.cells.values()):
        notes.append(f"{counted(holes, 'planned run')} without a result.")
    return notes


def interval_notes(seeds: Collection[int], images: int) -> Iterator[str]:
    """What the intervals of a table are over; nothing where it has no value.

    Args:
        seeds: how many each value has.
        images: tested ones.
    """
    if seeds:
        over = "over images; other seeds may differ by more" if max(seeds) == 1 else "over seeds and images"
        if min(seeds) == 1 < max(seeds):
            over += ", over images alone for one seed"
        span = spanned(min(seeds), max(seeds), "seed")
        yield f"{span}, {counted(images, 'test image')}, last epoch. ± half of the 95 % interval {over}."


def _top_notes(cells: Cells) -> Iterator[str]:
    """What to know where a table shows more than the most likely class."""
    tops = sorted({MEASURES[measure].top for measure in cells.design.measures} - {1})
    for top in tops:
        yield f"Top-{top}: the true class is among the {top} most likely; of equally likely classes, the first ones."
        if 0 < cells.classes <= top:
            yield f"Of {counted(cells.classes, 'class', 'classes')}, the true one always is: top-{top} says nothing."
    if tops and (missing := sum(cell.unranked for cell in cells.cells.values())):
        yield (
            f"Not recorded: {counted(missing, 'run')} of an earlier version, without logits. Rerun the study in "
            "another out=DIR."
        )
