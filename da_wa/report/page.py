"""One self-contained HTML page, without scripts or external resources.

Every section starts with its result; notes, further tables and statistics are in ``<details>``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from da_wa.errors import printable
from da_wa.report.content import Part, Plot, Section, Table
from da_wa.report.figures.style import compact
from da_wa.report.wording import counted

STYLE = """
:root { --ink: #1c1e21; --soft: #5b6168; --line: #d9dce0; --wash: #f5f6f7; --link: #00558c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 72rem; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
       overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--ink); }
p, ul { max-width: 46rem; }
p { margin: .5rem 0; }
.lead { color: var(--soft); margin: 0 0 1rem; }
.summary { background: var(--wash); border-left: 4px solid var(--link); padding: .75rem 1rem; }
.summary ul { margin: 0; padding-left: 1.1rem; max-width: none; }
nav ol { columns: 2; padding-left: 1.3rem; margin: .75rem 0 0; }
a { color: var(--link); }
figure { margin: 1.25rem 0; min-width: 0; }
figcaption { color: var(--ink); font-weight: 600; font-size: .95rem; padding-bottom: .4rem; max-width: 46rem; }
figure img { display: block; max-width: 100%; height: auto; }
figure.narrow { display: inline-block; vertical-align: top; width: calc(50% - 1rem); margin-right: .75rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; line-height: 1.35; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; overflow-wrap: normal;
         border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 1.5px solid var(--ink); border-top: 1.5px solid var(--ink); vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 1.5px solid var(--ink); }
th:first-child { text-align: left; font-weight: 500; }
tbody th, thead th:first-child { position: sticky; left: 0; background: #fff; }
tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; max-width: 18rem; }
td small { color: var(--soft); display: block; font-size: .82em; font-weight: 400; }
td.text, th.text { text-align: left; }
td.prose, th.prose { text-align: left; white-space: normal; overflow-wrap: anywhere;
                     min-width: 14rem; max-width: 40rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--link); font-size: .9rem; width: fit-content; padding: .15rem 0; }
section > details { border-left: 2px solid var(--line); padding-left: .9rem; }
.notes { color: var(--soft); font-size: .85rem; line-height: 1.45; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem; } h1 { font-size: 1.4rem; } nav ol { columns: 1; }
  th, td { padding: .25rem .45rem; }
  tbody th { max-width: 9rem; }
  section > details { padding-left: .5rem; }
  figure.narrow { width: 100%; margin-right: 0; } figure.wide img { max-width: none; width: 44rem; }
}
@media print {
  @page { size: A4; margin: 14mm; }
  body { padding: 0; max-width: none; font-size: 10pt; } nav, summary { display: none; }
  p, ul { max-width: none; } .notes { font-size: 8pt; }
  details::details-content { content-visibility: visible; display: block; }
  .scroll { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: 1.5pt 4pt; }
  tr, figure:not(.table), .table:not(:has(tr:nth-child(16))) { break-inside: avoid; }
  h2, figcaption { break-after: avoid; }
  tbody th { position: static; } figure img { max-height: 235mm; }
}
"""


def html(
    title: str, lead: str, summaries: Sequence[str], sections: Sequence[Section], images: Mapping[str, bytes]
) -> str:
    """The page.

    Args:
        title: its heading.
        lead: one sentence below.
        summaries: the answers, one sentence or two each.
        sections: in reading order.
        images: the PNG of every figure, by its name.
    """
    contents = "".join(f'<li><a href="#s{k}">{_text(s.title)}</a></li>' for k, s in enumerate(sections, 1))
    body = "\n".join(_section(k, section, images) for k, section in enumerate(sections, 1))
    answers = "".join(f"<li>{_text(summary)}</li>" for summary in summaries)
    summary = f'<div class="summary"><ul>{answers}</ul></div>' if answers else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p class="lead">{_text(lead)}</p>
{summary}
<nav aria-label="Contents"><ol>{contents}</ol></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _section(k: int, section: Section, images: Mapping[str, bytes]) -> str:
    parts, details = ("\n".join(_part(part, images) for part in found) for found in (section.parts, section.details))
    folded = f"\n{_folded(_contents(section.details), details)}" if details else ""
    return f'<section>\n<h2 id="s{k}">{k}. {_text(section.title)}</h2>\n{parts}{folded}\n</section>'


def _contents(details: Sequence[Part]) -> str:
    """What is folded away: "Details: 2 tables, 3 figures"."""
    tables, plots = (sum(isinstance(part, kind) for part in details) for kind in (Table, Plot))
    counts = [counted(n, noun) for n, noun in ((tables, "table"), (plots, "figure")) if n]
    return ": ".join(["Details", *([", ".join(counts)] if counts else [])])


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>\n{content}\n</details>"


def _part(part: Part, images: Mapping[str, bytes]) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Plot):
        source = base64.b64encode(compact(images[part.name])).decode()
        shape = "wide" if part.wide else "narrow"
        return (
            f'<figure class="{shape}"><figcaption>{_text(part.caption)}</figcaption>'
            f'<div class="scroll"><img alt="{_text(part.caption)}" src="data:image/png;base64,{source}"></div></figure>'
        )
    return f"<p>{_text(part)}</p>"


def _table(table: Table) -> str:
    def of(column: int) -> str:
        if not table.has_words(column):
            return ""
        return ' class="prose"' if max(len(row[column]) for row in table.rows) > 40 else ' class="text"'

    looks = ["", *map(of, range(1, len(table.header)))]
    head = "".join(f'<th scope="col"{look}>{_text(name)}</th>' for look, name in zip(looks, table.header, strict=True))
    rows = []
    for i, row in enumerate(table.rows):
        cells = [f'<th scope="row">{_text(row[0])}</th>']
        for j, text in enumerate(row[1:], 1):
            first, _, second = text.partition("\n")
            shown = f"<b>{_text(first)}</b>" if (i, j) in table.bold else _text(first)
            cells.append(f"<td{looks[j]}>{shown}{f'<small>{_text(second)}</small>' if second else ''}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f"<p>{_text(note)}</p>" for note in table.notes)
    return (
        f'<figure class="table"><figcaption>{_text(table.caption)}</figcaption>\n'
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>\n"
        + (f'<div class="notes">{_folded("How to read this table", notes)}</div>' if notes else "")
        + "</figure>"
    )


def _text(text: str) -> str:
    """``text`` as HTML, in element content and in quoted attributes."""
    return escape(printable(" ".join(text.split())))
