"""``record.json``, schema 2: settings, results and provenance of one unit, as frozen, validated types.

A record holds facts. Derived values are computed on request: results under a selection rule from the evaluations,
accuracies from counts. Numbers of images are counts, accuracies fractions, times seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from da_wa.errors import DataError, NewerVersion

SCHEMA = 2
"""The version of ``record.json``, raised when a field changes its meaning; see ``migrate.py`` for older ones."""

Selection = Literal["last", "source_val", "target_oracle"]
_Model = TypeVar("_Model", bound=BaseModel)
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Factors(_Frozen):
    """Every property of a unit that a table may vary; ``None`` where it does not apply or is not known.

    Attributes:
        norm: the name of the norm, e.g. ``bn_wa``.
        weight: how it normalises weights: ``plain``, ``align``, …
        activation: how it normalises activations: ``none``, ``bn``, ``gn``, …
        method: the adaptation method; ``none`` trains on the source alone.
        method_weight: what the loss of the method is multiplied by.
        model: the backbone.
        dataset: the display name of the set of domains.
        protocol: which images train and which are evaluated.
        size: side of the images in pixels.
        batch_size: images per step of the fine-tuning.
        epochs: of the fine-tuning.
        lr: learning rate of the fine-tuning.
        seed: of split, order, augmentation and head.
        pretraining: the name of the pre-training, ``None`` without any.
        pretraining_epochs: its epochs.
        pretraining_seed: its seed.
    """

    norm: str
    weight: str = "plain"
    activation: str = "none"
    method: str = "none"
    method_weight: float | None = None
    model: str
    dataset: str
    protocol: str
    size: int
    batch_size: int | None = None
    epochs: int | None = None
    lr: float | None = None
    seed: Count
    pretraining: str | None = None
    pretraining_epochs: int | None = None
    pretraining_seed: int | None = None


class Images(_Frozen):
    """The images of a domain: a hash of pixels, labels and classes, and their number."""

    digest: str
    n: Count | None = None


class Evaluation(_Frozen):
    """How many images of a domain were right after an epoch; of the source these are held-out images."""

    domain: str
    role: Literal["source", "target"]
    epoch: Count
    correct: Count
    n: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.correct > self.n:
            raise ValueError(f"{self.correct} of {self.n} images are correct")
        return self

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.correct / self.n


class Result(Evaluation):
    """An evaluation and the rule that selected its epoch."""

    selection: Selection


class EpochCurve(_Frozen):
    """One epoch of training: mean loss, accuracy on augmented labelled images (a fraction), learning rate.

    ``terms`` are means of what else was logged, such as the terms of the loss.
    """

    epoch: int
    loss: float | None = None
    accuracy: float | None = None
    lr: float | None = None
    terms: dict[str, float] = {}


class Pretraining(_Frozen):
    """The network that a unit started from and its accuracy on the test images of its own dataset."""

    name: str
    dataset: str
    epochs: int
    correct: Count | None = None
    n: Count | None = None
    recipe: str | None = None


class Conversion(_Frozen):
    """What a norm changed of a network that was trained without it: kinds of changes and numbers of layers.

    Attributes:
        replaced: changes that keep all trained values.
        kept: layers that are unchanged.
        lost: changes that lose trained values.
        reached: convolution and linear layers of the wanted kind.
        layers: all convolution and linear layers but the classifier.
        stale: BatchNorms that started with running statistics of filters that had changed, also if they were merged
            into convolutions.
        changed: convolutions that started with other filters than those trained; 0 in records of earlier versions.
    """

    replaced: dict[str, Count] = {}
    kept: dict[str, Count] = {}
    lost: dict[str, Count] = {}
    reached: Count
    layers: Count
    stale: Count = 0
    changed: Count = 0


class Divergence(_Frozen):
    """In which epoch the training loss or the logits stopped being finite."""

    epoch: int
    message: str


class Checksum(_Frozen):
    """Of the file ``outputs.npz`` that belongs to the record."""

    crc32: int
    bytes: int


class Record(_Frozen):
    """Settings, results, cost and environment of one unit.

    Attributes:
        id: the name of the unit and of its directory.
        status: ``diverged`` units have a curve but no evaluations.
        factors: see :class:`Factors`.
        labels: display names of factor levels, e.g. ``{"norm": "BN + WA"}``.
        source: the domain with labels.
        target: the one target of the unit; ``None`` for a unit evaluated on every other domain.
        starts_from: the unit whose trained network it adapted; ``None`` for a unit that started from pre-training.
        seen: domains whose unlabelled images were used in training.
        domains: all domains in display order.
        classes: class names; label *i* means ``classes[i]``.
        images: by domain.
        experiment: a hash of all that units of one table share, see ``identity.py``.
        versions: declared versions of norm, model and method, e.g. ``{"norm": 1}``.
        evaluations: every evaluated epoch × domain.
        curve: one row an epoch.
        method: name and parameters of the adaptation method, see ``identity.py``.
        changes: activation norms that the method changes; ``None`` for all. For other norms it is the identity.
        online: of a stream: predictions made when the images arrived.
        label_firewall: ``passed`` if the training was repeated with permuted target labels and all weights were equal.
        pretraining: the network it started from.
        parameters: numbers in the network, frozen ones too.
        cost: seconds, images per second, operations; see :class:`da_wa.train.train.Cost`.
        provenance: versions of packages, processor, device, precision, commit, command, ``started``, ``finished``.
        outputs: the checksum of ``outputs.npz``.
        error: of a unit that diverged.
    """

    schema_: Literal[2] = Field(2, alias="schema")
    id: str
    status: Literal["finished", "diverged"]
    factors: Factors
    labels: dict[str, str] = {}
    source: str
    target: str | None = None
    starts_from: str | None = None
    seen: list[str] = []
    domains: list[str]
    classes: list[str]
    images: dict[str, Images]
    experiment: str
    versions: dict[str, int] = {}
    evaluations: list[Evaluation]
    curve: list[EpochCurve] = []
    method: dict[str, Any] = {}
    changes: list[str] | None = None
    online: Evaluation | None = None
    label_firewall: Literal["passed"] | None = None
    pretraining: Pretraining | None = None
    parameters: int | None = None
    conversion: Conversion | None = None
    cost: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    outputs: Checksum | None = None
    error: Divergence | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    @property
    def targets(self) -> list[str]:
        """The domains that the unit transfers to, in display order."""
        return _targets(self.source, self.target, self.domains)

    @property
    def results(self) -> list[Result]:
        """Every evaluated domain's row under every selection rule, see :func:`select`."""
        return select(self.evaluations)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        flaws = [*self._flaws_of_domains(), *self._flaws_of_evaluations()]
        if (self.status == "diverged") != (self.error is not None):
            flaws.append("a diverged unit has an error, a finished one has none")
        if flaws:
            raise ValueError("; ".join(flaws))
        return self

    def _flaws_of_domains(self) -> Iterator[str]:
        if len(set(self.domains)) < len(self.domains):
            yield "a domain is listed twice"
        if unknown := {self.source, *self.targets, *self.images, *self.seen}.difference(self.domains):
            yield f"{_listed(unknown)} not among its domains"
        if self.target == self.source:
            yield "its target is its source"

    def _flaws_of_evaluations(self) -> Iterator[str]:
        rows = self.evaluations
        if self.status == "diverged":
            if rows:
                yield "a diverged unit has evaluations"
            return
        if stray := {row.domain for row in rows}.difference([self.source, *self.targets]):
            yield f"evaluations of {_listed(stray)}, neither source nor target"
        if any((row.role == "source") != (row.domain == self.source) for row in rows):
            yield "an evaluation has the wrong role"
        if len({(row.domain, row.epoch) for row in rows}) < len(rows):
            yield "a domain is evaluated twice in one epoch"
        last = max((row.epoch for row in rows), default=0)
        if absent := set(self.targets).difference(row.domain for row in rows if row.epoch == last):
            yield f"no evaluation of {_listed(absent)} in the last epoch"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def select(evaluations: Sequence[Evaluation]) -> list[Result]:
    """The rows of every domain under every selection rule; none without evaluations.

    ``last``: the last epoch. ``source_val``: the epoch with the best accuracy on held-out source images.
    ``target_oracle``: for each target the epoch with the best accuracy on that target, which uses its labels. Of
    equally good epochs the latest counts.

    >>> table = [("A", "source", 1, 9), ("A", "source", 2, 8), ("W", "target", 1, 4), ("W", "target", 2, 5)]
    >>> rows = [Evaluation(domain=d, role=r, epoch=e, correct=c, n=10) for d, r, e, c in table]
    >>> [(row.selection, row.epoch, row.correct) for row in select(rows) if row.domain == "W"]
    [('last', 2, 5), ('source_val', 1, 4), ('target_oracle', 2, 5)]
    """
    if not evaluations:
        return []

    def best(rows: Sequence[Evaluation]) -> int:
        return max(rows, key=lambda row: (row.correct, row.epoch)).epoch

    last = max(row.epoch for row in evaluations)
    on_source = [row for row in evaluations if row.role == "source"]
    chosen: dict[Selection, Callable[[str], int]] = {"last": lambda domain: last}
    if on_source:
        source_val = best(on_source)
        chosen["source_val"] = lambda domain: source_val
    chosen["target_oracle"] = lambda domain: best([row for row in evaluations if row.domain == domain])
    return [
        Result(**row.model_dump(), selection=selection)
        for selection, epoch_for in chosen.items()
        for row in evaluations
        if row.epoch == epoch_for(row.domain) and not (selection == "target_oracle" and row.role == "source")
    ]


