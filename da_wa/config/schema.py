"""Types of a whole experiment: the options, their types, ranges and names.

Every type describes the allowed values in words; :mod:`da_wa.config.validate` adds option and value. The user's own
nodes (with a ``_target_`` outside ``da_wa``) may have further keys, which the target checks when it is called. What
depends on torch, the device or the data is checked later, before the first job.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from da_wa.config import choices
from da_wa.config.types import (
    Allowed,
    AutoFlag,
    Below1,
    Between0and1,
    Checkpoint,
    Count,
    Counts,
    Flag,
    Folder,
    Fraction,
    Fractions,
    Levels,
    Mean,
    MethodNames,
    ModelNames,
    NormNames,
    OneOf,
    OtherExperiments,
    Paths,
    Pixels,
    Positive,
    Rates,
    Scores,
    Seed,
    Seeds,
    SeedsOrAuto,
    Several,
    Sizes,
    Sources,
    Std,
    Text,
    _Bool,
    _Float,
    _Int,
    _Str,
)


def _rule(text: str) -> PydanticCustomError:
    """Options that do not fit together; the text starts with one of them."""
    return PydanticCustomError("rule", text)


class Node(BaseModel):
    """Options with known names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Part(BaseModel):
    """A callable and its arguments; those unknown here are checked when it is called."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    target: Text = Field(alias="_target_")


def _kind(*path: str) -> Discriminator:
    """Distinguish nodes of the package from the user's own, by the ``_target_`` at ``path``."""

    def kind(node: Any) -> str:
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        target = node.get("_target_") if isinstance(node, dict) else None
        return "<own>" if isinstance(target, str) and not target.startswith("da_wa.") else "<shipped>"

    return Discriminator(kind)


def _named(node: Any) -> str:
    return "<own>" if isinstance(node, dict) and "_target_" in node else "<shipped>"


Own = Annotated[Part, Tag("<own>")]


class Optimizer(BaseModel):
    """A ``torch.optim`` class by its name in lower case, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Annotated[str, OneOf(tuple(choices.OPTIMIZERS))]
    lr: Positive
    momentum: Fraction = 0.0
    weight_decay: Positive = 0.0


class Schedule(Node):
    """A function of ``da_wa.train.schedule`` by name, with its arguments."""

    name: Annotated[str, OneOf(tuple(choices.SCHEDULES))]
    warmup: Fraction = 0.0
    start: Fraction = 0.0
    at: Fractions = []

    @model_validator(mode="after")
    def _own_options(self) -> Schedule:
        if others := sorted(self.model_fields_set - {"name", *choices.SCHEDULES[self.name]}):
            raise _rule(f"{others[0]}={getattr(self, others[0])}: {self.name} has no such option")
        return self


class Augment(Node):
    """See :class:`da_wa.data.augment.Augment`."""

    crop: Fraction
    flip: Flag
    erase: Fraction


class Recipe(Node):
    """See :class:`da_wa.train.recipe.Recipe`."""

    epochs: Count
    batch_size: Count
    optimizer: Annotated[Own | Annotated[Optimizer, Tag("<shipped>")], Discriminator(_named)]
    schedule: Annotated[Own | Annotated[Schedule, Tag("<shipped>")], Discriminator(_named)]
    augment: Annotated[Own | Annotated[Augment, Tag("<shipped>")], Discriminator(_named)]
    label_smoothing: Below1 = 0.0
    evaluations: Count = 1


class Data(BaseModel):
    """What every data group has."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Text
    size: Pixels
    on_bad: Annotated[str, OneOf(choices.ON_BAD)]
    classes: Annotated[str, OneOf(choices.CLASS_RULES)]
    extra: Paths
    domains: Part


class ShippedData(Data):
    """The options of ``conf/data``."""

    model_config = ConfigDict(extra="forbid")
    root: Text = "."
    download: Flag = False
    verify: Flag = False
    seed: Seed = 0
    per_class: Annotated[_Int, Field(ge=1, le=87), Allowed("a whole number, 1 to 87")] = 1
    folders: Paths | None = None
    lists: Paths = {}
    class_names: Text | None = None
    codes: list[Text] | None = None


class Model(BaseModel):
    """What every model has."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: Text
    version: Count = 1
    build: Part


class Build(Part):
    """Options that networks of the package share."""

    depths: Counts = [1]
    widths: Counts = [1]
    gain_init: Annotated[str, OneOf(choices.GAIN_INITS)] = "one"

    @model_validator(mode="after")
    def _same_length(self) -> Build:
        if {"depths", "widths"} <= self.model_fields_set and len(self.depths) != len(self.widths):
            raise _rule(f"depths={self.depths} and widths={self.widths} must have the same length")
        return self


class ShippedModel(Model):
    """The options of ``conf/model``."""

    model_config = ConfigDict(extra="forbid")
    gain_init: Annotated[str, OneOf(choices.GAIN_INITS)] = "one"
    build: Build


class Untrained(BaseModel):
    """No pre-training: networks start from ``checkpoint``, or from their initialisation."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Text
    checkpoint: Checkpoint | None


class Pretraining(Untrained):
    """What every pre-training has."""

    label: Text
    dtype: Annotated[str, OneOf(choices.DTYPES)]
    seed: Seed
    seeds: Seeds | None = None
    holdout: Below1 = 0.0
    rates: Rates = {}
    size: Pixels
    verify: Flag
    recipe: Recipe
    data: Part


class ShippedPretraining(Pretraining):
    """The options of ``conf/pretrain``."""

    model_config = ConfigDict(extra="forbid")
    root: Text
    download: Flag


