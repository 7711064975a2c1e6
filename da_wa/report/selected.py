"""Rows under one selection rule: each with the epoch, and the weight of its method, that the rule chose.

Choices are made separately for every pair and seed, and taken as given in intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from da_wa.records.contrasts import Row
from da_wa.report.choices import Choices, Rule, cell
from da_wa.report.contrasts import Effect, effects
from da_wa.report.facts import Facts
from da_wa.report.matrix import Matrix
from da_wa.report.pivot import headline
from da_wa.report.resampling import Resamples


def levels(facts: Facts, made: Choices) -> dict[str, Row]:
    """The level of every factor that may differ among rows, by label; a row has all weights of its method."""
    factors = dict.fromkeys(("norm", "weight", "activation", "method", *facts.rows.key))
    factors.pop("method_weight", None)
    return {f.label: {factor: getattr(f.factors, factor) for factor in factors} for f in made.families}


def resamples(made: Choices, rule: Rule) -> Resamples:
    """Accuracies of what a rule chose under resampled seeds and images."""
    labels = dict.fromkeys(family.label for family in made.families)
    return made.resamples.renamed({cell((label, "", ""), rule)[0]: label for label in labels})


def frame(made: Choices, rule: Rule) -> pd.DataFrame:
    """One row for every choice of a rule: factors but the weight of the method, label, source, target, accuracy."""
    found = []
    for family, verdict in zip(made.families, made.verdicts[rule], strict=True):
        if verdict.chosen is not None:
            factors, (source, target) = family.factors.model_dump(exclude={"method_weight"}), family.pair
            place = {"label": family.label, "source": source, "target": target, "role": "target"}
            found.append({**factors, **place, "selection": rule[0], "accuracy": verdict.accuracy})
    return pd.DataFrame(found)


def matrix(facts: Facts, made: Choices, rule: Rule) -> Matrix:
    """The headline table under a rule, with intervals."""
    order = list(dict.fromkeys(family.label for family in made.families))
    draws, setting = resamples(made, rule), facts.matrix.setting
    found, domains = frame(made, rule), facts.domains
    missing = facts.missing  # pairs that no row has are planned, too
    return headline(found, domains, missing, order, selection=rule[0], resamples=draws, setting=setting)


def effects_under(
    facts: Facts,
    made: Choices,
    rule: Rule,
    factor: str = "weight",
    base: str | None = None,
    wanted: Sequence[str] | None = None,
) -> list[Effect]:
    """What each level of a factor changes if every row selects by a rule; see :func:`.contrasts.effects`."""
    rows, draws = levels(facts, made), resamples(made, rule)
    return effects(rows, facts.matrix.pairs, draws, factor, facts.rows.labels, base, wanted)