class Plan(_Frozen):
    """A unit as it was planned, whether or not it was run; see :class:`Record` for the fields."""

    factors: Factors
    labels: dict[str, str] = {}
    source: str
    target: str | None = None
    domains: list[str]

    @property
    def targets(self) -> list[str]:
        """The domains that the unit transfers to, in display order."""
        return _targets(self.source, self.target, self.domains)


def _targets(source: str, target: str | None, domains: Sequence[str]) -> list[str]:
    return [domain for domain in domains if domain != source] if target is None else [target]


def parse(raw: Any, where: str) -> Record:
    """A record from plain values of schema 2.

    Raises:
        NewerVersion: it has a later schema.
        DataError: it is not a valid record; names the field.
    """
    if isinstance(raw, dict) and (schema := raw.get("schema")) != SCHEMA:
        told = f"{where} has schema {schema!r}; this version of da_wa reads 1 and {SCHEMA}."
        if isinstance(schema, int) and schema > SCHEMA:
            raise NewerVersion(f"{told} Use the later version that wrote it, or another out=DIR.")
        raise DataError(told)
    return validated(Record, raw, f"{where} is not a valid record")


def parse_plan(raw: Any, where: str) -> Plan:
    """A plan from plain values.

    Raises:
        DataError: it is not a valid plan; names the field.
    """
    return validated(Plan, raw, f"{where} is not a valid plan")


def validated(kind: type[_Model], raw: Any, complaint: str, advice: str = "") -> _Model:
    """Plain values as a validated type.

    Args:
        kind: the type.
        raw: nested plain values.
        complaint: the beginning of the message, e.g. ``study.json is not valid``.
        advice: its end, a sentence.

    Raises:
        DataError: they are not valid; names the first wrong field.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"{complaint}: {field + ': ' if field else ''}{first['msg']}."
        raise DataError(f"{what} {advice}".rstrip()) from None
