"""Candidates among which a score chooses, and the choices of every rule.

Candidates are the evaluated epochs and the weights of the method. A family is the set of candidates for one norm,
method, pair, seed and pre-training seed: one choice is made in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from da_wa.records.contrasts import Pair
from da_wa.records.outputs import Outputs
from da_wa.records.schema import Factors, Record
from da_wa.report.collection import Rows
from da_wa.report.facts import Facts
from da_wa.report.outcomes import Array, Outcome, origin
from da_wa.report.wording import listed
from da_wa.select.regret import Verdict, judge, largest_share

LAST, SOURCE, ORACLE = "last", "source_val", "target_oracle"
RULES = (LAST, SOURCE, ORACLE)
"""Selection rules that need only counts of right predictions, which every record has."""


def shown(rule: str) -> str:
    """A rule or score in a table; the one that uses target labels says so."""
    return f"{rule} (uses target labels)" if rule == ORACLE else rule


@dataclass(frozen=True)
class Candidate:
    """One network at one evaluated epoch.

    Attributes:
        record: of the unit.
        epoch: evaluated.
        predicted: (n,) classes of the target images.
        accuracy: on the target, a fraction.
        source_accuracy: on held-out source images; NaN if unknown.
        share: of the most frequent class among the predictions.
    """

    record: Record
    epoch: int
    predicted: Array
    accuracy: float
    source_accuracy: float
    share: float

    @property
    def weight(self) -> float | None:
        """Of the method, if it has one."""
        return self.record.factors.method_weight


@dataclass(frozen=True)
class Family:
    """Candidates among which one choice is made.

    Attributes:
        label: the row of the table, without the weight of the method.
        pair: (source, target).
        index: (n,) numbers of the target images.
        truth: (n,) their classes.
        candidates: of equally good ones the first is chosen: middle weight first, late epochs first.
        source_share: of the largest class among the held-out source labels; 0 where no source images were evaluated.
        without_method: what it has in common with training on the source alone: pair, seeds, row of the table.
        source_only: accuracy of that after the last epoch, a fraction; ``None`` if there is no such run.
    """

    label: str
    pair: Pair
    index: Array
    truth: Array
    candidates: Sequence[Candidate]
    source_share: float
    without_method: tuple[object, ...]
    source_only: float | None = None

    @property
    def factors(self) -> Factors:
        """What the candidates share, apart from the weight."""
        return self.candidates[0].record.factors

    @property
    def cluster(self) -> tuple[str, int, int]:
        """Source, pre-training seed and seed of the runs; all families of a cluster share networks."""
        factors = self.factors
        return (self.pair[0], -1 if factors.pretraining_seed is None else factors.pretraining_seed, factors.seed)

    def rule(self, name: str) -> list[float]:
        """The value of each candidate under one of :data:`RULES`; NaN where it cannot be chosen."""
        if name == SOURCE:
            return [c.source_accuracy for c in self.candidates]
        if name == ORACLE:
            return [c.accuracy for c in self.candidates]
        return [1.0, *[math.nan] * (len(self.candidates) - 1)]

    def judged(self, values: Sequence[float], guard: bool) -> Verdict:
        """What a score chooses and how good that is; see :func:`da_wa.select.regret.judge`."""
        accuracies = [c.accuracy for c in self.candidates]
        shares = [c.share for c in self.candidates]
        return judge(values, accuracies, shares, self.source_only, guard, self.source_share)

    def outcome(self, label: str, chosen: int) -> Outcome:
        """The predictions of a chosen candidate."""
        candidate, seed = self.candidates[chosen], self.factors.seed
        return Outcome(
            label, *self.pair, seed, self.index, self.truth, candidate.predicted, None, **origin(candidate.record)
        )


def families(facts: Facts) -> list[Family]:
    """All families, in display order.

    The seeds of a row and pair have the same weights as candidates, else they would choose among different ones:
    weights that only some of them have are left out, see :func:`incomplete_weights`.

    Raises:
        DataError: outputs cannot be read.
    """
    rows = without_weight(facts.rows)
    left_out = incomplete_weights(facts)
    grouped: dict[tuple[object, ...], list[tuple[Record, Outputs]]] = {}
    for record in facts.records:
        if record.factors.method_weight in left_out.get(rows.label(record), ()):
            continue
        outputs = facts.runs[record.id].outputs(record)
        small = Outputs(outputs.epochs, {n: replace(d, logits=None) for n, d in outputs.domains.items()})
        for target in record.targets:
            if target in outputs.domains:
                factors = record.factors
                key = (rows.label(record), record.source, target, factors.pretraining_seed, factors.seed)
                grouped.setdefault(key, []).append((record, small))
    found = [_family(str(label), (str(s), str(t)), units, rows.key) for (label, s, t, *_), units in grouped.items()]
    reference = {f.without_method: f.candidates[0].accuracy for f in found if f.factors.method == "none"}
    return [replace(family, source_only=reference.get(family.without_method)) for family in found]


def incomplete_weights(facts: Facts) -> dict[str, list[float]]:
    """The weights of every row that lack a seed or pair which another weight of the row has.

    Where no weight has all of them, none is left out.
    """
    rows = without_weight(facts.rows)
    runs: dict[str, dict[float, set[tuple[object, ...]]]] = {}
    for record in facts.records:
        factors = record.factors
        if factors.method_weight is not None:
            of_row = runs.setdefault(rows.label(record), {})
            of_weight = of_row.setdefault(factors.method_weight, set())
            of_weight |= {(record.source, t, factors.pretraining_seed, factors.seed) for t in record.targets}
    found = {}
    for label, of_row in runs.items():
        everything = set.union(*of_row.values())
        if everything in of_row.values():
            found[label] = sorted(weight for weight, of_weight in of_row.items() if of_weight != everything)
    return {label: weights for label, weights in found.items() if weights}


def left_out_note(facts: Facts) -> list[str]:
    """A sentence about :func:`incomplete_weights`, if there are some."""
    named = [f"{label}: {listed([f'{w:g}' for w in weights])}" for label, weights in incomplete_weights(facts).items()]
    if not named:
        return []
    return [f"Weights with fewer seeds or pairs than others of their row are no candidates. {'; '.join(named)}."]


def without_weight(rows: Rows) -> Rows:
    """Rows of the table that hold all weights of a method."""
    return replace(rows, key=[factor for factor in rows.key if factor != "method_weight"])


def _family(label: str, pair: Pair, units: Sequence[tuple[Record, Outputs]], key: Sequence[str]) -> Family:
    """Candidates of one pair and seed; ``key``: the factors that identify a row of the table.

    Factors outside of it may differ from those of training on the source alone: a method may have a recipe of its own.
    """
    source, target = pair
    weights = sorted(w for record, _ in units if (w := record.factors.method_weight) is not None)
    middle = weights[(len(weights) - 1) // 2] if weights else None
    candidates = []
    for record, outputs in sorted(units, key=lambda unit: _preference(unit[0], middle)):
        held_out = {row.epoch: row.accuracy for row in record.evaluations if row.domain == source}
        domain = outputs.domains[target]
        accuracies = np.asarray(domain.correct, np.float64) / len(domain.index)
        for k in reversed(range(len(outputs.epochs))):
            epoch, predicted = int(outputs.epochs[k]), domain.predicted[k]
            known = held_out.get(epoch, math.nan)
            candidates.append(
                Candidate(record, epoch, predicted, float(accuracies[k]), known, largest_share(predicted))
            )
    domains, factors = units[0][1].domains, candidates[0].record.factors
    domain, source_share = domains[target], largest_share(domains[source].labels) if source in domains else 0.0
    shared = [getattr(factors, factor) for factor in key if factor != "method"]
    alone = (pair, factors.pretraining_seed, factors.seed, *shared)
    return Family(label, pair, domain.index, domain.labels, candidates, source_share, alone)


def _preference(record: Record, middle: float | None) -> tuple[bool, float]:
    weight = record.factors.method_weight
    return (weight != middle, weight or 0.0)
