"""Conversion: replace the normalisation of a trained network of any library."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from da_wa.errors import ConfigError, nearest
from da_wa.norm.batch_renorm import BatchRenorm2d
from da_wa.norm.folding import absorb_batch_norms, batch_norm_affine
from da_wa.norm.normalized_conv import GainConv2d, NormalizedConv2d
from da_wa.norm.spec import ActivationFactory, ConvFactory, InstanceNorm2d, Norm
from da_wa.norm.tracing import (
    BATCH_NORMS,
    MAP_NORMS,
    Flow,
    channels,
    computes_as_conv2d,
    copied,
    in_series,
    layers_after_norm,
    rebuild,
    replace_modules,
    trace,
)

log = logging.getLogger(__name__)
GainInit = Literal["match", "one"]
WEIGHT_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
LOW_COVERAGE = 0.5
"""``convert`` warns if it reaches less than this share of the convolution and linear layers, and of their weights.

Both shares must be low. Of torchvision's VGG16, 13 of 15 layers are reached but 11 % of the weights, since two hidden
linear layers hold the rest: no warning. Of ConvNeXt-T, 22 of 58 layers and 7 % of the weights: a warning.
"""
ALREADY = "already of this kind"
LOST = "lost: "
NO_GAIN = "no gain: the scale of the filters is lost"
SAME: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.BatchNorm2d: BATCH_NORMS,
    InstanceNorm2d: (nn.InstanceNorm2d,),
}
"""For the class of a new norm, the classes that count as the same kind; by default, only the class itself."""


@dataclass(frozen=True)
class Change:
    """The change of one layer.

    Attributes:
        path: its name in the model.
        before: its class.
        after: the class of its replacement; ``None`` if the layer is unchanged.
        note: why it is unchanged, or what is lost.
        weights: the number of weights of a convolution or linear layer; 0 for other layers, and for those left
            alone on purpose (the classifier, and what ``skip`` names).

    >>> print(Change("layer1.0.conv1", "Conv2d", "WeightAlignConv2d", weights=36864))
    Conv2d -> WeightAlignConv2d
    """

    path: str
    before: str
    after: str | None
    note: str = ""
    weights: int = 0

    @property
    def reached(self) -> bool:
        """Whether the layer is of the requested kind after the conversion."""
        return self.after is not None or self.note == ALREADY

    @property
    def loses(self) -> bool:
        """Whether trained values have no place in the new layer."""
        return self.after is not None and self.note.startswith((LOST, NO_GAIN))

    def __str__(self) -> str:
        what = f"{self.before} unchanged" if self.after is None else f"{self.before} -> {self.after}"
        return f"{what} ({self.note})" if self.note else what


@dataclass(frozen=True)
class Survey:
    """The changes that :func:`convert` makes to a model, layer by layer; as text, one line per kind of change.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    >>> print(survey(model, Norm("GN", nn.Conv2d, nn.InstanceNorm2d)))
       1 × BatchNorm2d -> InstanceNorm2d (lost: bias, num_batches_tracked, running_mean, running_var, weight): 1
       1 × Conv2d unchanged (already of this kind): 0
       1 × Linear unchanged (the classifier): 3
    """

    changes: tuple[Change, ...]

    @property
    def layers(self) -> tuple[int, int]:
        """Convolution and linear layers reached, and their total (without the classifier and ``skip``)."""
        layers = [change for change in self.changes if change.weights]
        return sum(change.reached for change in layers), len(layers)

    @property
    def weights(self) -> tuple[int, int]:
        """Weights of convolution and linear layers reached, and their total (without the classifier and ``skip``)."""
        total = sum(change.weights for change in self.changes)
        return sum(change.weights for change in self.changes if change.reached), total

    @property
    def replaced(self) -> dict[str, int]:
        """Kinds of changes that keep all trained values, and how many there are of each."""
        return self._counts(lambda change: change.after is not None and not change.loses)

    @property
    def kept(self) -> dict[str, int]:
        """Kinds of layers that are unchanged, and how many there are of each."""
        return self._counts(lambda change: change.after is None)

    @property
    def lost(self) -> dict[str, int]:
        """Kinds of changes that lose trained values, and how many there are of each."""
        return self._counts(lambda change: change.loses)

    def _counts(self, chosen: Callable[[Change], bool]) -> dict[str, int]:
        return dict(Counter(sorted(str(change) for change in self.changes if chosen(change))))

    def __str__(self) -> str:
        return "\n".join(self._lines()) or "nothing to convert"

    def _lines(self, most: int = 4) -> Iterator[str]:
        for what, group in groupby(sorted(self.changes, key=str), key=str):
            paths = [change.path for change in group]
            more = f", … {len(paths) - most} more" if len(paths) > most else ""
            yield f"{len(paths):4d} × {what}: {', '.join(paths[:most])}{more}"


def convert(model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match") -> nn.Module:
    """A copy of ``model`` with the convolutions and activation norms of ``norm``; trained weights are kept.

    - Convolutions keep weight and bias. Subclasses that compute something else (timm's ``ScaledStdConv2d``) and
      linear layers are unchanged; a warning is issued if the conversion reaches little, see :data:`LOW_COVERAGE`.
    - Activation norms keep what the old and the new one have in common: the affine of BatchNorm, its statistics if the
      new norm has such, and eps where both are BatchNorms or both are GroupNorms.
    - If ``norm`` has no activation norm, each BatchNorm is merged into the convolution before it, as in
      :func:`~da_wa.norm.folding.fold_batch_norm`; if there is none, it becomes a depthwise 1×1 convolution, the
      affine that it computes in evaluation. Other norms, and BatchNorms without running statistics, are lost.
    - The classifier is unchanged. If a network ends in features, its last layer may be taken for a classifier.
    - Non-linearities are unchanged: FRN comes without its TLU, and the ReLU after EvoNorm-S0 stays.
    - Hooks are kept.
    - A norm with ``keep`` (``named("keep")``) changes nothing.

    :func:`survey` lists all changes beforehand. Filters that lose their mean change the input of a kept BatchNorm; to
    evaluate without fine-tuning, re-estimate its statistics with ``torch.optim.swa_utils.update_bn``. Before you
    save the weights for another library, call :func:`~da_wa.norm.folding.fold`: a plain network ignores the gains.

    Args:
        model: any network of 2-d convolutions and batch, group, layer or instance norms of their maps.
        norm: the new normalisation, e.g. ``named("bn_wa")``.
        skip: names of layers, or of modules with all they contain, to leave unchanged besides the classifier. Also
            names the classifier where it cannot be found, because the control flow depends on the input.
        gain_init: ``match`` sets gains so that filters keep their scale: apart from the removed means, the network
            computes the same; a filter of zeros, which has no direction, is drawn anew with a gain of 0. ``one`` sets
            gains to 1, as in a network trained from the start.

    Raises:
        ConfigError: an unknown name in ``skip``, an unknown ``gain_init``, a model that is already converted, that
            cannot be copied, or that has layers without a shape yet, or a classifier that cannot be found and is not
            named in ``skip``.

    Warns:
        UserWarning: few of the convolution and linear layers are reached.

    >>> from da_wa.norm import named
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    >>> [type(layer).__name__ for layer in convert(model, named("gn_wa"))]
    ['WeightAlignConv2d', 'GroupNorm', 'ReLU', 'Flatten', 'Linear']
    """
    return convert_and_survey(model, norm, skip=skip, gain_init=gain_init)[0]


def convert_and_survey(
    model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match"
) -> tuple[nn.Module, Survey]:
    """What :func:`convert` and :func:`survey` return, at once.

    >>> from da_wa.norm import named
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2))
    >>> convert_and_survey(model, named("bn_wa"))[1].replaced
    {'Conv2d -> WeightAlignConv2d': 1}
    """
    name = type(model).__name__
    model, changes = _convert(copied(model), norm, skip, gain_init)
    log.info("%s:\n%s", norm.label, changes)
    (layers, all_layers), (weights, all_weights) = changes.layers, changes.weights
    if layers < LOW_COVERAGE * all_layers and weights < LOW_COVERAGE * all_weights:
        warnings.warn(
            f"{norm.label} reaches {layers} of {all_layers} convolution and linear layers of {name} "
            f"({weights / all_weights:.0%} of their weights); the others are unchanged. "
            "print(survey(model, norm)) lists them with the reasons. "
            "Name layers that you leave out on purpose in skip=[…], or choose a network of plain nn.Conv2d.",
            stacklevel=3,
        )
    return model, changes


def keeps_filters(make: ConvFactory) -> bool:
    """Whether a trained convolution that becomes one of ``make``, gains matched, keeps its filters.

    WN only scales filters, so it does; WA also removes their means. Tested on random numbers.

    >>> from da_wa.norm import named
    >>> keeps_filters(named("wn").conv), keeps_filters(named("wa").conv), keeps_filters(nn.Conv2d)
    (True, False, True)
    """
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 8, 3, device="cpu")
        new = _new_conv("", conv, make, "match")[0]
        return not isinstance(new, NormalizedConv2d) or torch.allclose(new.normalized_weight(), conv.weight, atol=1e-6)


def survey(model: nn.Module, norm: Norm, *, skip: Collection[str] = (), gain_init: GainInit = "match") -> Survey:
    """The changes that :func:`convert` makes with the same arguments: ``print(survey(model, norm))``.

    Raises:
        ConfigError: as :func:`convert`.

    >>> from da_wa.norm import named
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    >>> print(survey(model, named("bn_wa")))
       1 × BatchNorm2d unchanged (already of this kind): 1
       1 × Conv2d -> WeightAlignConv2d: 0
       1 × Linear unchanged (the classifier): 4
    """
    return _convert(copied(model).to("meta"), norm, skip, gain_init)[1]


def _convert(model: nn.Module, norm: Norm, skip: Collection[str], gain_init: GainInit) -> tuple[nn.Module, Survey]:
    if gain_init not in ("match", "one"):
        raise ConfigError(f"unknown gain_init {gain_init!r}. {nearest(str(gain_init), ('match', 'one'))}")
    if not isinstance(norm, Norm):
        raise ConfigError(f"{norm!r} is not a Norm; write named('bn_wa') for one of da_wa, or make a Norm")
    if norm.keep:
        return model, Survey(())
    if lazy := [name for name, t in chain(model.named_parameters(), model.named_buffers()) if is_lazy(t)]:
        raise ConfigError(f"{lazy[0]} has no shape yet; show the network one batch of images before converting it")
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
            replacement, note = absorbed[module], "merged into the convolution before it"
        elif isinstance(module, nn.Conv2d):
            replacement, note = _new_conv(path, module, norm.conv, gain_init)
        elif isinstance(module, MAP_NORMS):
            replacement, note = _new_norm(module, norm.activation, like=_first_float(module, model))
        else:
            note = "layers of this kind are not converted"
        if replacement is not None:
            new[module] = replacement
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if replacement is not None or own or isinstance(module, (*MAP_NORMS, *WEIGHT_LAYERS)):
            weights = module.weight.numel() if isinstance(module, WEIGHT_LAYERS) and module not in left else 0
            after = None if replacement is None else _name(replacement)
            changes.append(Change(path, type(module).__name__, after, note, weights))
    return replace_modules(model, new), Survey(tuple(changes))


def _left_alone(model: nn.Module, skip: Collection[str], flow: Flow) -> dict[nn.Module, str]:
    """The layers to leave unchanged, each with the reason."""
    if isinstance(skip, str):
        raise ConfigError(f"skip is one text; write a list of it: [{skip!r}]")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in skip:
        if name not in modules:
            raise ConfigError(
                f"skip contains {name!r}, which is not a module of the model. {nearest(name, filter(None, modules))}"
            )
    left = {module: "named in skip" for name in skip for module in modules[name].modules()}
    for head in flow.heads:
        inside = set(head.modules())
        if head in flow.opaque and inside.isdisjoint(left):
            last = [n for n, m in modules.items() if m in inside and list(m.parameters(recurse=False))][-1:]
            inner = [name for name, _ in head.named_children()] if head is model else []
            raise ConfigError(
                f"{type(head).__name__} cannot be traced ({flow.opaque[head]}), so its classifier cannot be found; "
                f"name it in skip=[…] ({', '.join(last)} is the last layer)"
                + (f", or convert the network that it wraps: model.{inner[0]}" if len(inner) == 1 else "")
            ) from flow.opaque[head]
    return {head: "the classifier" for head in flow.heads} | left


def _new_conv(path: str, conv: nn.Conv2d, make: ConvFactory, gain_init: GainInit) -> tuple[nn.Module | None, str]:
    """The replacement of ``conv``, or ``None`` to leave it, and a note."""
    if isinstance(conv, NormalizedConv2d):
        raise ConfigError(
            f"{path} is already a {type(conv).__name__}; convert the plain network, fold(model.eval()), instead"
        )
    if not computes_as_conv2d(conv):
        return None, "computes something else than nn.Conv2d"
    try:
        new = rebuild(conv, make)
    except ConfigError as error:  # too few weights in a filter
        return None, str(error)
    if isinstance(conv, type(new)):
        return None, ALREADY
    if isinstance(new, GainConv2d):
        if gain_init == "match":
            new.match_gain()
        else:
            nn.init.ones_(new.gain)
        new.gain.requires_grad_(conv.weight.requires_grad)
    elif isinstance(new, NormalizedConv2d):
        return new, NO_GAIN
    return new, ""


def _new_norm(norm: nn.Module, make: ActivationFactory | None, like: Tensor) -> tuple[nn.Module | None, str]:
    """The replacement of ``norm`` on the device and with the type of ``like``, or ``None``, and a note."""
    after = layers_after_norm(norm)
    if after is None:
        return None, "computes something else than a norm of the channels of a map"
    state = dict(chain(norm.named_parameters(recurse=False), norm.named_buffers(recurse=False)))
    if make is None:
        affine = batch_norm_affine(norm) if isinstance(norm, BATCH_NORMS) else None
        if affine is not None:
            return in_series(affine, *after), "the affine that it computes in evaluation"
        return in_series(*after), _lost(state)
    new = make(channels(norm)).to(like.device, like.dtype).train(norm.training)
    if _same_kind(norm, new):
        return None, ALREADY
    kept = {name for name, tensor in new.state_dict().items() if name in state and tensor.shape == state[name].shape}
    for name in kept:
        setattr(new, name, state[name])
    for kind in (BATCH_NORMS, nn.GroupNorm):
        if isinstance(new, kind) and isinstance(norm, kind):
            new.eps = norm.eps
    return in_series(new, *after), _lost(state.keys() - kept)


def _same_kind(norm: nn.Module, new: nn.Module) -> bool:
    same_groups = getattr(norm, "num_groups", None) == getattr(new, "num_groups", None)
    same_training = isinstance(norm, BatchRenorm2d) == isinstance(new, BatchRenorm2d)  # it is a BatchNorm otherwise
    return isinstance(norm, SAME.get(type(new), (type(new),))) and same_groups and same_training


def _lost(names: Collection[str]) -> str:
    return f"{LOST}{', '.join(sorted(names))}" if names else ""


def _first_float(*modules: nn.Module) -> Tensor:
    """The first floating-point tensor found in ``modules``."""
    tensors = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in modules)
    return next((t for t in tensors if t.is_floating_point()), torch.empty(0))


def _name(module: nn.Module) -> str:
    return " + ".join(type(part).__name__ for part in (module if isinstance(module, nn.Sequential) else [module]))
