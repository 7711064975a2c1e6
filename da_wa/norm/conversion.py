"""Conversion: give a trained network of any library another :class:`~da_wa.norm.spec.Norm`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal

import torch
from torch import Tensor, nn

from da_wa.errors import ConfigError, nearest
from da_wa.norm.anatomy import (
    BATCH_NORMS,
    MAP_NORMS,
    Flow,
    behind_norm,
    channels,
    computes_as_conv2d,
    in_series,
    rebuild,
    replace,
    trace,
)
from da_wa.norm.folding import absorb_batch_norms, affine_of
from da_wa.norm.normalised_conv import GainConv2d, NormalisedConv2d
from da_wa.norm.spec import ActivationFactory, ConvFactory, InstanceNorm2d, Norm

log = logging.getLogger(__name__)
GainInit = Literal["match", "one"]
SAME: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.BatchNorm2d: BATCH_NORMS,
    InstanceNorm2d: (nn.InstanceNorm2d,),
}
"""For classes of new norms, those that already are of that kind, if it is not the class itself."""


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


def convert(model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match") -> nn.Module:
    """A copy of ``model`` with the convolutions and activation norms of ``norm``, trained weights kept.

    Convolutions keep weight and bias. Norms keep what they have in common with the new ones (BatchNorm's
    affine, and its statistics and eps if the new one has such). Where ``norm`` has no activation norm, each
    BatchNorm is first multiplied into the convolution before it, as in
    :func:`~da_wa.norm.folding.fold_batch_norm`, or, if there is none, becomes the affine that it is in evaluation,
    a depthwise 1×1 convolution; other norms, and BatchNorms without running statistics, are lost. The
    classifier and the network's non-linearities are left alone, so FRN goes without its TLU and the ReLU
    behind EvoNorm-S0 stays. Of a network that ends in features, the last layer may pass for a classifier.
    Hooks stay. :func:`survey` tells all of it beforehand.

    Filters that lose their mean change what a kept BatchNorm sees; to evaluate without fine-tuning, estimate
    its statistics again with ``torch.optim.swa_utils.update_bn``.

    Args:
        model: any network of 2-d convolutions and batch, group, layer or instance norms of their maps.
        norm: what to give it, e.g. ``named("bn_wa")``.
        skip: names of layers, or of modules with all they contain, to leave alone besides the classifier, and
            the classifier itself where the data flow depends on the input, so that it cannot be found.
        gain_init: ``match`` sets gains so that filters keep their scale, and the network computes what it did
            but for the removed means; ``one`` sets them to 1, as in a network trained from the start.

    Raises:
        ConfigError: an unknown name in ``skip``, an unknown ``gain_init``, a model that is converted already, or
            one whose classifier cannot be found, with nothing of the part that hides it named in ``skip``.
    """
    model, account = _convert(copy.deepcopy(model), norm, skip, gain_init)
    log.info("%s:\n%s", norm.label, account)
    return model


def survey(model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match") -> Account:
    """What :func:`convert` with the same arguments does: ``print(survey(model, norm))``."""
    return _convert(copy.deepcopy(model).to("meta"), norm, skip, gain_init)[1]


def _convert(model: nn.Module, norm: Norm, skip: Collection[str], gain_init: GainInit) -> tuple[nn.Module, Account]:
    if gain_init not in ("match", "one"):
        raise ConfigError(f"there is no gain_init {gain_init!r}. {nearest(gain_init, ('match', 'one'))}")
    flow = trace(model)
    left = _left_alone(model, skip, flow)
    absorbed = absorb_batch_norms(flow.conv_norms, left) if norm.activation is None else {}
    new: dict[nn.Module, nn.Module] = {}
    changes = []
    for path, module in model.named_modules():
        replacement: nn.Module | None = None
        if module in left:
            note = left[module]
        elif module in absorbed:
            replacement, note = absorbed[module], "multiplied into the convolution before it"
        elif isinstance(module, nn.Conv2d):
            replacement, note = _new_conv(path, module, norm.conv, gain_init)
        elif isinstance(module, MAP_NORMS):
            replacement, note = _new_norm(module, norm.activation, like=_first_float(module, model))
        else:
            note = "no kind of layer that is converted"
        if replacement is not None:
            new[module] = replacement
            changes.append(Change(path, type(module).__name__, _name(replacement), note))
        elif isinstance(module, MAP_NORMS) or [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            changes.append(Change(path, type(module).__name__, None, note))
    return replace(model, new), Account(tuple(changes))


def _left_alone(model: nn.Module, skip: Collection[str], flow: Flow) -> dict[nn.Module, str]:
    """The layers that must not change, each with the reason."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in skip:
        if name not in modules:
            raise ConfigError(
                f"skip names {name!r}, which the model does not have. {nearest(name, filter(None, modules))}"
            )
    left = {module: "named in skip" for name in skip for module in modules[name].modules()}
    for head in flow.heads:
        inside = set(head.modules())
        if head in flow.opaque and inside.isdisjoint(left):
            last = [n for n, m in modules.items() if m in inside and list(m.parameters(recurse=False))][-1:]
            held = [name for name, _ in head.named_children()] if head is model else []
            raise ConfigError(
                f"the data flow of {type(head).__name__} cannot be traced: {flow.opaque[head]}; so its classifier "
                f"cannot be found: name it in skip=[…] ({', '.join(last)} is the last layer)"
                + (f"; or if this wraps a network, convert that: model.{held[0]}" if len(held) == 1 else "")
            ) from flow.opaque[head]
    return {head: "the classifier" for head in flow.heads} | left


