"""Which comparisons are decided, whatever the number of seeds: the anytime-valid test of ``seeds=auto``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from da_wa.errors import nearest
from da_wa.records.contrasts import BASES, Cell, by_seed, of_interest
from da_wa.report.content import Section, Table
from da_wa.report.facts import Facts
from da_wa.report.matrix import HEADLINE
from da_wa.report.wording import counted, listed, number, signed
from da_wa.select.anytime import ALPHA, decided_after, e_process, first_look

TITLE = "Which comparisons are decided?"


def section(facts: Facts, wanted: Sequence[str] | None = None) -> Section:
    """Each comparison: decided after n seeds, or open.

    Args:
        facts: of the runs.
        wanted: levels that are compared with their base; see :func:`da_wa.records.contrasts.of_interest`.
    """
    known = {row[factor] for factor in BASES for row in facts.levels.values()}
    absent = [
        f"No row has the level {level!r}. {nearest(level, known)}" for level in wanted or () if level not in known
    ]
    found = of_interest(facts.levels, wanted)
    accuracies = _accuracies(facts.frame)
    differences = [list(by_seed(contrast, facts.matrix.pairs, accuracies).values()) for contrast in found]
    after = decided_after([each or [0.0] for each in differences])
    frame = pd.DataFrame(
        [
            {
                "contrast": contrast.name,
                "factor": contrast.factor,
                "value": contrast.value,
                "base": contrast.base,
                "seeds": len(each),
                "effect": sum(each) / len(each) if each else math.nan,
                "evidence": float(e_process(each)[-1]) if each else math.nan,
                "decided_after": math.nan if then is None else then,
            }
            for contrast, each, then in zip(found, differences, after, strict=True)
        ]
    )
    most = max(map(len, differences), default=0)
    if most < 2:
        few = "A decision needs several seeds of two rows that are compared; seeds=auto adds them."
        return Section(TITLE, [*absent, few])
    if most < (fewest := first_look(len(found))):
        few = (
            f"{counted(most, 'seed')} cannot decide any of {counted(len(found), 'comparison')}, whatever the results: "
            f"{fewest} are the fewest that can. seeds=auto adds seeds where they are needed."
        )
        return Section(TITLE, [*absent, few, _table(frame), _population(facts)], {"decisions": frame})
    words = _words(frame)
    return Section(TITLE, [*absent, words, _table(frame), _population(facts)], {"decisions": frame}, words)


def _words(frame: pd.DataFrame) -> str:
    clear = frame[frame["decided_after"].notna()]
    lines = []
    for verb, rows in (("higher", clear[clear["effect"] > 0]), ("lower", clear[clear["effect"] < 0])):
        if len(rows):
            named = [f"{row.contrast} ({counted(int(row.decided_after), 'seed')})" for row in rows.itertuples()]
            lines.append(f"Decided, accuracy {verb}: {listed(named, 5)}.")
    open_ = frame[frame["decided_after"].isna()]
    if len(open_):
        lines.append(f"Open: {listed([f'{row.contrast} ({row.seeds})' for row in open_.itertuples()], 5)}.")
    return " ".join(lines)


def _table(frame: pd.DataFrame) -> Table:
    rows = [
        [
            row.contrast,
            str(row.seeds),
            signed(row.effect),
            "> 1000" if row.evidence >= 1000 else number(row.evidence),
            "open" if pd.isna(row.decided_after) else f"decided after {counted(int(row.decided_after), 'seed')}",
        ]
        for row in frame.itertuples()
    ]
    return Table(
        "decisions",
        "Anytime-valid test of each comparison",
        ["Comparison", "Seeds", "Effect (points)", "Evidence", "State"],
        rows,
        frozenset((i, 4) for i, row in enumerate(rows) if row[4] != "open"),
        [
            "Effect: mean over seeds of the difference of the average over the pairs. Evidence: Bayes factor of an "
            f"effect against none (Gaussian differences), largest so far. Decided at {1 / ALPHA:.0f} for one "
            "comparison, more for several (Holm): the chance of any false decision is at most 5 %, however often it is "
            "tested. Seeds count in their order; open comparisons may be decided by more seeds.",
        ],
    )


def _population(facts: Facts) -> str:
    """About what the conclusions are."""
    setting = facts.matrix.setting
    networks = len(setting.pretraining_seeds) if setting is not None else 0
    if setting is None or setting.pretraining is None:
        return "Conclusions are about training again from new initial weights on these domains."
    if networks > 1:
        return (
            f"Conclusions are about fine-tuning again from these pre-trained networks, at most {networks} per norm. "
            "The mean over the pre-training seeds that both rows have is tested. Whether they hold for other "
            "pre-trained networks is answered by the intervals of the effects, which include pre-training seeds."
        )
    return (
        "Conclusions are about fine-tuning again from the same pre-trained network of each norm. They say nothing "
        "about other pre-trained networks; pretrain.seeds=[0,1,2] adds some."
    )


def _accuracies(frame: pd.DataFrame) -> dict[Cell, dict[tuple[int, int], float]]:
    rows = frame[(frame["selection"] == HEADLINE) & (frame["role"] == "target")]
    found: dict[Cell, dict[tuple[int, int], float]] = {}
    networks = rows["pretraining_seed"].fillna(0).astype(int)
    cells = zip(rows["label"], rows["source"], rows["target"], strict=True)
    for cell, p, seed, accuracy in zip(cells, networks, rows["seed"], rows["accuracy"], strict=True):
        found.setdefault(cell, {})[int(p), int(seed)] = float(accuracy)
    return found
