"""Types of single options. Each describes the allowed values in words, which replace pydantic's messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, StrictBool, StrictInt, ValidationError
from pydantic_core import PydanticCustomError, core_schema

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


def _usable_folder(path: str) -> str:
    """No part longer than file systems allow, with room for the files inside; not an existing file."""
    if not path.strip() or "\0" in path or len(os.fsencode(path)) > 3500:
        raise ValueError
    if any(len(os.fsencode(part)) > 255 for part in Path(path).parts) or os.path.isfile(path):
        raise ValueError
    return path


def _not_empty(values: Any) -> Any:
    if not values:
        raise ValueError
    return values


def _existing(path: str) -> str:
    if not os.path.exists(os.path.expanduser(path)):
        raise ValueError
    return path


def _existing_folder(path: str) -> str:
    if not os.path.isdir(os.path.expanduser(path)):
        raise ValueError
    return path


def _unit(text: str) -> Any:
    return Allowed(f"three numbers {text}, for red, green and blue of images in 0…1 (divide values of 0…255 by 255)")


Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Annotated[str, Field(strict=True, min_length=1)]
_Auto = Annotated[str, Field(strict=True, pattern="^auto$")]
_AtLeastOne = Annotated[StrictInt, Field(ge=1)]
_SeedInt = Annotated[StrictInt, Field(ge=0, lt=2**32)]

Text = Annotated[Name, Allowed("text; put quotes around a number")]
Flag = Annotated[StrictBool, Allowed("true or false")]
AutoFlag = Annotated[StrictBool | _Auto, Allowed("true, false or auto")]
AutoCrop = Annotated[
    Annotated[Finite, Field(gt=0, le=1)] | _Auto, Allowed("auto or a number above 0, up to 1, e.g. 0.875")
]
Count = Annotated[_AtLeastOne, Allowed("a whole number, 1 or more")]
Whole = Annotated[Annotated[StrictInt, Field(ge=0)], Allowed("a whole number, 0 or more")]
Counts = Annotated[list[_AtLeastOne], Field(min_length=1), Allowed("a list of whole numbers, 1 or more, e.g. [3,3,3]")]
Pixels = Annotated[_AtLeastOne, Field(le=4096), Allowed("a whole number of pixels, 1 to 4096")]
Several = Annotated[Annotated[_AtLeastOne, Field(le=1024)] | _Auto, Allowed("auto or a whole number, 1 to 1024")]
Seed = Annotated[_SeedInt, Allowed("a whole number, 0 or more")]
Seeds = Annotated[
    list[_SeedInt], Field(min_length=1), Allowed("a list of whole numbers, 0 or more, e.g. seeds=[0,1,2]")
]
Epochs = Annotated[list[_SeedInt], Allowed("a list of whole numbers, 0 or more, e.g. [0,1,10]")]
SeedsOrAuto = Annotated[
    list[_SeedInt] | _Auto,
    AfterValidator(_not_empty),
    Allowed("a list of whole numbers, 0 or more, e.g. seeds=[0,1,2], or auto (then up to seeds_max=20)"),
]
Levels = Annotated[
    list[Name], Allowed("a list of levels to compare with their base, e.g. report.contrasts=[align,dann], or null")
]
Positive = Annotated[Finite, Field(ge=0), Allowed("a number, 0 or more")]
Memory = Annotated[Annotated[Finite, Field(gt=0)] | None, Allowed("null or a number above 0")]
Fraction = Annotated[Finite, Field(ge=0, le=1), Allowed("a number from 0 to 1")]
Fractions = Annotated[list[Annotated[Finite, Field(ge=0, le=1)]], Allowed("a list of numbers from 0 to 1")]
Below1 = Annotated[Finite, Field(ge=0, lt=1), Allowed("a number, 0 or more and less than 1")]
Between0and1 = Annotated[Finite, Field(gt=0, lt=1), Allowed("a number between 0 and 1, e.g. 0.1")]
Mean = Annotated[list[Annotated[Finite, Field(ge=0, le=1)]], Field(min_length=3, max_length=3), _unit("from 0 to 1")]
Std = Annotated[
    list[Annotated[Finite, Field(gt=0, le=1)]], Field(min_length=3, max_length=3), _unit("above 0 and up to 1")
]
NormNames = Annotated[
    list[Name],
    Field(min_length=1),
    Allowed("a list of names of norms, e.g. norms=[bn,bn_wa]; see `da-wa list norms`"),
]
ModelNames = Annotated[
    list[Name], Field(min_length=1), Allowed("a list of names of models, e.g. models=[resnet20,resnet18], or null")
]
MethodNames = Annotated[
    list[Name],
    Field(min_length=1),
    Allowed("a list of names of methods, e.g. methods=[none,mcc]; see `da-wa list methods`"),
]
Scores = Annotated[
    list[Name], Allowed("a list of label-free scores, e.g. select=[entropy,im] ([] for none), or null for all")
]
Sources = Annotated[
    list[Name] | Annotated[str, Field(strict=True, pattern="^all$")],
    Allowed("all or a list of domains, e.g. sources=[A,W]"),
]
Paths = Annotated[dict[Name, Name], Allowed("names and paths, e.g. {C: data/caltech}; {} for none")]
Sizes = Annotated[dict[Name, _AtLeastOne], Allowed("a number of images for each domain, e.g. {A:415,D:73,W:130}")]
Rates = Annotated[dict[Name, Positive], Allowed("a learning rate for each of some norms, e.g. {wa: 0.05}")]
Lengths = Annotated[dict[Name, _AtLeastOne], Allowed("a number of epochs for each of some norms, e.g. {bn: 4}")]
Gpus = Annotated[
    Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)] | _Auto,
    Allowed("auto or a list of numbers of GPUs, e.g. [0,1]"),
]
Commands = Annotated[
    list[Name], Allowed("a list of shell commands, e.g. 'launcher.setup=[\"module load cuda\"]'; [] for none")
]
Folder = Annotated[
    Name,
    AfterValidator(_usable_folder),
    Allowed("a folder to write to, no part of its path longer than 255 bytes; a number needs ./ before it"),
]
Checkpoint = Annotated[Name, AfterValidator(_existing), Allowed("a .safetensors file or a folder of them that exists")]
OtherExperiments = Annotated[
    list[Annotated[Name, AfterValidator(_existing_folder)]],
    Allowed("a list of existing out folders of other experiments, e.g. [out/first,out/second]; [] for none"),
]
