"""Networks of other libraries: how to build one, where its classifier is, which images it expects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torchvision
from torch import nn
from torch.hub import download_url_to_file, get_dir
from torchvision.models.googlenet import InceptionAux as GoogLeNetAux
from torchvision.models.inception import InceptionAux

from da_wa.errors import ConfigError, install, nearest
from da_wa.models.backbone import Expected
from da_wa.models.library import State
from da_wa.models.weights import WeightsError

try:
    import timm
    from huggingface_hub import hf_hub_download  # timm needs it
    from timm.data import resolve_model_data_config
except ImportError:  # an optional package
    timm = None

AUXILIARY = (GoogLeNetAux, InceptionAux)
"""Classifiers of torchvision that only take part in training."""


@dataclass(frozen=True)
class Timm:
    """A network of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models).

    Attributes:
        name: as in timm, with or without the tag of its weights, e.g. ``resnet50.a1_in1k``.
        options: further arguments of ``timm.create_model``, e.g. ``img_size``.

    >>> library = Timm("tf_efficientnet_lite0")
    >>> network = library.build(None)
    >>> library.classifier(network), library.expects(network).interpolation
    ('classifier', 'bicubic')
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def build(self, state: State | None) -> nn.Module:
        """See :meth:`Library.build`."""
        _need_timm()
        if not timm.is_model(self.name):
            known = nearest(self.name, timm.list_models(pretrained=False))
            raise ConfigError(f"model.name={self.name}: timm has no such network. {known}")
        arguments = dict(self.options)
        if state is not None:
            cfg = timm.get_pretrained_cfg(self.name)
            classifier = None if cfg is None else cfg.classifier
            classes = len(state[f"{classifier}.weight"]) if f"{classifier}.weight" in state else 1000
            overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
            arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay, "num_classes": classes}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*no-op.*")  # on the meta device only the keys are checked
                network: nn.Module = timm.create_model(self.name, **arguments)
        except TypeError as error:
            raise ConfigError(f"model.options={dict(self.options)} do not fit {self.name}: {error}") from error
        except RuntimeError as error:
            raise self._tagged(error) from error
        network.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr,operator]  # a copy in memory
        return network

    def classifier(self, network: nn.Module) -> str:
        """See :meth:`Library.classifier`."""
        path = network.pretrained_cfg.get("classifier")  # type: ignore[union-attr,operator]
        if not isinstance(path, str):
            raise ConfigError(f"model.name={self.name}: its classifier is {path}; choose a network with one classifier")
        return path

    def expects(self, network: nn.Module) -> Expected:
        """See :meth:`Library.expects`."""
        found = resolve_model_data_config(network)
        return Expected(
            size=found["input_size"][-1],
            mean=tuple(found["mean"]),
            std=tuple(found["std"]),
            interpolation=found["interpolation"],
            crop=found["crop_pct"],
        )

    def _tagged(self, error: RuntimeError) -> Exception:
        """``error``, or what it means where the tag of the weights after the dot is wrong."""
        architecture, _, tag = self.name.partition(".")
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        if not tag or tag in tags:
            return error
        return ConfigError(f"model.name={self.name}: {architecture} has no weights {tag!r}. {nearest(tag, tags)}")

    def published(self) -> Path:
        """See :meth:`Library.published`."""
        _need_timm()
        if not timm.is_model(self.name):
            self.build(None)  # raises
        cfg = timm.get_pretrained_cfg(self.name)
        if cfg is None or not (cfg.hf_hub_id or cfg.url):
            raise WeightsError(f"model.weights=imagenet: timm has no weights of {self.name}; give a file")
        try:
            if cfg.hf_hub_id:
                return Path(hf_hub_download(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors"))
            return Path(timm.models.download_cached_file(cfg.url))
        except Exception as error:  # the errors of several network libraries
            raise WeightsError(
                f"model.weights=imagenet: the weights of {self.name} cannot be downloaded ({_first_line(error)}). "
                "Without internet give a file: model.weights=FILE.safetensors"
            ) from error


@dataclass(frozen=True)
class Torchvision:
    """A classification network of torchvision, without the auxiliary classifiers of GoogLeNet and Inception v3.

    Attributes:
        name: as in ``torchvision.models.list_models()``.
        options: further arguments of ``torchvision.models.get_model``.

    >>> library = Torchvision("mobilenet_v3_small")
    >>> library.classifier(library.build(None))
    'classifier.3'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def build(self, state: State | None) -> nn.Module:
        """See :meth:`Library.build`."""
        self._check()
        try:
            network: nn.Module = torchvision.models.get_model(self.name, weights=None, **self.options)
        except TypeError as error:
            raise ConfigError(f"model.options={dict(self.options)} do not fit {self.name}: {error}") from error
        auxiliary = [name for name, child in network.named_children() if isinstance(child, AUXILIARY)]
        for name in auxiliary:
            setattr(network, name, None)
            network.aux_logits = False  # type: ignore[assignment]  # in training it returns its logits alone
        if state is not None:
            if hasattr(network, "transform_input"):  # as torchvision sets it for trained weights
                network.transform_input = self.options.get("transform_input", True)
            state = {key: value for key, value in state.items() if key.partition(".")[0] not in auxiliary}
            path = self.classifier(network)
            weight = state.get(f"{path}.weight")
            if weight is not None and len(weight) != 1000:
                linear = network.get_submodule(path)
                network.set_submodule(path, nn.Linear(linear.in_features, len(weight)))  # type: ignore[arg-type]
            network.load_state_dict(state)
        return network

    def classifier(self, network: nn.Module) -> str:
        """See :meth:`Library.classifier`."""
        path = last_linear(network)
        if path is None:
            raise ConfigError(
                f"model.name={self.name}: it has no nn.Linear, so its classifier cannot be replaced; "
                "choose a network that ends in one, e.g. mobilenet_v3_small"
            )
        return path

    def expects(self, network: nn.Module) -> Expected:
        """See :meth:`Library.expects`."""
        found = torchvision.models.get_model_weights(self.name).DEFAULT.transforms()
        size, resized = found.crop_size[-1], found.resize_size[-1]
        return Expected(size, tuple(found.mean), tuple(found.std), found.interpolation.value, size / resized)

    def published(self) -> Path:
        """See :meth:`Library.published`."""
        self._check()
        url = str(torchvision.models.get_model_weights(self.name).DEFAULT.url)
        path = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise WeightsError(
                f"model.weights=imagenet: the weights of {self.name} cannot be downloaded ({_first_line(error)}). "
                "Without internet give a file: model.weights=FILE.pth"
            ) from error
        return path

    def _check(self) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        if self.name not in known:
            raise ConfigError(f"model.name={self.name}: torchvision has no such network. {nearest(self.name, known)}")


def last_linear(network: nn.Module) -> str | None:
    """The path of the last linear layer; None: there is none.

    >>> last_linear(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    '2'
    """
    paths: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    return paths[-1] if paths else None


def _need_timm() -> None:
    if timm is None:
        raise ConfigError(f"model=timm needs the package timm; {install('timm')}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
