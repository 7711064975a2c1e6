"""Our numbers and the paper's, both with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from da_wa.records.contrasts import Pair
from da_wa.report import paper
from da_wa.report.checkpoints import checkpoints
from da_wa.report.content import NONE, Part, Plot, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.figures import Panel, dots
from da_wa.report.matrix import AVERAGE, Matrix
from da_wa.report.statistics import (
    Interval,
    binomial,
    of_binomial_average,
    of_difference,
    p_equation,
    rank_correlation,
)
from da_wa.report.wording import arrow, change, counted, listed, number, within

TITLE = "Comparison with the paper"


def section(facts: Facts) -> Section:
    """How do the numbers compare with Table VI of the paper?"""
    matrix = facts.matrix
    setting = matrix.setting
    pairs = [pair for pair in matrix.pairs if pair in paper.PAIRS]
    labels = [label for label in matrix.mean.index if label in paper.TABLE_VI]
    if (
        setting is None
        or setting.dataset != paper.DATASET
        or len(facts.classes) != paper.CLASSES
        or not pairs
        or not labels
    ):
        only = (
            f"The paper has numbers for {paper.DATASET} with {paper.CLASSES} classes only, and for none of these runs."
        )
        return Section(TITLE, [only])
    ours, theirs = _ours(labels, pairs, matrix), _theirs(labels)
    columns: list[Pair | str] = [*pairs, *([AVERAGE] if len(pairs) == len(paper.PAIRS) else [])]
    frame = pd.DataFrame(
        [
            _row(label, column, ours.get((label, column)), theirs[label, column])
            for label in labels
            for column in columns
        ]
    )
    if frame["ours"].isna().all():
        return Section(TITLE, ["No run saved its predictions, so our numbers have no interval to compare with."])
    cells = frame[(frame["pair"] != AVERAGE) & frame["ours"].notna()]
    inside, apart = int(cells["paper_inside_ours"].sum()), int(cells["zero_outside"].sum())
    order, summary = _order(frame)
    parts: list[Part] = [
        f"The paper: {paper.MODEL}, evaluated on {listed([f'{d} {n}' for d, n in paper.EVALUATED.items()])} images "
        f"(inferred from its numbers). Here: {setting.model}, {setting.size}×{setting.size} pixels, protocol "
        f"{setting.protocol}, {listed([f'{d} {n}' for d, n in setting.images.items()])} images. Differences combine "
        "settings and samples; where settings differ, cells need not agree.",
        f"{inside} of the paper's {counted(len(cells), 'cell')} lie inside our interval. Given the uncertainty of "
        f"both, {apart} of {len(cells)} differ, where {0.05 * len(cells):.1f} are expected by chance.",
        *order,
    ]
    details: list[Part] = [_table(frame, labels, columns), _figure(labels, columns, ours, theirs)]
    if (error := _pretraining(checkpoints(facts))) is not None:
        details.append(error)
    return Section(TITLE, parts, {"paper": frame.drop(columns="zero_outside")}, summary, details)


def _figure(
    labels: Sequence[str],
    columns: Sequence[Pair | str],
    ours: Mapping[object, Interval],
    theirs: Mapping[object, Interval],
) -> Plot:
    panels = [
        Panel(
            column if isinstance(column, str) else arrow(*column),
            {
                "here": [ours.get((label, column)) for label in labels],
                "the paper": [theirs[label, column] for label in labels],
            },
        )
        for column in columns
    ]
    return Plot(
        "beside_the_paper",
        dots(labels, panels, "accuracy on the target (%), 95 % intervals"),
        "Ours with intervals over seeds and images (over images alone for one seed); the paper's with binomial "
        "intervals of its 130, 415 and 73 images.",
    )


def _ours(labels: Sequence[str], pairs: Sequence[Pair], matrix: Matrix) -> dict[object, Interval]:
    """The cells of the headline table that have an interval."""
    names: list[tuple[Pair | str, str]] = [
        *((pair, column) for pair, column in zip(matrix.pairs, matrix.mean.columns, strict=False) if pair in pairs),
        *([(AVERAGE, AVERAGE)] if list(pairs) == list(matrix.pairs) else []),
    ]
    return {
        (label, key): Interval(*(float(f.at[label, column]) for f in (matrix.mean, matrix.low, matrix.high)))
        for label in labels
        for key, column in names
        if pd.notna(matrix.low.at[label, column])
    }


def _theirs(labels: Sequence[str]) -> dict[object, Interval]:
    """The paper's cells as printed, with the binomial interval of its images."""
    found: dict[object, Interval] = {}
    sizes = [paper.EVALUATED[target] for _, target in paper.PAIRS]
    for label in labels:
        *cells, average = (float(text) for text in paper.TABLE_VI[label])
        counts = [round(percent / 100 * n) for percent, n in zip(cells, sizes, strict=True)]
        for pair, percent, count, n in zip(paper.PAIRS, cells, counts, sizes, strict=True):
            interval = 100.0 * binomial(count, n)
            found[label, pair] = Interval(percent, interval.low, interval.high)
        interval = 100.0 * of_binomial_average(counts, sizes)
        found[label, AVERAGE] = Interval(average, interval.low, interval.high)
    return found


