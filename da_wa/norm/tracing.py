"""The structure of a network, found with ``torch.fx``: replaceable layers, their order, and the output layers."""

from __future__ import annotations

import copy
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from da_wa.errors import ConfigError
from da_wa.norm.spec import ConvFactory

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
TORCH_NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.InstanceNorm2d)
MAP_NORMS = (*TORCH_NORMS, nn.LayerNorm)  # torch has no LayerNorm of maps: libraries subclass this one
HOOKS = [name for name in vars(nn.Module()) if "_hooks" in name]


def rebuild(conv: nn.Conv2d, make: ConvFactory) -> nn.Conv2d:
    """A convolution made by ``make`` that shares the shape and the parameters ``weight`` and ``bias`` of ``conv``.

    Parametrized ones (``torch.nn.utils.parametrize``) are taken at their present values. The random state of torch is
    unchanged.

    >>> conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
    >>> same = rebuild(conv, nn.Conv2d)
    >>> same.stride, same.weight is conv.weight
    ((2, 2), True)
    """
    with torch.random.fork_rng([conv.weight.device] if conv.weight.is_cuda else []):
        new = make(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
    new.weight, new.bias = _as_parameter(conv.weight), None if conv.bias is None else _as_parameter(conv.bias)
    return new.train(conv.training)


def _as_parameter(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``.

    Raises:
        ConfigError: it holds tensors that are computed from its parameters, which torch cannot copy.

    >>> copied(nn.ReLU())
    ReLU()
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        computed = [
            f"{path}.{name}" if path else name
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor) and not value.is_leaf
        ]
        if not computed:
            raise
        raise ConfigError(
            f"{type(model).__name__} cannot be copied: {', '.join(computed[:3])} is computed from its parameters. Call "
            "torch.nn.utils.remove_weight_norm, torch.nn.utils.remove_spectral_norm or torch.nn.utils.prune.remove "
            "first, or use torch.nn.utils.parametrizations"
        ) from error


def replace_modules(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace every ``module`` of ``model`` by ``new[module]``, wherever it is registered, and move its hooks.

    >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> replace_modules(model, {model[0]: nn.GELU()})[0]
    GELU(approximate='none')
    """
    for old, module in new.items():
        for name in HOOKS:
            hooks = getattr(old, name)  # the same dictionary: handles that remove hooks refer to it
            hooks.update(getattr(module, name))
            setattr(module, name, hooks)
        module._is_full_backward_hook = old._is_full_backward_hook or module._is_full_backward_hook
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if path and module in new:
            model.set_submodule(path, new[module])
    return new.get(model, model)


def computes_as_conv2d(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution that uses its weight exactly as ``nn.Conv2d`` does.

    >>> computes_as_conv2d(nn.Conv2d(3, 8, 3))
    True
    >>> computes_as_conv2d(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))
    False
    """
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and {"weight", "bias"} <= module._parameters.keys()  # else it is parametrized
    )


def in_series(*modules: nn.Module) -> nn.Module:
    """One module that applies ``modules`` in order.

    >>> in_series(), in_series(nn.ReLU())
    (Identity(), ReLU())
    """
    match modules:
        case ():
            return nn.Identity()
        case (module,):
            return module
        case _:
            return nn.Sequential(*modules)


def layers_after_norm(norm: nn.Module) -> list[nn.Module] | None:
    """The layers inside ``norm`` that follow its normalisation of a map (n, c, h, w).

    Torch's own norms contain none. Some libraries subclass them and apply child modules (dropout, activation)
    after the normalisation. Whether ``norm`` does so is tested on random numbers.

    Returns:
        The child modules in order, or ``None`` if ``norm`` computes anything else.

    >>> layers_after_norm(nn.BatchNorm2d(8))
    []
    >>> layers_after_norm(nn.LayerNorm(8)) is None  # it normalises (n, …, c), not maps
    True
    """
    if type(norm) in TORCH_NORMS:
        return []
    trial = copy.deepcopy(norm).to_empty(device="cpu").float().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in itertools.chain(trial.parameters(), trial.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=draw)
        x = torch.randn(2, channels(norm), 4, 3, generator=draw, device="cpu")
        try:
            same = torch.allclose(trial(x), in_series(*trial.children())(_normalize(trial, x)), atol=1e-5)
        except Exception:  # it does not accept maps
            return None
    return [child for child in norm.children() if not isinstance(child, nn.Identity)] if same else None


def _normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """The output of torch's own class with the parameters of ``norm``; LayerNorm over the channels of a pixel."""
    if isinstance(norm, nn.LayerNorm):
        return nn.LayerNorm.forward(norm, x.movedim(1, -1)).movedim(-1, 1)
    kind = next(kind for kind in TORCH_NORMS if isinstance(norm, kind))
    normalized: Tensor = kind.forward(norm, x)  # type: ignore[arg-type]
    return normalized


def channels(norm: nn.Module) -> int:
    """The number of channels of one of ``MAP_NORMS``.

    >>> channels(nn.GroupNorm(2, 8))
    8
    """
    match norm:
        case nn.GroupNorm():
            return norm.num_channels
        case nn.LayerNorm():
            return norm.normalized_shape[-1]
        case nn.BatchNorm2d() | nn.SyncBatchNorm() | nn.InstanceNorm2d():
            return norm.num_features
        case _:
            raise TypeError(f"{type(norm).__name__} is not a norm of feature maps")


@dataclass(frozen=True)
class Flow:
    """How data flows through a network.

    Attributes:
        heads: the layers with parameters whose output reaches the network's output and no other such layer. A norm
            ends a path but is not a head.
        conv_norms: pairs of a convolution and the norm that is the only user of its output, both used once, and their
            tensors nowhere else.
        opaque: modules that cannot be traced, each with the exception. Such a module may be a head.
    """

    heads: tuple[nn.Module, ...]
    conv_norms: tuple[tuple[nn.Conv2d, nn.Module], ...]
    opaque: Mapping[nn.Module, Exception]


def trace(model: nn.Module) -> Flow:
    """Trace ``model`` symbolically with ``torch.fx``; nothing is computed.

    A module whose control flow depends on the values or the shape of its input is opaque. If that is ``model``
    itself, it is its own only head.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    >>> flow = trace(model)
    >>> flow.heads == (model[3],), flow.conv_norms == ((model[0], model[1]),)
    (True, True)
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(_trial(model))
    except Exception as error:  # a model may raise anything
        return Flow((model,), (), {model: error})
    modules = dict(model.named_modules())
    layers = {node: modules[str(node.target)] for node in graph.nodes if node.op == "call_module"}
    opaque = {modules[path]: error for path, error in tracer.opaque.items()}
    hidden = {inner for module in opaque for inner in module.modules()} | set(
        _read_elsewhere(graph, tracer.root, layers)
    )
    pairs = (pair for pair in _conv_norms(layers) if hidden.isdisjoint(pair))
    return Flow(tuple(_heads(graph, layers)), tuple(pairs), opaque)


def _read_elsewhere(graph: fx.Graph, root: nn.Module, layers: Mapping[fx.Node, nn.Module]) -> Iterator[nn.Module]:
    """Layers with a tensor that the network also uses outside of their calls, such as ``F.conv2d(x, conv.weight)``."""
    read = {id(operator.attrgetter(str(node.target))(root)) for node in graph.nodes if node.op == "get_attr"}
    for layer in layers.values():
        if any(id(t) in read for t in itertools.chain(layer.parameters(), layer.buffers())):
            yield layer


def _trial(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that shares its tensors and has no hooks: tracing leaves nothing in ``model``."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    trial = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in trial.modules():
        for name in HOOKS:
            getattr(module, name).clear()
    return trial


class _Tracer(fx.Tracer):
    """Treats single layers and modules that cannot be traced as leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, Exception] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, MAP_NORMS) or not list(m.children())

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        nodes, depth = len(self.graph.nodes), len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # a module may raise anything
            path = self.path_of_module(m)
            self.opaque[path] = error
            for node in reversed(list(self.graph.nodes)[nodes:]):
                self.graph.erase_node(node)
            while len(self.module_stack) > depth:
                self.module_stack.popitem()
            return self.create_proxy("call_module", path, args, kwargs)


