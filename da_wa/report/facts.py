"""The data of a report, from one ``out`` folder. Each file of outputs is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from da_wa.records.outputs import Outputs
from da_wa.records.schema import Conversion, Factors, Record
from da_wa.records.store import RunDir, Store
from da_wa.report.balance import class_counts, warnings
from da_wa.report.collection import Collection, Rows, collect
from da_wa.report.contrasts import effects, effects_frame, refuse_unknown
from da_wa.report.conversions import conversions, notices
from da_wa.report.matrix import HEADLINE, Matrix, Missing, Setting
from da_wa.report.outcomes import Array, Outcome, balanced_by_epoch, outcomes
from da_wa.report.pivot import headline
from da_wa.report.resampling import Resamples

Sample = tuple[str, str, int, dict[str, Array]]
"""(label, source, seed, domain -> (m, d) float16 features after the last epoch)."""


@dataclass(frozen=True)
class Facts:
    """Everything that a section may read.

    Attributes:
        records: of finished units, comparable with each other, in display order.
        missing: planned results that do not exist.
        unreadable: units of which not even the plan can be read, one sentence each.
        domains: in display order.
        frame: one row per result: every factor, ``label`` (the row of the table), ``source``, ``target``,
            ``unit_target`` (of a unit trained for one pair), ``role``, ``selection``, ``epoch``, ``correct``, ``n``,
            ``accuracy``, ``balanced_accuracy`` (fractions) and ``run_id``. Rows with the role ``source`` are about the
            held-out images of the source.
        outcomes: predictions of every unit for every target after the last epoch.
        matrix: the headline table: norms, and other factors that vary, × pairs.
        resamples: intervals of accuracies.
        classes: their names.
        images: by domain (n, 3, h, w) uint8 pixels, ``None`` if the report shows no images.
        samples: saved features.
        mixed: a sentence about code, hardware or precision that differ among runs, or nothing.
        rows: which row of the table a unit belongs to.
        held_out: predictions of every unit for the held-out images of its source after the last epoch.
        runs: the directory of each record, by id: for sections that read outputs of all epochs.
    """

    records: Sequence[Record]
    missing: Sequence[Missing]
    unreadable: Sequence[str]
    domains: Sequence[str]
    frame: pd.DataFrame
    outcomes: Sequence[Outcome]
    matrix: Matrix
    resamples: Resamples
    classes: Sequence[str]
    images: Mapping[str, Array] | None
    samples: Sequence[Sample]
    mixed: str
    rows: Rows
    held_out: Sequence[Outcome] = ()
    runs: Mapping[str, RunDir] = field(default_factory=dict)

    def label(self, record: Record) -> str:
        """The row of the table that a record belongs to, e.g. ``BN + WA · DANN``."""
        return self.rows.label(record)

    @cached_property
    def levels(self) -> dict[str, dict[str, Any]]:
        """The level of every factor that may differ among rows, by label, in display order."""
        factors = dict.fromkeys(("norm", "weight", "activation", "method", *self.rows.key))
        found = {self.label(record): record.factors for record in self.records}
        return {
            label: {factor: getattr(found[label], factor) for factor in factors}
            for label in self.matrix.mean.index
            if label in found
        }

    def effects(
        self, factor: str = "weight", base: str | None = None, levels: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """What each level of a factor changes, in points of accuracy; see :func:`da_wa.report.contrasts.effects`.

        Args:
            factor: ``weight``, ``method``, ``norm`` or ``activation``.
            base: the level that the others are compared with; default: ``plain`` weights, the method ``none``.
            levels: the others; default: all.

        Raises:
            ConfigError: another factor or level, or no base for ``norm`` or ``activation``.
        """
        refuse_unknown(self.levels, factor, base, levels)
        found = effects(self.levels, self.matrix.pairs, self.resamples, factor, self.rows.labels, base, levels)
        return effects_frame(found)

    def selected(self, selection: str) -> Matrix:
        """The headline table under another selection rule, without intervals."""
        return self._headline(selection=selection)

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences about imbalanced targets and collapsed predictions, on which accuracy alone misleads."""
        return warnings(self.outcomes, self.classes)

    @cached_property
    def conversions(self) -> dict[str, Conversion]:
        """What a norm changed of the trained network, by label; only of rows that were converted."""
        return conversions(self.records, self.label)

    @cached_property
    def identities(self) -> list[Record]:
        """Rows that were not planned because the method, by its own account, does nothing for the norm.

        They are the records of training on the source alone, with the method and each of its weights among the factors.
        """
        changes = {r.factors.method: r.changes for r in self.records if r.changes is not None}
        weights: dict[str, dict[float | None, None]] = {}
        for record in self.records:
            weights.setdefault(record.factors.method, {})[record.factors.method_weight] = None
        alone = {self.label(r): r for r in self.records if r.factors.method == "none"}
        found = []
        for method, activations in changes.items():
            for record in alone.values():
                adapted = [
                    record.model_copy(update={"factors": record.factors.model_copy(update=update)})
                    for update in ({"method": method, "method_weight": weight} for weight in weights[method])
                ]
                planned = any(self.label(each) in self.matrix.mean.index for each in adapted)
                if record.factors.activation not in activations and not planned:
                    found += adapted
        return found

    @property
    def notices(self) -> list[str]:
        """Sentences that belong to the headline table."""
        return [*self.warnings, *([self.mixed] if self.mixed else []), *notices(self.conversions)]

    @cached_property
    def balanced_resamples(self) -> Resamples:
        """Intervals of balanced accuracies, from the same draws as those of accuracies."""
        return Resamples(self.outcomes, self.resamples.replicates, balanced=True)

    @cached_property
    def balanced(self) -> Matrix:
        """The headline table in balanced accuracy."""
        return self._headline(value="balanced_accuracy", resamples=self.balanced_resamples)

    def _headline(self, **options: Any) -> Matrix:
        setting, order = self.matrix.setting, list(self.matrix.mean.index)
        return headline(self.frame, self.domains, self.missing, order, setting=setting, **options)