def _new_conv(path: str, conv: nn.Conv2d, make: ConvFactory, gain_init: GainInit) -> tuple[nn.Module | None, str]:
    """What takes the place of ``conv``, or ``None``, and a note."""
    if isinstance(conv, NormalisedConv2d):
        raise ConfigError(
            f"{path} is a {type(conv).__name__} already; convert the plain network, which fold(model.eval()) gives"
        )
    if not computes_as_conv2d(conv):
        return None, "does more than nn.Conv2d does"
    try:
        new = rebuild(conv, make)
    except ConfigError as error:  # too few weights in a filter
        return None, str(error)
    if isinstance(conv, type(new)):
        return None, "already of this kind"
    if isinstance(new, GainConv2d):
        if gain_init == "match":
            new.match_gain()
        else:
            nn.init.ones_(new.gain)
        new.gain.requires_grad_(conv.weight.requires_grad)
    elif isinstance(new, NormalisedConv2d):
        return new, "has no gain: the scale of its filters is lost"
    return new, ""


def _new_norm(norm: nn.Module, make: ActivationFactory | None, like: Tensor) -> tuple[nn.Module | None, str]:
    """What takes the place of ``norm``, with the device and type of ``like``, or ``None``, and a note."""
    behind = behind_norm(norm)
    if behind is None:
        return None, "does not normalise the channels of a map, or does more than that"
    state = dict(chain(norm.named_parameters(recurse=False), norm.named_buffers(recurse=False)))
    if make is None:
        affine = affine_of(norm) if isinstance(norm, BATCH_NORMS) else None
        if affine is not None:
            return in_series(affine, *behind), "the affine that it is in evaluation"
        return in_series(*behind), _lost(state)
    new = make(channels(norm)).to(like.device, like.dtype).train(norm.training)
    same_groups = getattr(norm, "num_groups", None) == getattr(new, "num_groups", None)
    if isinstance(norm, SAME.get(type(new), (type(new),))) and same_groups:
        return None, "already of this kind"
    kept = {name for name, tensor in new.state_dict().items() if name in state and tensor.shape == state[name].shape}
    for name in kept:
        setattr(new, name, state[name])
    if isinstance(new, BATCH_NORMS) and isinstance(norm, BATCH_NORMS):
        new.eps = norm.eps
    return in_series(new, *behind), _lost(state.keys() - kept)


def _lost(names: Collection[str]) -> str:
    return f"lost: {', '.join(sorted(names))}" if names else ""


def _first_float(*modules: nn.Module) -> Tensor:
    """The first floating-point tensor found in ``modules``."""
    tensors = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in modules)
    return next((t for t in tensors if t.is_floating_point()), torch.empty(0))


def _name(module: nn.Module) -> str:
    return " + ".join(type(part).__name__ for part in (module if isinstance(module, nn.Sequential) else [module]))
