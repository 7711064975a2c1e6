"""Conversion: give a trained network of any library another :class:`~da_wa.norm.spec.Norm`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import nn

from da_wa.errors import ConfigError, nearest
from da_wa.norm.anatomy import MAP_NORMS, behind_norm, channels, computes_as_conv2d, rebuild, replace, trace
from da_wa.norm.folding import absorb_batch_norms
from da_wa.norm.normalised_conv import GainConv2d, NormalisedConv2d
from da_wa.norm.spec import Norm

log = logging.getLogger(__name__)
GainInit = Literal["match", "one"]


@dataclass(frozen=True)
class Change:
    """What became of one layer.

    Attributes:
        path: its name in the model.
        before: its class.
        after: the class that took its place; ``None`` if it was left as it was.
        note: why it was left, or what could not be kept.
    """

    path: str
    before: str
    after: str | None
    note: str = ""

    def __str__(self) -> str:
        what = f"{self.before} left" if self.after is None else f"{self.before} -> {self.after}"
        return f"{what} ({self.note})" if self.note else what


@dataclass(frozen=True)
class Account:
    """What :func:`convert` did to a model, layer by layer; as text, alike changes share a line."""

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines()) or "there is nothing to convert"

    def _lines(self, most: int = 4) -> Iterator[str]:
        for what, group in groupby(sorted(self.changes, key=str), key=str):
            paths = [change.path for change in group]
            more = f", … {len(paths) - most} more" if len(paths) > most else ""
            yield f"{len(paths):4d} × {what}: {', '.join(paths[:most])}{more}"


def convert(
    model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match"
) -> nn.Module:
    """A copy of ``model`` with the convolutions and activation norms of ``norm``, trained weights kept.

    Convolutions keep weight and bias. Norms keep what they have in common with the new ones (BatchNorm's
    affine, and its statistics if the new one has such). Where ``norm`` has no activation norm, each BatchNorm is
    first multiplied into the convolution before it, as in :func:`~da_wa.norm.folding.fold_batch_norm`. The
    classifier and the network's non-linearities are left alone, so FRN goes without its TLU and the ReLU
    behind EvoNorm-S0 stays. :func:`survey` tells all of it beforehand.

    Filters that lose their mean change what a kept BatchNorm sees; to evaluate without fine-tuning, estimate
    its statistics again with ``torch.optim.swa_utils.update_bn``.

    Args:
        model: any network of 2-d convolutions and batch, group, layer or instance norms of their maps.
        norm: what to give it, e.g. ``named("bn_wa")``.
        skip: names of layers, or of modules with all they contain, to leave alone besides the classifier.
        gain_init: ``match`` sets gains so that filters keep their scale, and the network computes what it did
            but for the removed means; ``one`` sets them to 1, as in a network trained from the start.

    Raises:
        ConfigError: an unknown name in ``skip``, an unknown ``gain_init``, a model that is converted already, or
            one whose classifier cannot be found and is not named in ``skip``.
    """
    model, account = _convert(model, norm, skip, gain_init)
    log.info("%s:\n%s", norm.label, account)
    return model


def survey(model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match") -> Account:
    """What :func:`convert` with the same arguments does: ``print(survey(model, norm))``."""
    return _convert(model, norm, skip, gain_init)[1]


def _convert(model: nn.Module, norm: Norm, skip: Collection[str], gain_init: GainInit) -> tuple[nn.Module, Account]:
    if gain_init not in ("match", "one"):
        raise ConfigError(f"there is no gain_init {gain_init!r}. {nearest(gain_init, ('match', 'one'))}")
    model = copy.deepcopy(model)
    left = _left_alone(model, skip)
    changes, new = [], dict[nn.Module, nn.Module]()
    ...
