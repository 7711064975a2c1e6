"""What every rule and score chooses, and how good the choices are, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from da_wa.records.contrasts import Cell
from da_wa.report.candidates import LAST, ORACLE, RULES, SOURCE, Family, families
from da_wa.report.facts import Facts
from da_wa.report.outcomes import Outcome
from da_wa.report.resampling import Resamples
from da_wa.report.scoring import Scored, scored
from da_wa.report.statistics import Interval
from da_wa.select.catalogue import Score
from da_wa.select.interaction import interaction
from da_wa.select.regret import Summary, Verdict, summarize

Rule = tuple[str, bool]
"""(name of the rule or score, whether the collapse guard is on)."""


@dataclass(frozen=True)
class Choices:
    """All families, and what every rule chooses in each.

    Attributes:
        families: in display order.
        verdicts: by rule, one for each family.
        resamples: of the chosen candidates; the labels of its cells are made by :func:`cell`.
        reasons: why scores have no value, by name.
        names: rules and scores with a choice in some family, in display order: ``last``, ``source_val``, scores,
            ``target_oracle``.
        absent: scores without any choice.
    """

    families: Sequence[Family]
    verdicts: Mapping[Rule, Sequence[Verdict]]
    resamples: Resamples
    reasons: Mapping[str, str]
    names: Sequence[str]
    absent: Sequence[str]

    @property
    def scores(self) -> list[str]:
        """Names that can choose without target labels, other than ``last``."""
        return [name for name in self.names if name not in (LAST, ORACLE)]

    @property
    def several(self) -> bool:
        """Whether there is anything to choose from."""
        return bool(self.where())

    @property
    def comparable(self) -> list[str]:
        """Scores that choose in the most families; scores of features choose in fewer."""
        counts = {name: self.summary((name, False), self.where()).families for name in self.scores}
        return [name for name, n in counts.items() if n == max(counts.values())]

    def where(self, norm: str | None = None, method: str | None = None) -> list[int]:
        """Numbers of the families with several candidates, of a norm, a method, or all."""
        return [
            k
            for k, family in enumerate(self.families)
            if len(family.candidates) > 1
            and norm in (None, family.factors.norm)
            and method in (None, family.factors.method)
        ]

    def summary(self, rule: Rule, chosen: Sequence[int]) -> Summary:
        """Means over some families; see :func:`da_wa.select.regret.summarize`."""
        return summarize([self.verdicts[rule][k] for k in chosen])

    def regret(self, rule: Rule, chosen: Sequence[int]) -> Interval | None:
        """Mean regret in points over the cells of some families, with its interval over seeds and images.

        The choices are taken as given: images are resampled for the accuracies of the chosen and the best candidate.
        """
        cells = self._regrets(rule, chosen)
        if not cells:
            return None
        factor = 100 / len(cells)
        terms = [(sign * factor, cell(c, of)) for c in cells for sign, of in ((1.0, (ORACLE, False)), (-1.0, rule))]
        return self._interval(terms, self.mean_regret(rule, chosen))

    def mean_regret(self, rule: Rule, chosen: Sequence[int]) -> float:
        """The value of :meth:`regret` alone; NaN where the rule chooses in no family."""
        cells = self._regrets(rule, chosen)
        return float(np.mean(list(cells.values()))) if cells else math.nan

    def _regrets(self, rule: Rule, chosen: Sequence[int]) -> dict[Cell, float]:
        judged = self._judged(rule, chosen)
        return self._by_cell(judged, [self.verdicts[rule][k].regret for k in judged])

    def gain(self, rule: Rule, chosen: Sequence[int]) -> Interval | None:
        """Mean accuracy of what a rule chooses less that of the last epoch, in points, with its paired interval."""
        judged = self._judged(rule, chosen)
        last = self.verdicts[LAST, False]
        gains = [100 * (self.verdicts[rule][k].accuracy - last[k].accuracy) for k in judged]
        cells = self._by_cell(judged, gains)
        if not cells:
            return None
        share = 100 / len(cells)
        terms = [(sign * share, cell(c, of)) for c in cells for sign, of in ((1.0, rule), (-1.0, (LAST, False)))]
        return self._interval(terms, float(np.mean(list(cells.values()))))

    def accuracy(self, rule: Rule, chosen: Sequence[int]) -> Interval | None:
        """Mean accuracy in percent of what a rule chooses, with its interval over seeds and images."""
        judged = self._judged(rule, chosen)
        by_cell = self._by_cell(judged, [100 * self.verdicts[rule][k].accuracy for k in judged])
        if not by_cell or len(judged) < len(chosen):
            return None
        terms = [(100 / len(by_cell), cell(c, rule)) for c in by_cell]
        return self._interval(terms, float(np.mean(list(by_cell.values()))))

    def _judged(self, rule: Rule, chosen: Sequence[int]) -> list[int]:
        return [k for k in chosen if self.verdicts[rule][k].chosen is not None]

    def _by_cell(self, families: Sequence[int], values: Sequence[float]) -> dict[Cell, float]:
        """The mean over the seeds of every cell, so that cells count alike."""
        found: dict[Cell, list[float]] = {}
        for k, value in zip(families, values, strict=True):
            found.setdefault((self.families[k].label, *self.families[k].pair), []).append(value)
        return {c: float(np.mean(of_cell)) for c, of_cell in found.items()}

    def _interval(self, terms: Sequence[tuple[float, Cell]], value: float) -> Interval:
        estimate = self.resamples.estimate(terms)
        half = estimate.interval.half if estimate else math.nan
        return Interval(value, value - half, value + half)

    def depends_on_norm(self) -> float | None:
        """P-value of the interaction of norm and score in the regret, without the guard; ``None`` if not testable.

        Over :attr:`comparable` scores. Where there are several pre-training seeds, runs from the network of one seed
        share its luck, and are one cluster.
        """
        several = len({self.families[k].cluster[1] for k in self.where()}) > 1
        norms = list(dict.fromkeys(self.families[k].factors.norm for k in self.where()))
        names = self.comparable
        usable = {
            k: [self.verdicts[name, False][k].regret for name in names]
            for k in self.where()
            if all(self.verdicts[name, False][k].chosen is not None for name in names)
        }
        found: dict[tuple[object, ...], dict[str, dict[tuple[object, ...], list[list[float]]]]] = {}
        for k, values in usable.items():
            family = self.families[k]
            own = {"norm", "weight", "activation", "lr", "pretraining_epochs", "method_weight"}  # may differ by norm
            others = family.factors.model_dump(exclude=own)
            cluster = family.cluster[1:2] if several else family.cluster
            of_norm = found.setdefault(cluster, {}).setdefault(family.factors.norm, {})
            of_norm.setdefault((family.pair, repr(others)), []).append(values)
        table = []
        for of_norms in found.values():
            shared = set.intersection(*(set(of_norms.get(norm, {})) for norm in norms))
            if shared:
                keys = sorted(shared, key=repr)
                table.append([np.mean([np.mean(of_norms[n][key], axis=0) for key in keys], axis=0) for n in norms])
        return interaction(np.array(table)) if table and len(names) > 1 else None


def cell(of: Cell, rule: Rule) -> Cell:
    """The cell of a rule's choices."""
    return (f"{of[0]} | {rule[0]}{' guarded' if rule[1] else ''}", of[1], of[2])


