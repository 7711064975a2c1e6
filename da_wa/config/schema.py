"""Types of a whole experiment: the options, their types, ranges and names.

Every type says in words what it allows; :mod:`da_wa.config.validate` puts option and value before it. Nodes
of the user's own (a ``_target_`` outside ``da_wa``) may have further keys, which their target checks when it is
called. Anything that needs torch, the device or the data is checked later, before the first job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from da_wa.config import choices
from da_wa.errors import nearest


class Allowed:
    """The words for what a type allows; they replace pydantic's own messages."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("allowed", f"must be {self.text}") from error


class OneOf(Allowed):
    """One of some names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"one of {', '.join(names)}")
        self.names = tuple(names)

    def _check(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(value, str) or value not in self.names:
            hint = nearest(str(value).lower(), self.names)
            raise PydanticCustomError(
                "allowed",
                f"must be {self.text}{f'. {hint}' if hint.startswith('Did') else ''}",
            )
        return value


def _rule(text: str) -> PydanticCustomError:
    """Options that do not fit together; the text starts with one of them."""
    return PydanticCustomError("rule", text)


def _usable_folder(path: str) -> str:
    """No part longer than file systems allow, with room for the files inside; not an existing file."""
    if not path.strip() or "\0" in path or len(os.fsencode(path)) > 3500:
        raise ValueError
    if any(len(os.fsencode(part)) > 255 for part in Path(path).parts) or Path(path).is_file():
        raise ValueError
    return path


def _existing(path: str) -> str:
    if not Path(path).expanduser().exists():
        raise ValueError
    return path


def _existing_folder(path: str) -> str:
    if not Path(path).is_dir():
        raise ValueError
    return path


def _unit(text: str) -> Any:
    return Allowed(f"three numbers {text}, for red, green and blue of images in 0…1 (divide values of 0…255 by 255)")


_Int = Annotated[int, Field(strict=True)]
_Float = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Str = Annotated[str, Field(strict=True, min_length=1)]
_Auto = Annotated[str, Field(strict=True, pattern="^auto$")]
_Bool = Annotated[bool, Field(strict=True)]
_AtLeastOne = Annotated[_Int, Field(ge=1)]
_SeedInt = Annotated[_Int, Field(ge=0, lt=2**32)]

Text = Annotated[_Str, Allowed("text; put quotes around a number")]
Flag = Annotated[_Bool, Allowed("true or false")]
AutoFlag = Annotated[_Bool | _Auto, Allowed("true, false or auto")]
Count = Annotated[_AtLeastOne, Allowed("a whole number, 1 or more")]
Counts = Annotated[list[_AtLeastOne], Field(min_length=1), Allowed("a list of whole numbers, 1 or more, e.g. [3,3,3]")]
Pixels = Annotated[_AtLeastOne, Field(le=4096), Allowed("a whole number of pixels, 1 to 4096")]
Several = Annotated[Annotated[_AtLeastOne, Field(le=1024)] | _Auto, Allowed("auto or a whole number, 1 to 1024")]
Seed = Annotated[_SeedInt, Allowed("a whole number, 0 or more")]
Seeds = Annotated[
    list[_SeedInt], Field(min_length=1), Allowed("a list of whole numbers, 0 or more, e.g. seeds=[0,1,2]")
]
Positive = Annotated[_Float, Field(ge=0), Allowed("a number, 0 or more")]
Fraction = Annotated[_Float, Field(ge=0, le=1), Allowed("a number from 0 to 1")]
Fractions = Annotated[list[Annotated[_Float, Field(ge=0, le=1)]], Allowed("a list of numbers from 0 to 1")]
Below1 = Annotated[_Float, Field(ge=0, lt=1), Allowed("a number, 0 or more and less than 1")]
Between0and1 = Annotated[_Float, Field(gt=0, lt=1), Allowed("a number between 0 and 1, e.g. 0.1")]
Mean = Annotated[list[Annotated[_Float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3), _unit("from 0 to 1")]
Std = Annotated[
    list[Annotated[_Float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3), _unit("above 0 and up to 1")
]
NormNames = Annotated[
    list[_Str], Field(min_length=1), Allowed("a list of names of norms, e.g. norms=[bn,bn_wa]; see `da-wa list norms`")
]
ModelNames = Annotated[
    list[_Str], Field(min_length=1), Allowed("a list of names of models, e.g. models=[resnet20,resnet18], or null")
]
Sources = Annotated[
    list[_Str] | Annotated[str, Field(strict=True, pattern="^all$")],
    Allowed("all or a list of domains, e.g. sources=[A,W]"),
]
Paths = Annotated[dict[_Str, _Str], Allowed("names and paths, e.g. {C: data/caltech}; {} for none")]
Sizes = Annotated[dict[_Str, _AtLeastOne], Allowed("a number of images for each domain, e.g. {A:415,D:73,W:130}")]
Rates = Annotated[dict[_Str, Positive], Allowed("a learning rate for each of some norms, e.g. {wa: 0.05}")]
Folder = Annotated[
    _Str,
    AfterValidator(_usable_folder),
    Allowed("a folder to write to, no part of its path longer than 255 bytes; a number needs ./ before it"),
]
Checkpoint = Annotated[_Str, AfterValidator(_existing), Allowed("a .safetensors file or a folder of them that exists")]
OtherExperiments = Annotated[
    list[Annotated[_Str, AfterValidator(_existing_folder)]],
    Allowed("a list of existing out folders of other experiments, e.g. [out/first,out/second]; [] for none"),
]


class Node(BaseModel):
    """Options with known names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Part(BaseModel):
    """A callable and its arguments; those unknown here are checked when it is called."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    target: Text = Field(alias="_target_")


def _kind(*path: str) -> Discriminator:
    """Tell nodes of the package from the user's own, by the ``_target_`` found at ``path``."""

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


class Report(Node):
    """What the report shows."""

    images: Flag
    compare: OtherExperiments
    spread: Annotated[str, OneOf(choices.SPREADS)]


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
    methods: Annotated[
        list[Annotated[str, OneOf(choices.METHODS)]],
        Field(min_length=1),
        Allowed(f"a list of methods; known: {', '.join(choices.METHODS)}"),
    ]
    sources: Sources
    seeds: Seeds
    keep: Annotated[
        list[Annotated[str, OneOf(choices.KEEP)]] | None,
        Allowed(f"null or a list of {' and '.join(choices.KEEP)}"),
    ]
    out: Folder
    checkpoint_dir: Folder | None
    cache_dir: Folder | None
    normalize: Normalize