def _row(label: str, column: Pair | str, ours: Interval | None, theirs: Interval) -> dict[str, object]:
    ours = ours or Interval(np.nan)
    difference = of_difference(ours, theirs)
    return {
        "label": label,
        "pair": column if isinstance(column, str) else "->".join(column),
        "ours": ours.value,
        "ours_low": ours.low,
        "ours_high": ours.high,
        "paper": theirs.value,
        "paper_low": theirs.low,
        "paper_high": theirs.high,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "paper_inside_ours": theirs.value in ours,
        "zero_outside": difference.known and 0.0 not in difference,
    }


def _table(frame: pd.DataFrame, labels: Sequence[str], columns: Sequence[Pair | str]) -> Table:
    rows: list[list[str]] = []
    bold = set()
    by_cell = frame.set_index(["label", "pair"])
    for label in labels:
        for line, part in enumerate(("ours", "paper", "difference")):
            row = [label if line == 0 else "", ("here", "paper", "difference")[line]]
            for j, column in enumerate(columns):
                cell = by_cell.loc[(label, column if isinstance(column, str) else "->".join(column))]
                interval = Interval(cell[part], cell[f"{part}_low"], cell[f"{part}_high"])
                if part == "difference":
                    text = change(interval).replace(" (", "\n").replace(")", "")
                    if cell["zero_outside"]:
                        bold.add((len(rows), j + 2))
                else:
                    text = within(interval)
                row.append(text)
            rows.append(row)
    return Table(
        "paper",
        "Accuracy in percent on the target, here and in Table VI of the paper",
        ["Norm", "", *(c if isinstance(c, str) else arrow(*c) for c in columns)],
        rows,
        frozenset(bold),
        [
            "Here: ± is half of the 95 % interval over seeds and images (two-level bootstrap), over images alone for "
            "one seed. Paper: half of the 95 % binomial (Wilson) interval of its images; averages treat six cells as "
            "independent. Difference: here − paper with bounds from both (Newcombe 1998), bold where they exclude 0.",
        ],
    )


def _order(frame: pd.DataFrame) -> tuple[list[Part], str]:
    averages = frame[(frame["pair"] == AVERAGE) & frame["ours"].notna()].set_index("label")
    if len(averages) < 2:
        return ["Fewer than two norms have an average over all six pairs, so there is no order to compare."], ""
    tau, p = rank_correlation(averages["ours"], averages["paper"])
    shown = averages[["ours", "paper"]].round(2)
    rank_ours, rank_theirs = (shown[c].rank(ascending=False, method="min").astype(int) for c in ("ours", "paper"))
    by_theirs = averages.sort_values("paper", ascending=False).index
    rows = [
        [
            label,
            str(rank_theirs[label]),
            number(averages.at[label, "paper"], 2),
            str(rank_ours[label]),
            number(averages.at[label, "ours"], 2),
        ]
        for label in by_theirs
    ]
    table = Table(
        "paper_order",
        "Order of the averages",
        ["Norm", "Rank in the paper", "Average in the paper", "Rank here", "Average here"],
        rows,
        notes=["The order of estimates: neighbouring ranks need not differ significantly, equal averages share one."],
    )
    if math.isnan(tau):
        return ["All averages are equal, so there is no order to compare.", table], ""
    chance = p_equation(p) if p is not None else "too few norms for a p-value"
    sentence = (
        f"Kendall's τ between our averages and the paper's over {len(averages)} norms is {tau:.2f} ({chance}; 1 is the "
        "same order, 0 unrelated, −1 the reverse)."
    )
    return [sentence, table], sentence


def _pretraining(checkpoints: pd.DataFrame) -> Table | None:
    """Top-1 errors of the pre-trained networks beside Table I."""
    known = checkpoints[checkpoints["label"].isin(paper.TABLE_I) & (checkpoints["dataset"] == paper.PRETRAINING)]
    rows = []
    for row in known.dropna(subset=["correct", "n"]).itertuples():
        error = 100.0 * binomial(int(row.n - row.correct), int(row.n))
        epochs = NONE if pd.isna(row.epochs) else str(row.epochs)
        rows.append([row.label, paper.TABLE_I[row.label], within(error), epochs, str(row.n)])
    if not rows:
        return None
    return Table(
        "paper_pretraining",
        f"Top-1 error in percent on {paper.PRETRAINING} of the networks that were fine-tuned, beside Table I",
        ["Norm", "Paper", "Here", "Epochs here", "Images here"],
        rows,
        notes=["± is half of the 95 % binomial interval. The paper does not state its epochs; 300 are likely."],
    )
