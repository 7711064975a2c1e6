"""The overview "What of the paper holds": every claim × scope, from the records of several studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from da_wa.errors import DataError
from da_wa.records.design import FILE, Task, read_design
from da_wa.records.files import write_bytes
from da_wa.report import page, tables
from da_wa.report.cells import read_cells
from da_wa.report.claims import Evidence, Finding, claims, findings
from da_wa.report.content import Section, Table
from da_wa.report.grid import claims_frame, claims_table, study_table
from da_wa.report.latex import table_latex
from da_wa.report.segmentation import read_scores, segmentation_table
from da_wa.report.wording import counted

TITLE = "What of the paper holds"


def _classification(folder: Path) -> tuple[Evidence, Table]:
    cells = read_cells(folder)
    return cells, study_table(cells)


def _segmentation(folder: Path) -> tuple[Evidence, Table]:
    scores = read_scores(folder)
    return scores, segmentation_table(scores)


READERS: Mapping[Task, Callable[[Path], tuple[Evidence, Table]]] = {
    "classification": _classification,
    "segmentation": _segmentation,
}
"""What was measured in the folder of a study, and its table."""


def studies_in(folders: Sequence[Path]) -> list[Path]:
    """The folders of studies: those with a ``study.json``, themselves or directly below one of ``folders``.

    Raises:
        DataError: there are none.
    """
    found = [path.parent for folder in folders for path in (folder / FILE, *sorted(folder.glob(f"*/{FILE}")))]
    found = [folder for folder in dict.fromkeys(found) if (folder / FILE).is_file()]
    if not found:
        raise DataError(
            f"{', '.join(map(str, folders))}: no study was run there (no {FILE}). Run one first, e.g. study=table1."
        )
    return found


def write_claims(folders: Sequence[Path], to: Path) -> Table:
    """Write ``claims.md``, ``.csv``, ``.tex`` and ``page.html`` for all studies below some folders.

    Args:
        folders: of studies, or folders that contain them.
        to: where to write.

    Returns:
        The table: claims × scopes, in the order of ``claims.yaml``; claims of which no study was run are at the end.

    Raises:
        DataError: there is no study, or a file cannot be read or written.
    """
    studies = [READERS[read_design(folder).task](folder) for folder in studies_in(folders)]
    order = {claim.id: place for place, claim in enumerate(claims())}
    found: list[Finding] = [each for evidence, _ in studies for each in findings(evidence)]
    found.sort(key=lambda each: (order[each.claim.id], each.scope))
    covered = {each.claim.id for each in found}
    absent = [Finding(c, "", "open", 0, 0, 0, 0, "", (0, 0)) for c in claims() if c.id not in covered]
    table = claims_table([*found, *absent])
    run = [each for each in found if each.measured]
    counts = [f"{sum(f.verdict == verdict for f in run)} {verdict}" for verdict in ("holds", "does not", "open")]
    lead = f"{counted(len(run), 'claim')}, {counted(len(studies), 'study', 'studies')}: {', '.join(counts)}."
    if rest := len(found) + len(absent) - len(run):
        lead += f" {rest} more not run."
    sections = [
        Section(TITLE, [table]),
        *(Section(f"{each.design.title} (scope {each.design.scope})", [own]) for each, own in studies),
    ]
    files = {
        "claims.md": tables.table_markdown(table),
        "claims.tex": table_latex(table),
        "claims.csv": tables.csv(claims_frame([*found, *absent]), "%.4f"),
        "page.html": page.html(TITLE, lead, [], sections, {}),
    }
    for name, content in files.items():
        write_bytes(to / name, content.encode())
    return table