def _pretraining(node: Any) -> str:
    if isinstance(node, dict) and "recipe" in node and node["recipe"] is None:
        return "<none>"
    return str(_kind("data").discriminator(node))  # type: ignore[operator]


class ShippedProtocol(Part):
    """The options of ``conf/protocol``; see :mod:`da_wa.data.splits`."""

    name: Text
    holdout: Between0and1
    sizes: Sizes | None = None


class Trainer(Node):
    """See :class:`da_wa.train.settings.Settings`."""

    target: Text = Field(alias="_target_")
    accelerator: Annotated[str, OneOf(choices.ACCELERATORS)]
    precision: Annotated[str, OneOf(choices.PRECISIONS)]
    channels_last: AutoFlag
    compile: Annotated[
        _Bool | _Str | None, Allowed("null, true, false, or the name of a mode or backend of torch.compile")
    ]
    fused: AutoFlag
    deterministic: Flag
    save_every_s: Positive
    resident_gb: Positive

    @model_validator(mode="after")
    def _half_on_cpu(self) -> Trainer:
        if (self.accelerator, self.precision) == ("cpu", "16-mixed"):
            raise _rule("precision=16-mixed needs a GPU; use bf16-mixed or 32-true with accelerator=cpu")
        return self


class Launcher(Part):
    """A way to run jobs, and the options that launchers share."""

    workers: Several = "auto"
    threads: Several = "auto"
    deadline_s: Annotated[Annotated[_Float, Field(ge=0)] | None, Allowed("null or a number of seconds, 0 or more")] = (
        None
    )
    lease_s: Annotated[_Float, Field(gt=0), Allowed("a number of seconds, more than 0")] = 120.0
    detach: Flag = False


class Report(Node):
    """What the report shows."""

    images: Flag
    compare: OtherExperiments
    spread: Annotated[str, OneOf(choices.SPREADS)]
    select: Scores | None = None
    guard: Flag = True
    contrasts: Levels | None = None


class Normalize(Node):
    """See :class:`da_wa.data.augment.Normalize`."""

    mean: Mean
    std: Std


class Factors(Node):
    """The levels of a norm in comparisons."""

    weight: Text
    activation: Text


class Norm(Part):
    """A file of ``conf/norm``."""

    label: Text
    version: Count = 1
    factors: Factors | None = None


class SourceOnly(Node):
    """No adaptation: one unit per source, evaluated on every other domain."""

    label: Text
    phase: Annotated[str, OneOf(("source",))]


class Joint(Node):
    """A method that trains on source and target images together, with the recipe of ``finetune``."""

    label: Text
    phase: Annotated[str, OneOf(("joint",))]
    version: Count = 1
    changes: list[Text] | None = None
    statistics: Annotated[str, OneOf(choices.STATISTICS)]
    weight: Annotated[
        Positive | Annotated[list[Positive], Field(min_length=1)], Allowed("a number, 0 or more, or a list of them")
    ]
    build: Part


class TargetOnly(Node):
    """A method that starts from the network trained on the source; ``recipe`` changes that of ``finetune``."""

    label: Text
    phase: Annotated[str, OneOf(("target",))]
    version: Count = 1
    changes: list[Text] | None = None
    recipe: Recipe
    build: Part


class Streaming(TargetOnly):
    """Likewise; the target arrives in batches, once."""

    phase: Annotated[str, OneOf(("stream",))]
    order: Annotated[str, OneOf(choices.STREAM_ORDERS)]


class UnknownPhase(BaseModel):
    """Any other ``phase``."""

    model_config = ConfigDict(extra="allow")
    phase: Annotated[str, OneOf(("source", "joint", "target", "stream"))]


def _phase(node: Any) -> str:
    phase = node.get("phase") if isinstance(node, dict) else None
    return f"<{phase}>" if phase in ("source", "joint", "target", "stream") else "<unknown>"


AnyMethod = Annotated[
    Annotated[SourceOnly, Tag("<source>")]
    | Annotated[Joint, Tag("<joint>")]
    | Annotated[TargetOnly, Tag("<target>")]
    | Annotated[Streaming, Tag("<stream>")]
    | Annotated[UnknownPhase, Tag("<unknown>")],
    Discriminator(_phase),
]


AnyModel = Annotated[Annotated[Model, Tag("<own>")] | Annotated[ShippedModel, Tag("<shipped>")], _kind("build")]


class Config(Node):
    """The whole composed configuration, as ``--cfg`` prints it."""

    data: Annotated[Annotated[Data, Tag("<own>")] | Annotated[ShippedData, Tag("<shipped>")], _kind("domains")]
    model: AnyModel
    pretrain: Annotated[
        Annotated[Untrained, Tag("<none>")]
        | Annotated[Pretraining, Tag("<own>")]
        | Annotated[ShippedPretraining, Tag("<shipped>")],
        Discriminator(_pretraining),
    ]
    finetune: Recipe
    protocol: Annotated[Own | Annotated[ShippedProtocol, Tag("<shipped>")], _kind()]
    trainer: Trainer
    launcher: Launcher
    logger: dict[str, Part]
    report: Report
    norms: NormNames
    models: ModelNames | None
    methods: MethodNames
    label_firewall: Flag
    sources: Sources
    seeds: SeedsOrAuto
    seeds_max: Count
    keep: Annotated[
        list[Annotated[str, OneOf(choices.KEEP)]] | None,
        Allowed(f"null or a list of {' and '.join(choices.KEEP)}"),
    ]
    out: Folder
    checkpoint_dir: Folder | None
    cache_dir: Folder | None
    normalize: Normalize