def choices(facts: Facts, scores: Mapping[str, Score], out: Path | None = None) -> Choices:
    """Let every rule and score choose in every family.

    Args:
        facts: of the runs.
        scores: label-free scores by name.
        out: where scores are kept; see :func:`da_wa.report.scoring.scored`.

    Raises:
        ConfigError: a score fails; the message names it.
        DataError: outputs cannot be read, or the cache cannot be written.
    """
    found = families(facts)
    others = {name: score for name, score in scores.items() if name not in RULES}
    made: Scored = scored(facts, found, others, out)
    values = {rule: [family.rule(rule) for family in found] for rule in RULES}
    for name, rows in made.values.items():  # a single candidate is what any score chooses
        known = any(not math.isnan(value) for row in rows for value in row)
        values[name] = [[0.0] if known and len(row) == 1 else list(row) for row in rows]
    verdicts: dict[Rule, list[Verdict]] = {}
    for name, rows in values.items():
        for guard in (False,) if name in (LAST, ORACLE) else (False, True):
            verdicts[name, guard] = [f.judged(row, guard) for f, row in zip(found, rows, strict=True)]
    present = {name for name, guard in verdicts if any(v.chosen is not None for v in verdicts[name, guard])}
    order = [name for name in (LAST, SOURCE, *others, ORACLE) if name in present]
    outcomes: list[Outcome] = []
    for (name, guard), of_rule in verdicts.items():
        for family, verdict in zip(found, of_rule, strict=True):
            if verdict.chosen is not None and name in order:
                label, _, _ = cell((family.label, *family.pair), (name, guard))
                outcomes.append(family.outcome(label, verdict.chosen))
    absent = [name for name in others if name not in present]
    return Choices(found, verdicts, Resamples(outcomes), made.reasons, order, absent)