def _heads(graph: fx.Graph, layers: Mapping[fx.Node, nn.Module]) -> Iterator[nn.Module]:
    seen: set[fx.Node] = set()
    reached = [node for node in graph.nodes if node.op == "output"]
    while reached:
        for node in reached.pop().all_input_nodes:
            if node in seen:
                continue
            seen.add(node)
            if not _holds_parameters(layers.get(node)):
                reached.append(node)
            elif not isinstance(layers[node], MAP_NORMS) and not _leads_on(node, layers):
                yield layers[node]


def _leads_on(node: fx.Node, layers: Mapping[fx.Node, nn.Module]) -> bool:
    """Whether later layers also use the output of ``node``: true of features, not of logits."""
    users = set(node.users)
    reached = list(users)
    while reached:
        user = reached.pop()
        if _holds_parameters(layers.get(user)):
            return True
        reached.extend(user.users.keys() - users)
        users |= user.users.keys()
    return False


def _holds_parameters(layer: nn.Module | None) -> bool:
    """Norms without affine count as well: the layer before them is not a classifier."""
    return layer is not None and (isinstance(layer, MAP_NORMS) or bool(list(layer.parameters())))


def _conv_norms(layers: Mapping[fx.Node, nn.Module]) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
    uses = Counter(layers.values())
    for node, norm in layers.items():
        if isinstance(norm, MAP_NORMS):
            before = node.all_input_nodes[0]
            conv = layers.get(before)
            if isinstance(conv, nn.Conv2d) and len(before.users) == uses[conv] == uses[norm] == 1:
                yield conv, norm
