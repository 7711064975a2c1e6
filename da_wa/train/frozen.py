"""Bottleneck and head on the features of a frozen network, trained by gradient descent, with adaptation or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from da_wa.adapt.method import Method
from da_wa.data.augment import Stored, View
from da_wa.data.crops import central
from da_wa.data.datamodule import Subset
from da_wa.errors import ConfigError
from da_wa.models.backbone import Backbone
from da_wa.models.bottleneck import Bottleneck
from da_wa.train.features import Extractor
from da_wa.train.recipe import Recipe
from da_wa.train.subsets import Subsets


@dataclass(frozen=True)
class Frozen(Recipe):
    """Gradient descent on a bottleneck and a head; the network before them is frozen.

    Attributes:
        augment: features are shown as they are.
        input: how images are shown to the network, see :func:`~da_wa.data.crops.central`.
        width: of the bottleneck.
        name: in the identity of runs.
    """

    augment: Callable[[Tensor], Tensor] = field(default_factory=Stored)
    input: Mapping[str, Any] = field(default_factory=dict)
    width: int = 256
    name: str = "features"
    trains_network: ClassVar[bool] = False
    new_head: ClassVar[bool] = True

    @property
    def view(self) -> View:
        return central(**self.input)

    def on_features(self) -> Frozen:
        """The same training on features, which have no size."""
        return replace(self, input={})

    def network(self, backbone: Backbone) -> Bottleneck:
        return Bottleneck(backbone, self.width)

    def adapted(self, backbone: Backbone, method: Method, changes: Sequence[str] | None) -> Backbone:
        if changes is not None:
            raise ConfigError(f"it changes norms ({', '.join(changes)}) of the network, which is frozen; {_INSTEAD}")
        if method.views:
            raise ConfigError(f"it compares two views of each image, and each has one vector of features; {_INSTEAD}")
        return self.network(backbone).on_features()


_INSTEAD = "use finetune=default or finetune=imagenet with it"


def on_features(subsets: Subsets, extract: Extractor) -> tuple[Subsets, int]:
    """The same subsets of domains whose images are features, (n, d, 1, 1) float32.

    Returns:
        The subsets, and the number of images whose features were computed now.

    Raises:
        DataError: features that cannot be computed or kept.
    """
    images = [subset for subset in (subsets.train, subsets.target, *subsets.evaluate) if subset is not None]
    found, computed = extract(list({subset.domain.name: subset.domain for subset in images}.values()))
    mixed, more = extract([made.images.domain for made in subsets.mixed])
    return (
        replace(
            subsets,
            train=None if subsets.train is None else _swapped(subsets.train, found),
            target=None if subsets.target is None else _swapped(subsets.target, found),
            evaluate=[_swapped(subset, found) for subset in subsets.evaluate],
            mixed=[replace(made, images=_swapped(made.images, mixed)) for made in subsets.mixed],
        ),
        computed + more,
    )


def _swapped(subset: Subset, features: Mapping[str, np.ndarray]) -> Subset:
    domain = subset.domain
    return replace(subset, domain=replace(domain, pixels=features[domain.name][:, :, None, None]))
