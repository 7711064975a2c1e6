"""The images of an experiment: manifests for planning, then decoded pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from da_wa.config.make import make
from da_wa.data.cache import DecodedDomain, StepProgress, decode_domains, read_manifests
from da_wa.data.domains import DomainSet
from da_wa.data.fitting import fitted
from da_wa.data.folders import ignored, with_folder
from da_wa.data.manifest import DomainManifest
from da_wa.errors import ConfigError, DataError, printable

_found: dict[str, DomainSet] = {}
_pretraining: dict[str, Sequence[DecodedDomain]] = {}


@dataclass(eq=False)
class Inputs:
    """The domains of an experiment, found, read and decoded once; experiments with the same options can share them.

    Attributes:
        data: the ``data`` options.
        cache_dir: where decoded images are kept.
        progress: called while files are hashed or decoded; it may be replaced.
    """

    data: Mapping[str, Any]
    cache_dir: Path
    progress: StepProgress | None = None

    def are_of(self, data: Mapping[str, Any], cache_dir: Path) -> bool:
        """Whether they were made from equal options."""
        return self.data == data and self.cache_dir == cache_dir

    @cached_property
    def domains(self) -> DomainSet:
        """Image files and labels.

        Raises:
            UserError: the data is wrong; the message says what and where.
        """
        domains: DomainSet = make(self.data["domains"])
        if not isinstance(domains, DomainSet):
            raise ConfigError(
                f"data.domains: {self.data['domains']['_target_']} returned a {type(domains).__name__}, not a "
                "DomainSet; make one with da_wa.data.domains.assemble, see docs/extending.md"
            )
        if self.data["classes"] == "common":  # digits, CIFAR and index files do not take the rule
            domains = domains.only_common_classes()
        for name, path in self.data["extra"].items():
            domains = with_folder(domains, name, path)
        if len(domains.domains) < 2:
            raise ConfigError(
                f"The dataset {domains.name} has only one domain, {domains.names[0]}. Add a second one to transfer to, "
                "or check data.root: it is the folder that holds the domains."
            )
        return fitted(domains, self.data.get("resize", "squash"), self.data.get("interpolation", "bilinear"))

    @cached_property
    def manifests(self) -> Sequence[DomainManifest]:
        """Labels and digests; no image is decoded.

        Raises:
            UserError: the data is wrong; the message says what and where.
        """
        found = read_manifests(self.domains, self.data["size"], self.cache_dir, self.data["on_bad"], self.progress)
        names: dict[str, str] = {}
        for manifest in found:
            if (other := names.setdefault(manifest.digest, manifest.name)) != manifest.name:
                raise DataError(
                    f"The domains {printable(other)} and {printable(manifest.name)} have the same images and labels: a "
                    "network would be tested on the images of its training. Leave one of them out or correct its path; "
                    "it may be a link or a copy."
                )
        return found

    @property
    def summary(self) -> str:
        """The dataset, the images of each domain and the number of classes, for the user to check."""
        counts = ", ".join(f"{printable(manifest.name)} {len(manifest)}" for manifest in self.manifests)
        return f"{printable(self.domains.name)}: {counts} images, {len(self.manifests[0].classes)} classes"

    @cached_property
    def decoded(self) -> Sequence[DecodedDomain]:
        """Pixels; decoded if they are not in the cache.

        Raises:
            UserError: images cannot be decoded; the message lists them.
        """
        return decode_domains(self.domains, self.data["size"], self.cache_dir, self.data["on_bad"], self.progress)


def refuse_among_images(data: Mapping[str, Any], written: Mapping[str, Path]) -> None:
    """Refuse to write where every folder is a domain, or a class, of the next command.

    Args:
        data: the ``data`` options.
        written: folders to write to, by the names of their options.

    Raises:
        ConfigError: one lies at or below such a place; hidden folders do not count.
    """
    root, folders = Path(str(data.get("root"))), data.get("folders", {})
    chosen = {"": ""} if folders is None else folders  # all of them
    places = [root / str(folder) for folder in chosen.values()] if isinstance(chosen, Mapping) else []
    for place in [*places, *map(Path, data["extra"].values())]:
        images = place.expanduser().resolve()
        for option, folder in written.items():
            path = folder.resolve()
            if path.is_relative_to(images) and not any(map(ignored, path.relative_to(images).parts)):
                raise ConfigError(
                    f"{option}={folder} lies in {images}, where every folder is a domain or a class of images. "
                    f"Choose a folder outside with {option}=DIR."
                )


def forget() -> None:
    """Clear the caches of pre-training images, which may change between two commands."""
    _found.clear()
    _pretraining.clear()


def find_pretraining(data: Mapping[str, Any]) -> DomainSet:
    """The files and labels of a configuration's ``pretrain.data``; found once per process, not decoded.

    Raises:
        UserError: the data is wrong; the message says what and where.
    """
    key = json.dumps(data)
    if key not in _found:
        _found[key] = make(data)
    return _found[key]


def load_pretraining(
    data: Mapping[str, Any], size: int, cache_dir: Path, progress: StepProgress | None = None
) -> Sequence[DecodedDomain]:
    """The decoded training and test images of a configuration's ``pretrain.data``; loaded once per process.

    Raises:
        UserError: the data is wrong; the message says what and where.
    """
    key = json.dumps([data, size, str(cache_dir)])
    if key not in _pretraining:
        _pretraining[key] = decode_domains(find_pretraining(data), size, cache_dir, "error", progress)
    return _pretraining[key]
