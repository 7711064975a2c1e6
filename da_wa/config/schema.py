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
    StrictBool,
    StrictInt,
    Tag,
    model_validator,
)

from da_wa.config import choices
from da_wa.config.nodes import Node, Part, kind_at, rule
from da_wa.config.recipe_types import AnyRecipe, Recipe
from da_wa.config.types import (
    Allowed,
    AutoFlag,
    Below1,
    Between0and1,
    Checkpoint,
    Commands,
    Count,
    Counts,
    Epochs,
    Finite,
    Flag,
    Folder,
    Gpus,
    Lengths,
    Levels,
    Mean,
    Memory,
    MethodNames,
    ModelNames,
    Name,
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
    Whole,
)


class Data(BaseModel):
    """What every data group has."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: Text
    size: Pixels
    on_bad: Annotated[str, OneOf(choices.ON_BAD)]
    resize: Annotated[str, OneOf(choices.RESIZES)] = "squash"
    interpolation: Annotated[str, OneOf(choices.INTERPOLATIONS)] = "bilinear"
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
    per_class: Annotated[StrictInt, Field(ge=1, le=87), Allowed("a whole number, 1 to 87")] = 1
    folders: Paths | None = None
    lists: Paths = {}
    class_names: Text | None = None
    codes: list[Text] | None = None


class Model(BaseModel):
    """What every model has."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: Text
    version: Count = 1
    weights: Text | None = None
    build: Part

    @model_validator(mode="after")
    def _weights_of_a_library(self) -> Model:
        if self.weights is not None and "library" not in (self.build.model_extra or {}):
            raise rule(
                f"weights={self.weights}: {self.name} is not a network of another library; "
                "give your own file of it with pretrain.checkpoint=FILE, see docs/extending.md"
            )
        return self


class Build(Part):
    """Options that networks of the package share."""

    depths: Counts = Field(default=[1])
    widths: Counts = Field(default=[1])
    gain_init: Annotated[str, OneOf(choices.GAIN_INITS)] = "one"

    @model_validator(mode="after")
    def _same_length(self) -> Build:
        if {"depths", "widths"} <= self.model_fields_set and len(self.depths) != len(self.widths):
            raise rule(f"depths={self.depths} and widths={self.widths} must have the same length")
        return self


class ModelFactors(Node):
    """The levels of a trained network where its norm is kept, and what it was trained on."""

    weight: Text = "plain"
    activation: Text = "none"
    pretraining: Text | None = None


class ShippedModel(Model):
    """The options of ``conf/model``; ``library``, ``options`` and ``factors`` are of networks from other libraries."""

    model_config = ConfigDict(extra="forbid")
    library: Text | None = None
    options: dict[str, Any] = {}
    factors: ModelFactors | None = None
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
    norm: Text | None = None
    keep_head: Flag = False
    holdout: Below1 = 0.0
    rates: Rates = {}
    epochs: Lengths = {}
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
    return str(kind_at("data").discriminator(node))  # type: ignore[operator]


class OwnProtocol(Part):
    """A protocol of the user's own; its ``name`` is in captions and records."""

    name: Text


class ShippedProtocol(Part):
    """The options of ``conf/protocol``; see :mod:`da_wa.data.splits`."""

    name: Text
    holdout: Between0and1 = 0.1
    sizes: Sizes | None = None


class Trainer(Node):
    """See :class:`da_wa.train.settings.Settings`."""

    target: Text = Field(alias="_target_")
    accelerator: Annotated[str, OneOf(choices.ACCELERATORS)]
    precision: Annotated[str, OneOf(choices.PRECISIONS)]
    channels_last: AutoFlag
    compile: Annotated[
        StrictBool | Name | None, Allowed("null, true, false, or the name of a mode or backend of torch.compile")
    ]
    fused: AutoFlag
    deterministic: Flag
    save_every_s: Positive
    resident_gb: Positive

    @model_validator(mode="after")
    def _half_on_cpu(self) -> Trainer:
        if (self.accelerator, self.precision) == ("cpu", "16-mixed"):
            raise rule("precision=16-mixed needs a GPU; use bf16-mixed or 32-true with accelerator=cpu")
        return self


class Launcher(Part):
    """A way to run jobs, and the options that launchers share."""

    workers: Several = "auto"
    threads: Several = "auto"
    deadline_s: Annotated[Annotated[Finite, Field(ge=0)] | None, Allowed("null or a number of seconds, 0 or more")] = (
        None
    )
    lease_s: Annotated[Finite, Field(gt=0), Allowed("a number of seconds, more than 0")] = 120.0
    detach: Flag = False


class ShippedLauncher(Launcher):
    """The options of ``conf/launcher``; those of SLURM that are texts for ``sbatch`` are checked by it."""

    gpus: Gpus = "auto"
    units_per_gpu: Count = 1
    cpus_per_worker: Count = 1
    gpus_per_worker: Whole = 1
    mem_gb: Memory = None
    signal_s: Count = 1
    setup: Commands = Field(default_factory=list)
    sbatch: dict[str, Any] = Field(default_factory=dict)
    cpus_per_unit: Count = 1
    gpus_per_unit: Positive = 0.0
    retries: Whole = 0
    runtime_env: dict[str, Any] = Field(default_factory=dict)


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


AnyModel = Annotated[Annotated[Model, Tag("<own>")] | Annotated[ShippedModel, Tag("<shipped>")], kind_at("build")]


class Config(Node):
    """The whole composed configuration, as ``--cfg`` prints it."""

    data: Annotated[Annotated[Data, Tag("<own>")] | Annotated[ShippedData, Tag("<shipped>")], kind_at("domains")]
    model: AnyModel
    pretrain: Annotated[
        Annotated[Untrained, Tag("<none>")]
        | Annotated[Pretraining, Tag("<own>")]
        | Annotated[ShippedPretraining, Tag("<shipped>")],
        Discriminator(_pretraining),
    ]
    finetune: AnyRecipe
    protocol: Annotated[Annotated[OwnProtocol, Tag("<own>")] | Annotated[ShippedProtocol, Tag("<shipped>")], kind_at()]
    trainer: Trainer
    launcher: Annotated[Annotated[Launcher, Tag("<own>")] | Annotated[ShippedLauncher, Tag("<shipped>")], kind_at()]
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
    keep_epochs: Epochs
    out: Folder
    checkpoint_dir: Folder | None
    cache_dir: Folder | None
    normalize: Normalize

    @model_validator(mode="after")
    def _keeps_epochs_that_are_trained(self) -> Config:
        epochs = getattr(self.finetune, "epochs", 0)
        if late := [epoch for epoch in self.keep_epochs if epoch > epochs]:
            raise rule(f"keep_epochs={late}: must be at most the number of epochs, finetune.epochs={epochs}")
        return self
