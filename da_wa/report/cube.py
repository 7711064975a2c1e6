"""The cube: norm × method × selection, one table, one figure, one CSV file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from da_wa.records.contrasts import BASES
from da_wa.records.schema import Factors
from da_wa.report.candidates import LAST, ORACLE, Family, left_out_note, shown, without_weight
from da_wa.report.choices import Choices, Rule
from da_wa.report.content import NONE, Plot, Section, Table
from da_wa.report.contrasts import Effect, effects_frame, too_few_runs
from da_wa.report.facts import Facts
from da_wa.report.figures import heatmap
from da_wa.report.selected import effects_under
from da_wa.report.statistics import Interval
from da_wa.report.wording import counted, number, signed

TITLE = "What do norm, method and selection give together?"
ALIKE = "="
"""In place of the numbers of a method that changes no prediction with this norm."""


def section(facts: Facts, made: Choices, guard: bool = True) -> Section:
    """Mean accuracy over the pairs of every row under every selection rule.

    Args:
        facts: of the runs.
        made: the choices of all rules.
        guard: whether scores reject collapsed candidates.
    """
    rules: list[Rule] = [(name, guard and name not in (LAST, ORACLE)) for name in made.names]
    labels = list(dict.fromkeys(family.label for family in made.families))
    members = {label: [k for k, family in enumerate(made.families) if family.label == label] for label in labels}
    pairs = set(facts.matrix.pairs)
    whole = {label for label in labels if {made.families[k].pair for k in members[label]} == pairs}
    found = {
        (label, rule): made.accuracy(rule, members[label]) if label in whole else None
        for label in labels
        for rule in rules
    }
    alike = {label for label in labels if _changes_nothing([made.families[k] for k in members[label]], made.families)}
    best = _best(found, alike)
    rows = without_weight(facts.rows)
    skipped = {rows.label(record): record.factors for record in facts.identities}
    cube = pd.concat([_frame(made, members, rules, found, alike), _nothing(skipped, rules)], ignore_index=True)
    changes = {
        factor: {rule: by_rule for rule in rules if (by_rule := effects_under(facts, made, rule, factor))}
        for factor in BASES
    }
    return Section(
        TITLE,
        [
            best,
            _table(labels, rules, found, alike, skipped, guard, left_out_note(facts)),
            _figure(labels, rules, found),
        ],
        {"cube": cube, "cube_effects": _effects_frame(changes)},
        best,
        [_effects_table(factor, of_factor) for factor, of_factor in changes.items() if of_factor],
    )


def _effects_table(factor: str, changes: Mapping[Rule, Sequence[Effect]]) -> Table:
    """One row for every comparison, one column for every rule."""
    names = list(dict.fromkeys(effect.contrast.name for found in changes.values() for effect in found))
    rows, bold = [], set()
    for i, name in enumerate(names):
        row = [name]
        for j, found in enumerate(changes.values(), 1):
            effect = next((effect for effect in found if effect.contrast.name == name), None)
            interval = None if effect is None else effect.estimate.interval
            row.append(NONE if interval is None else f"{signed(interval.value)}\n± {interval.half:.1f}")
            if effect is not None and effect.resolved:
                bold.add((i, j))
        rows.append(row)
    what = "weight normalisation" if factor == "weight" else "adaptation"
    return Table(
        f"cube_{factor}",
        f"Effect of {what} by selection (percentage points)",
        ["Change", *(shown(name) for name, _ in changes)],
        rows,
        frozenset(bold),
        [
            "Both rows select by the same rule, separately for every pair and seed. Small: half of the 95 % interval, "
            "choices taken as given. Bold: the interval excludes 0, and so does the test over runs, Holm-corrected "
            "over the rows of a column. tables/cube_effects.csv has the p-values.",
            *next(filter(None, map(too_few_runs, changes.values())), []),
        ],
    ).transposed_if_wide("Selection")


def _effects_frame(changes: Mapping[str, Mapping[Rule, Sequence[Effect]]]) -> pd.DataFrame:
    return pd.concat(
        [
            effects_frame(found).assign(selection=rule[0], guard=rule[1], uses_target_labels=rule[0] == ORACLE)
            for of_factor in changes.values()
            for rule, found in of_factor.items()
        ]
        or [pd.DataFrame()],
        ignore_index=True,
    )


def _best(found: dict[tuple[str, Rule], Interval | None], alike: set[str]) -> str:
    known = {
        key: interval
        for key, interval in found.items()
        if interval is not None and key[1][0] != ORACLE and key[0] not in alike
    }
    if not known:
        return "No row has every pair, so there is no average."
    label, rule = max(known, key=lambda key: known[key].value)
    last = max((key for key in known if key[1][0] == LAST), key=lambda key: known[key].value)
    return (
        f"Highest average without target labels: {label}, selection {rule[0]}, {number(known[label, rule].value)} %. "
        f"With selection last: {last[0]}, {number(known[last].value)} %. A maximum over "
        f"{counted(len(known), 'number')} is optimistic."
    )


def _table(
    labels: Sequence[str],
    rules: Sequence[Rule],
    found: dict[tuple[str, Rule], Interval | None],
    alike: set[str],
    skipped: Mapping[str, Factors],
    guard: bool,
    notes: Sequence[str],
) -> Table:
    rows = []
    for label in labels:
        cells = [found[label, rule] for rule in rules]
        texts = [
            ALIKE
            if label in alike
            else "–"
            if c is None
            else number(c.value) + (f"\n± {c.half:.1f}" if c.known else "")
            for c in cells
        ]
        rows.append([label, *texts])
    rows += [[label, *[ALIKE] * len(rules)] for label in skipped]
    return Table(
        "cube",
        "Accuracy on the target (%), mean over the pairs, by selection",
        ["Norm and method", *(shown(name) for name, _ in rules)],
        rows,
        notes=[
            f"Selection among epochs and weights of the method, separately for every pair and seed; scores "
            f"{'reject' if guard else 'may choose'} collapsed candidates. last is the headline. {shown(ORACLE)}: no "
            "result of unsupervised adaptation, but the bound of what selection can give.",
            "Small: half of the 95 % interval over seeds and images, choices taken as given. = : the method does "
            "nothing for this norm, or changed no prediction.",
            *notes,
        ],
    ).transposed_if_wide("Selection")


def _figure(labels: Sequence[str], rules: Sequence[Rule], found: dict[tuple[str, Rule], Interval | None]) -> Plot:
    values = [[math.nan if (c := found[label, rule]) is None else c.value for rule in rules] for label in labels]
    frame = pd.DataFrame(values, index=list(labels), columns=[shown(name) for name, _ in rules])
    figure = heatmap(frame, "Accuracy on the target (%), mean over the pairs", "{:.1f}")
    return Plot("cube", figure, "Norm and method by selection.", wide=False)


def _frame(
    made: Choices,
    members: dict[str, list[int]],
    rules: Sequence[Rule],
    found: dict[tuple[str, Rule], Interval | None],
    alike: set[str],
) -> pd.DataFrame:
    rows = []
    for label, chosen in members.items():
        of = [made.families[k] for k in chosen]
        counts = [len({f.factors.seed for f in of if f.pair == pair}) for pair in dict.fromkeys(f.pair for f in of)]
        for rule in rules:
            interval = found[label, rule] or Interval(math.nan)
            regret = made.mean_regret(rule, chosen)
            rows.append(
                {
                    "label": label,
                    "norm": of[0].factors.norm,
                    "method": of[0].factors.method,
                    "selection": rule[0],
                    "guard": rule[1],
                    "uses_target_labels": rule[0] == ORACLE,
                    "mean": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "regret": regret,
                    "pairs": len(counts),
                    "seeds": min(counts),
                    "choices": len(of),
                    "note": ALIKE if label in alike else "",
                }
            )
    return pd.DataFrame(rows)


def _nothing(skipped: Mapping[str, Factors], rules: Sequence[Rule]) -> pd.DataFrame:
    """Rows of methods that were not run, because they do nothing for a norm."""
    return pd.DataFrame(
        [
            {
                "label": label,
                "norm": factors.norm,
                "method": factors.method,
                "selection": name,
                "guard": guard,
                "uses_target_labels": name == ORACLE,
                "note": ALIKE,
            }
            for label, factors in skipped.items()
            for name, guard in rules
        ]
    )


def _changes_nothing(of_label: Sequence[Family], families: Sequence[Family]) -> bool:
    """Whether the last predictions of a method are those of training on the source alone, wherever both exist."""
    if not of_label or of_label[0].factors.method == "none":
        return False
    reference = {f.without_method: f for f in families if f.factors.method == "none"}
    shared = [(f, reference[f.without_method]) for f in of_label if f.without_method in reference]
    return bool(shared) and all(np.array_equal(f.candidates[0].predicted, r.candidates[0].predicted) for f, r in shared)
