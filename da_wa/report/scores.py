"""How good are label-free scores? Regret, rank correlation, harm and collapse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from da_wa.report.candidates import LAST, ORACLE, left_out_note, shown
from da_wa.report.choices import Choices, Rule
from da_wa.report.content import NONE, Part, Section, Table
from da_wa.report.facts import Facts
from da_wa.report.statistics import ALPHA, p_equation
from da_wa.report.wording import counted, listed, signed, within

TITLE = "Which score selects best without target labels?"


def section(facts: Facts, made: Choices, guard: bool = True) -> Section:
    """The quality of every score over all choices, per norm and per method.

    Args:
        facts: of the runs.
        made: the choices of all rules.
        guard: whether the figures per norm are of guarded scores.
    """
    if not made.several:
        return Section(
            TITLE,
            [
                "Every run has one candidate, its last epoch, so there is nothing to select. "
                "A fine-tuning has more with finetune.evaluations=6."
            ],
        )
    everything = made.where()
    rules = [rule for rule in made.verdicts if rule[0] in made.names]
    rules.sort(key=lambda rule: made.names.index(rule[0]))
    verdict = _verdict(made, guard)
    p = made.depends_on_norm()
    norms = list(dict.fromkeys(made.families[k].factors.norm for k in everything))
    methods = list(dict.fromkeys(made.families[k].factors.method for k in everything))
    details: list[Part] = []
    if len(norms) > 1:
        labels = [facts.rows.labels.get(("norm", norm), norm) for norm in norms]
        details.append(_by_level(made, "norm", labels, [made.where(norm=norm) for norm in norms], guard))
    if len(methods) > 1:
        labels = [facts.rows.labels.get(("method", method), method) for method in methods]
        details.append(_by_level(made, "method", labels, [made.where(method=method) for method in methods], guard))
    parts: list[Part] = [
        verdict,
        _dependence(facts, made, norms, p, guard),
        _quality(made, rules, everything, left_out_note(facts)),
    ]
    parts += [_absent(made)] if made.absent else []
    return Section(
        TITLE,
        [part for part in parts if part],
        {"scores": _frame(made, rules, norms, methods, p), "choices": _choices_frame(made, rules)},
        verdict,
        details,
    )


def _verdict(made: Choices, guard: bool) -> str:
    """The score with the lowest regret, in words."""
    everything = made.where()
    found = {name: made.regret((name, guard), everything) for name in made.comparable}
    known = {name: interval for name, interval in found.items() if interval is not None}
    last = made.regret((LAST, False), everything)
    if not known or last is None:
        return "No score can be computed from what was saved."
    best = min(known, key=lambda name: known[name].value)
    most = max(len(family.candidates) for family in made.families)
    among = f"Among up to {counted(most, 'candidate')} per run{' and with the collapse guard' if guard else ''}"
    if known[best].value >= last.value:
        return (
            f"{among}, no score selects better on average than the last epoch, which loses {within(last)} points "
            f"against selection by target labels; next is {best} with {within(known[best])}."
        )
    gain = made.gain((best, guard), everything)
    lowest = f", the lowest of {counted(len(known), 'score')}" if len(known) > 1 else ""
    return (
        f"{among}, {best} loses least accuracy against selection by target labels: {within(known[best])} points on "
        f"average{lowest}; the last epoch loses {within(last)}, {within(gain)} more."
    )


def _dependence(facts: Facts, made: Choices, norms: Sequence[str], p: float | None, guard: bool) -> str:
    """Whether the best score depends on the norm."""
    if len(norms) < 2 or len(made.comparable) < 2:
        return ""
    best: dict[str, list[str]] = {}
    for norm in norms:
        chosen = made.where(norm=norm)
        regrets = {name: made.mean_regret((name, guard), chosen) for name in made.comparable}
        known = {name: regret for name, regret in regrets.items() if not math.isnan(regret)}
        if known:
            name = min(known, key=lambda name: known[name])
            best.setdefault(name, []).append(facts.rows.labels.get(("norm", norm), norm))
    named = "; ".join(f"{name} for {listed(of)}" for name, of in best.items())
    lowest = f"Lowest regret by norm: {named}."
    if p is None:
        return f"Too few runs to test whether the best score depends on the norm. {lowest}"
    if p < ALPHA:
        one = "" if made.resamples.several_networks else " among these networks, one of each norm"
        return (
            f"The regret of scores depends on the norm{one} (permutation test of the interaction, {p_equation(p)}). "
            f"{lowest}"
        )
    return (
        "No evidence that the best score depends on the norm (permutation test of the interaction of norm and score, "
        f"{p_equation(p)}). {lowest}"
    )


def _quality(made: Choices, rules: Sequence[Rule], chosen: Sequence[int], notes: Sequence[str]) -> Table:
    rows = []
    for name in dict.fromkeys(name for name, _ in rules):
        guards = [guard for other, guard in rules if other == name]
        summaries = [made.summary((name, guard), chosen) for guard in guards]

        def both(texts: Sequence[str]) -> str:
            first, *second = texts
            return first if not second or second[0] == first else f"{first}\n{second[0]} guarded"

        rows.append(
            [
                shown(name),
                both([within(made.regret((name, guard), chosen)) for guard in guards]),
                both([signed(s.spearman, 2) for s in summaries]),
                both([_percent(s.below_source) for s in summaries]),
                both([_percent(s.collapsed) for s in summaries]),
                str(summaries[0].families),
            ]
        )
    known = [
        (made.mean_regret((name, False), chosen), k)
        for k, name in enumerate(dict.fromkeys(name for name, _ in rules))
        if name in made.comparable
    ]
    bold = {(min(known)[1], 0), (min(known)[1], 1)} if known else set()
    return Table(
        "scores",
        "Quality of selection rules",
        ["Rule", "Regret (points)", "Rank correlation", "Below source only", "Collapsed", "Choices"],
        rows,
        frozenset(bold),
        [
            "A choice: one epoch, and weight of the method where it has several, for one norm, method, pair and seed. "
            "Regret: accuracy of the best candidate less that of the chosen one, with half of the 95 % interval over "
            "seeds and images, choices taken as given. Rank correlation: Spearman's, of score and target accuracy, "
            "weighted towards candidates that the score ranks high. Below source only: share of choices with a lower "
            "accuracy than training on the source alone for all epochs. Collapsed: share with more than half of the "
            "predictions in one class (more than 1 − (1 − q)² where the source's largest class has a share q above "
            "0.29).",
            "Small: with the guard, which rejects collapsed candidates, where it changes the number. Bold: lowest "
            "regret without the guard, of scores with the most choices. last is the headline of all other sections; of "
            "several weights it takes the middle one. Target labels judge choices; only target_oracle chooses with "
            "them.",
            *notes,
        ],
    )


def _by_level(
    made: Choices, factor: str, labels: Sequence[str], members: Sequence[Sequence[int]], guard: bool
) -> Table:
    rules = [(name, guard and name not in (LAST, ORACLE)) for name in made.names if name != ORACLE]
    rows = [
        [label, *(within(made.regret(rule, chosen)) for rule in rules)]
        for label, chosen in zip(labels, members, strict=True)
    ]
    return Table(
        f"scores_by_{factor}",
        f"Regret (points) by {factor}",
        [factor.capitalize(), *(name for name, _ in rules)],
        rows,
        notes=[
            f"Scores {'with' if guard else 'without'} the guard. ± is half of the 95 % interval over seeds and images."
        ],
    ).transposed_if_wide("Rule")


def _absent(made: Choices) -> str:
    reasons: dict[str, list[str]] = {}
    for name in made.absent:
        reasons.setdefault(made.reasons.get(name) or "no finite value", []).append(name)
    lines = [f"{listed(names)}: {reason}" for reason, names in reasons.items()]
    return f"Not available: {'; '.join(lines)}."


def _frame(
    made: Choices, rules: Sequence[Rule], norms: Sequence[str], methods: Sequence[str], p: float | None
) -> pd.DataFrame:
    scopes = [("all", "", made.where())]
    scopes += [("norm", norm, made.where(norm=norm)) for norm in norms]
    scopes += [("method", method, made.where(method=method)) for method in methods]
    rows = []
    for scope, level, chosen in scopes:
        for rule in rules:
            summary, regret = made.summary(rule, chosen), made.regret(rule, chosen)
            if regret is None:
                continue
            rows.append(
                {
                    "scope": scope,
                    "level": level,
                    "rule": rule[0],
                    "guard": rule[1],
                    "uses_target_labels": rule[0] == ORACLE,
                    "choices": summary.families,
                    "regret": regret.value,
                    "low": regret.low,
                    "high": regret.high,
                    "spearman": summary.spearman,
                    "below_source": summary.below_source,
                    "collapsed": summary.collapsed,
                    "p_norm_by_score": math.nan if p is None or scope != "all" else p,
                }
            )
    return pd.DataFrame(rows)


def _choices_frame(made: Choices, rules: Sequence[Rule]) -> pd.DataFrame:
    rows = []
    for name, guard in rules:
        for family, verdict in zip(made.families, made.verdicts[name, guard], strict=True):
            if verdict.chosen is None:
                continue
            candidate, factors = family.candidates[verdict.chosen], family.factors
            rows.append(
                {
                    "label": family.label,
                    "norm": factors.norm,
                    "method": factors.method,
                    "source": family.pair[0],
                    "target": family.pair[1],
                    "seed": factors.seed,
                    "pretraining_seed": factors.pretraining_seed,
                    "rule": name,
                    "guard": guard,
                    "epoch": candidate.epoch,
                    "weight": candidate.weight,
                    "candidates": len(family.candidates),
                    "accuracy": verdict.accuracy,
                    "regret": verdict.regret,
                    "source_only": family.source_only,
                    "collapsed": verdict.collapsed,
                }
            )
    return pd.DataFrame(rows)


def _percent(fraction: float) -> str:
    return NONE if math.isnan(fraction) else f"{100 * fraction:.0f} %"
