"""The LightningModules of adaptation: a method's loss beside the source's, and streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from da_wa.adapt.domain_norm import Domain, routed, separate_domains
from da_wa.adapt.method import Method, Seen, Step
from da_wa.data.paired import Order, Paired, PairedDataModule
from da_wa.errors import ConfigError
from da_wa.train.classifier import Classifier
from da_wa.train.running import RunningMean

Statistics = Literal["joint", "separate", "domain"]
"""Which images share batch statistics: ``joint`` forwards both domains in one batch, ``separate`` one after the other,
``domain`` likewise with BatchNorms of their own for each domain. Without batch statistics all are the same function."""


@dataclass(frozen=True)
class Adaptation:
    """A method and how the training uses it.

    Attributes:
        method: the method.
        weight: its loss terms are multiplied by it.
        statistics: see :data:`Statistics`.
        order: of a stream.
    """

    method: Method
    weight: float = 1.0
    statistics: Statistics = "joint"
    order: Order = "shuffled"


class Adapter(Classifier):
    """Trains a backbone with the loss of a method, of phase ``joint`` or ``target``.

    Args:
        model: see :class:`~da_wa.train.classifier.Classifier`, as for all others.
        adaptation: the method; its ``build`` has been called.
        target: the name of the target.
    """

    def __init__(self, model: Any, *args: Any, adaptation: Adaptation, target: str, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.labelled = adaptation.method.phase == "joint"
        self.method, self.weight, self.statistics = adaptation.method, adaptation.weight, adaptation.statistics
        self.target = target
        if self.statistics == "domain":
            separate_domains(model)
        self._watched: dict[str, RunningMean] = {}
        self._unused: list[nn.Parameter] = []

    @property
    def _data(self) -> PairedDataModule:
        data: PairedDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the method chooses, except for what is frozen; the rest of the network is frozen until the end."""
        chosen = [p for p in (*self.method.trained(self.model), *self.method.parameters()) if p.requires_grad]
        wanted = {id(p) for p in chosen}
        self._unused = [p for p in self.parameters() if p.requires_grad and id(p) not in wanted]
        for parameter in self._unused:
            parameter.requires_grad_(False)
        return chosen

    def on_fit_end(self) -> None:
        for parameter in self._unused:
            parameter.requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        with self._looking():
            self.method.refresh(self._look)

    def training_step(self, batch: Paired, batch_idx: int) -> Tensor:  # type: ignore[override]
        source, target = self._forward(batch)
        labels = None if batch.source is None else batch.source[1]

        def strong() -> Seen:
            with routed(self.model, "target"):
                return self._seen(self._data.strong_view(batch.target.raw))

        progress = self.global_step / self.trainer.estimated_stepping_batches
        self.method.watched = {}
        terms = self.method.loss(Step(source, labels, target, batch.target.position, progress, strong))
        if not isinstance(terms, dict) or not all(isinstance(v, Tensor) and v.ndim == 0 for v in terms.values()):
            raise ConfigError(
                f"{type(self.method).__name__}: `loss` must return a dict of scalars, e.g. {{'gap': gap.mean()}}"
            )
        if source is None and not terms:
            raise ConfigError(
                f"{type(self.method).__name__} has phase `target` and its `loss` returned no terms. Return some, or "
                "set `trains = False` and override `calibrate` for a method without training"
            )
        loss = self.weight * sum(terms.values(), torch.zeros((), device=self.device))
        if source is not None and labels is not None:
            loss = self.objective(source.logits, labels) + loss
            self.train_accuracy.update(source.logits.detach().argmax(1) == labels)
            self._watch("feature_scale_source", source.features.detach().square().mean().sqrt())
        self._watch("feature_scale_target", target.features.detach().square().mean().sqrt())
        for name, value in {**terms, **self.method.watched}.items():
            self._watch(name, value.detach())
        self.train_loss.update(loss.detach())
        return loss

    def _forward(self, batch: Paired) -> tuple[Seen | None, Seen]:
        if batch.source is None:
            return None, self._seen(batch.target.images)
        images, n = batch.source[0], len(batch.source[0])
        if self.statistics == "joint":
            both = self._seen(torch.cat([images, batch.target.images]))
            return Seen(both.features[:n], both.logits[:n]), Seen(both.features[n:], both.logits[n:])
        with routed(self.model, "source"):
            source = self._seen(images)
        with routed(self.model, "target"):
            return source, self._seen(batch.target.images)

    def _seen(self, images: Tensor) -> Seen:
        features = self.model.features(images)
        return Seen(features.float(), self.model.head(features).float())

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Evaluation mode, no gradient, the trainer's precision."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            yield
        for module, mode in modes.items():
            module.training = mode

    def _look(self) -> Seen:
        """All target images without augmentation, in the order of the subset."""
        with routed(self.model, "target"):
            seen = [self._seen(images) for images in self._data.target_in_order()]
        return Seen(torch.cat([s.features for s in seen]), torch.cat([s.logits for s in seen]))

    def _watch(self, name: str, value: Tensor, images: int = 1) -> None:
        if name not in self._watched:
            self._watched[name] = RunningMean()
        self._watched[name].update(value, images)

    def take_terms(self) -> dict[str, float]:
        means = {name: mean.compute() for name, mean in self._watched.items()}
        self._watched = {}
        return means

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        with routed(self.model, self._domain((*self.domains, *self.mixed_domains)[dataloader_idx])):
            super().validation_step(batch, batch_idx, dataloader_idx)

    def _domain(self, name: str) -> Domain:
        return "target" if name == self.target else "source"


class Calibrator(Adapter):
    """Changes the network before its evaluation, without training."""

    def on_validation_start(self) -> None:
        with self._looking():
            self.method.calibrate(self.model, lambda: self._data.target_shuffled())


class Stream(Adapter):
    """Shows the target once, batch by batch; the method predicts each and learns from it.

    Means of what a method logs are over images, because batches differ in size.

    Attributes:
        online: (n, classes) float32 predictions in the order of ``online_index``, made when images arrived.
        online_index: (n,) int64, positions in the target subset.

    Raises:
        Diverged: at the end of the stream if one of these predictions is not finite.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self._online: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> None:
        self.trained_parameters()

    def training_step(self, batch: Paired, batch_idx: int) -> None:  # type: ignore[override]
        self.method.watched = {}
        logits = self.method.observe(self.model, batch.target.images)
        self._online.append((batch.target.position, logits.float()))
        n = len(logits)
        for name, value in self.method.watched.items():
            self._watch(name, value.detach(), n)
        self.train_loss.update(self.method.watched.get("loss", torch.zeros(())), n)

    def check_loss(self) -> float:
        if not self.online.isfinite().all():
            raise self._diverged("logits of the stream were not finite", self.current_epoch + 1)
        return super().check_loss()

    @property
    def online_index(self) -> Tensor:
        return torch.cat([index for index, _ in self._online]).cpu()

    @property
    def online(self) -> Tensor:
        return torch.cat([logits for _, logits in self._online]).cpu()
