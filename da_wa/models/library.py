"""Where networks with trained weights come from, in general; :mod:`~da_wa.models.libraries` has those that exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from da_wa.models.backbone import Expected

State = Mapping[str, Tensor]


class Library(Protocol):
    """Where a network comes from."""

    @property
    def name(self) -> str:
        """The network's name."""

    def build(self, state: State | None) -> nn.Module:
        """The network, classifier included, with the weights ``state``; None: with its initialisation.

        Raises:
            ConfigError: there is no such network, or an argument that it does not take.
            RuntimeError: ``state`` has missing or foreign keys, or other shapes.
        """

    def classifier(self, network: nn.Module) -> str:
        """The path of its classifier."""

    def expects(self, network: nn.Module) -> Expected:
        """The images that it expects."""

    def published(self) -> Path:
        """The file of its published weights, downloaded if it is not in the library's cache.

        Raises:
            WeightsError: there are none, or they cannot be downloaded.
        """
