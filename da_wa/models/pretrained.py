"""Networks that were trained elsewhere, as backbones with any norm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from da_wa.errors import ConfigError, UserError
from da_wa.models.backbone import Backbone, Conversion
from da_wa.models.library import Library
from da_wa.models.weights import PUBLISHED, WeightsError, file_digest, given_file
from da_wa.norm.conversion import convert_and_survey, keeps_filters
from da_wa.norm.normalized_conv import NormalizedConv2d
from da_wa.norm.spec import Norm
from da_wa.norm.tracing import BATCH_NORMS

Network = TypeVar("Network", bound=nn.Module)


class Pretrained(Backbone):
    """A network of a library with its trained weights, converted to a norm.

    The classifier is replaced. Norm ``keep`` leaves all other layers as they are; others go through
    :func:`~da_wa.norm.conversion.convert`, gains matched, and :attr:`conversion` says what was replaced, kept and lost
    of trained weights.
    A parameter that the network no longer uses without its classifier does not occur in the networks of timm and
    torchvision.

    Args:
        norm: the norm.
        num_classes: outputs of the new head.
        library: where the network comes from, see :mod:`~da_wa.models.libraries`.
        weights: ``imagenet`` for the published ones, a ``.safetensors`` or torch file, or None for the initialisation.

    Raises:
        ConfigError: there is no such network, its classifier is not linear, or the norm cannot be used.
        WeightsError: weights that are missing, damaged or of another network.

    >>> from da_wa.models.libraries import Timm
    >>> from da_wa.norm import named
    >>> model = Pretrained(named("bn_wa"), 31, library=Timm("resnet10t"))
    >>> model(torch.zeros(2, 3, 64, 64)).shape, model.num_features, model.expects.crop
    (torch.Size([2, 31]), 512, 0.875)
    """

    min_size = 1  # a forward pass says whether a network takes images of a size

    def __init__(self, norm: Norm, num_classes: int, *, library: Library, weights: str | None = None) -> None:
        super().__init__()
        path = None if weights is None else library.published() if weights == PUBLISHED else given_file(weights)
        self.weights = None if path is None else file_digest(path)
        network = library.build(None) if path is None else trained(library, path)
        self.expects, place = library.expects(network), library.classifier(network)
        conversion, network = converted(network, norm, place)
        self.conversion = None if path is None else conversion
        classifier = network.get_submodule(place)
        if not isinstance(classifier, nn.Linear):
            raise ConfigError(f"{library.name}: its classifier is {type(classifier).__name__}, not nn.Linear")
        network.set_submodule(place, nn.Identity())
        self.num_features = classifier.in_features
        self.network = network
        self.head = self.make_head(num_classes)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features


def converted(network: Network, norm: Norm, classifier: str) -> tuple[Conversion | None, Network]:
    """A trained network with another norm, gains matched, and what changed; None where the norm keeps its layers.

    Args:
        network: any network that :func:`~da_wa.norm.conversion.convert` takes.
        norm: the new norm.
        classifier: the path of its last layer, which is unchanged.

    Raises:
        ConfigError: the network cannot be converted.

    >>> from da_wa.norm import named
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))
    >>> converted(network, named("bn_wa"), "3")[0].replaced
    {'Conv2d -> WeightAlignConv2d': 1}
    """
    if norm.keep:
        return None, network
    calibrated = _calibrated(network)
    # The classifier of a network that cannot be traced would not be found.
    new, found = convert_and_survey(network, norm, skip=[classifier])
    normalized = sum(isinstance(module, NormalizedConv2d) for module in new.modules())
    changed = 0 if keeps_filters(norm.conv) else normalized
    kept = [change for change in found.changes if change.path in calibrated and not change.loses]
    reached, layers = found.layers
    return (
        Conversion(found.replaced, found.kept, found.lost, reached, layers, len(kept) if changed else 0, changed),
        cast(Network, new),
    )


def _calibrated(network: nn.Module) -> set[str]:
    """The paths of BatchNorms with running statistics."""
    return {
        path
        for path, module in network.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }


def activation_level(network: nn.Module) -> str:
    """Which activation norm a network has, as ``factors.activation`` of a norm calls it; ``mixed`` if several.

    >>> activation_level(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)))
    'bn'
    """
    kinds: dict[str, tuple[type[nn.Module], ...]] = {"bn": BATCH_NORMS, "in": (nn.InstanceNorm2d,)}
    found = {level for level, classes in kinds.items() if any(isinstance(m, classes) for m in network.modules())}
    groups = {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    found |= {"gn"} if groups - {1} else set()
    found |= {"ln"} if groups == {1} or any(isinstance(m, nn.LayerNorm) for m in network.modules()) else set()
    return found.pop() if len(found) == 1 else "mixed" if found else "none"


def trained(library: Library, path: Path) -> nn.Module:
    """A network of a library with the weights in a file.

    Raises:
        WeightsError: the file cannot be read, or belongs to another network.
    """
    state = read_state(path)
    try:
        return library.build(state)
    except UserError:
        raise
    except Exception as error:  # a library's preparation of foreign keys raises almost anything
        reasons = "; ".join(_shortened(error)) or repr(error)
        raise WeightsError(
            f"{path} does not have the weights of {library.name}: {reasons}. Check model.name="
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or torch file, by name; nothing in the file is executed.

    A torch file may hold them under ``state_dict`` or ``model``, with the prefix ``module.`` of parallel training.

    Raises:
        WeightsError: not such a file, or damaged.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch reads a file of another kind as instructions, and raises almost anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path} is not a .safetensors file or a torch file of tensors alone, or it is damaged ({first}). "
            "Give another one: model.weights=FILE, e.g. of torch.save(model.state_dict(), FILE)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    state = {str(k).removeprefix("module."): v for k, v in found.items()} if isinstance(found, Mapping) else {}
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"{path} does not hold tensors by name; save model.state_dict()")
    return state


def _shortened(error: BaseException, most: int = 3) -> Iterator[str]:
    """The lines of torch's message about keys and shapes, with a few names each."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    shapes = [line for line in lines if line.startswith("size mismatch")]
    for line in lines:
        kind, _, names = line.partition(": ")
        if kind.startswith(("Missing key", "Unexpected key")):
            found = re.findall(r'"([^"]+)"', names)
            more = f" and {len(found) - most} more" if len(found) > most else ""
            yield f"{'missing' if kind.startswith('Missing') else 'unexpected'}: {', '.join(found[:most])}{more}"
    if shapes:
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        yield f"{shapes[0]}{more}"