def load_facts(out: Path, images: Mapping[str, Array] | None = None) -> Facts:
    """Read an ``out`` folder.

    Args:
        out: the folder of the experiment.
        images: by domain (n, 3, h, w) uint8 pixels.

    Raises:
        DataError: there are no runs, a file cannot be read, or results are not comparable.
    """
    return facts_of(collect(Store(out)), images)


def facts_of(found: Collection, images: Mapping[str, Array] | None = None) -> Facts:
    """The facts of records that were read already; reads their outputs.

    Args:
        found: the records.
        images: by domain (n, 3, h, w) uint8 pixels.

    Raises:
        DataError: outputs cannot be read.
    """
    rows: list[dict[str, object]] = []
    predicted: list[Outcome] = []
    held_out: list[Outcome] = []
    samples: list[Sample] = []
    for record in found.records:
        outputs, label = found.runs[record.id].outputs(record), found.rows.label(record)
        rows += _results(record, outputs, label, found.domains)
        predicted += outcomes(record, outputs, label, record.targets)
        held_out += outcomes(record, outputs, label, [record.source])
        features = {name: d.features[-1] for name, d in outputs.domains.items() if d.features is not None}
        samples.append(
            (label, record.source, record.factors.seed, {d: features[d] for d in found.domains if d in features})
        )
    frame = _frame(rows)
    order = {found.rows.label(record): found.rows.order(record.factors) for record in found.records}
    order |= found.planned
    labels = sorted(order, key=lambda label: order[label])
    resamples = Resamples(predicted)
    setting = _setting(found, frame, predicted)
    matrix = headline(frame, found.domains, found.missing, labels, resamples=resamples, setting=setting)
    classes = found.records[0].classes if found.records else []
    return Facts(
        records=found.records,
        missing=found.missing,
        unreadable=found.unreadable,
        domains=found.domains,
        frame=frame,
        outcomes=predicted,
        matrix=matrix,
        resamples=resamples,
        classes=classes,
        images=images,
        samples=samples,
        mixed=found.mixed,
        rows=found.rows,
        held_out=held_out,
        runs=found.runs,
    )


_COLUMNS = (
    *Factors.model_fields,
    *("label", "source", "target", "unit_target", "role", "selection", "epoch"),
    *("correct", "n", "accuracy", "balanced_accuracy", "run_id"),
)


def _results(record: Record, outputs: Outputs, label: str, domains: Sequence[str]) -> list[dict[str, object]]:
    balanced = {name: balanced_by_epoch(domain, outputs.epochs) for name, domain in outputs.domains.items()}
    return [
        {
            **record.factors.model_dump(),
            "label": label,
            "source": record.source,
            "target": result.domain,
            "unit_target": record.target,
            "role": result.role,
            "selection": result.selection,
            "epoch": result.epoch,
            "correct": result.correct,
            "n": result.n,
            "accuracy": result.accuracy,
            "balanced_accuracy": balanced.get(result.domain, {}).get(result.epoch, float("nan")),
            "run_id": record.id,
        }
        for result in sorted(record.results, key=lambda r: (domains.index(r.domain), r.selection))
    ]


def _frame(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    whole = ["size", "batch_size", "epochs", "pretraining_epochs", "pretraining_seed", "epoch", "correct", "n", "seed"]
    frame[whole] = frame[whole].astype("Int64")
    fractions = ["lr", "accuracy", "balanced_accuracy"]
    frame[fractions] = frame[fractions].astype(float)
    return frame


def _setting(found: Collection, frame: pd.DataFrame, predicted: Sequence[Outcome]) -> Setting | None:
    if not found.records:
        return None
    first = found.records[0]
    pretrained_on = {
        name for r in found.records if (name := r.pretraining.dataset if r.pretraining else r.factors.pretraining)
    }
    headline_rows = frame[(frame["selection"] == HEADLINE) & (frame["role"] == "target")]
    images = headline_rows.groupby("target")["n"].max()
    factors = [record.factors for record in found.records]
    shares = {target: 100 * float(counts.max() / counts.sum()) for target, counts in class_counts(predicted).items()}
    return Setting(
        dataset=first.factors.dataset,
        model=" or ".join(dict.fromkeys(each.model for each in factors)),
        size=first.factors.size,
        protocol=first.factors.protocol,
        pretraining=" or ".join(sorted(pretrained_on)) or None,
        images={domain: int(images[domain]) for domain in found.domains if domain in images},
        seeds=sorted({each.seed for each in factors}),
        pretraining_seeds=sorted({each.pretraining_seed for each in factors if each.pretraining_seed is not None}),
        majority={domain: shares[domain] for domain in found.domains if domain in shares},
        chance=100 / len(first.classes),
    )
