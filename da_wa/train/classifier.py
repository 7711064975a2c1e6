"""The LightningModule of every training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from da_wa.data.datamodule import epoch_seed
from da_wa.data.loader import Batch
from da_wa.errors import Diverged
from da_wa.models.backbone import Backbone, has_running_statistics
from da_wa.models.fixup import scalar_parameters
from da_wa.records.outputs import round_logits
from da_wa.train.recipe import MakeOptimizer, MakeSchedule
from da_wa.train.running import RunningMean

HISTORY = ("curve", "logits", "features", "mixed_logits")
"""Attributes of :class:`Classifier` that its state keeps."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, k) float32 and labels (n,) int64 -> loss ()."""


Rate = tuple[float, int]
"""A factor and a divisor of the learning rate."""


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of training on labelled source images alone.

    Args:
        label_smoothing: in [0, 1), see Szegedy et al. 2016, arXiv 1512.00567, Sec. 7.
    """
    return partial(F.cross_entropy, label_smoothing=label_smoothing)


class Classifier(LightningModule):
    """Trains a backbone and evaluates it on whole domains.

    Args:
        model: images (n, 3, h, w) -> logits (n, classes).
        num_classes: classes of the head.
        objective: the training loss.
        optimizer: called with parameter groups.
        schedule: called with the optimiser and ``total_steps``; stepped after every batch.
        domains: names of the evaluated domains, one for every validation loader but the last ones.
        mixed_domains: names of the domains of mixtures, one for each of these.
        sample: numbers of the images whose features are kept, by domain.
        seed: with the epoch's number it fixes augmentation and dropout.
        backbone_rate: learning rate of the backbone, relative to that of everything else.
        frozen_statistics: BatchNorms train with their running statistics, which stay as they are.

    Attributes:
        fused: request the fused kernel of optimisers that have one.
        curve: one row an epoch: epoch (from 1), loss, accuracy (labelled training images, augmented), lr, terms (by
            name).
        logits: evaluated epoch -> one tensor a domain, (n, classes) float16 in loader order, see
            :func:`~da_wa.records.outputs.round_logits`.
        features: evaluated epoch -> one tensor a domain, (m, d) float16 of the images of ``sample`` in loader order.
        mixed_logits: evaluated epoch -> one tensor for every domain of mixtures.

    Raises:
        Diverged: at the end of an epoch whose training loss is not finite, or whose logits are not in an evaluation.
    """

    def __init__(
        self,
        model: Backbone,
        num_classes: int,
        objective: Objective,
        optimizer: MakeOptimizer,
        schedule: MakeSchedule,
        domains: Sequence[str],
        mixed_domains: Sequence[str] = (),
        sample: Sequence[Tensor] = (),
        *,
        seed: int,
        backbone_rate: float = 1.0,
        frozen_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.backbone_rate, self.frozen_statistics = backbone_rate, frozen_statistics
        self.model, self.objective = model, objective
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.domains, self.mixed_domains, self.sample = tuple(domains), tuple(mixed_domains), tuple(sample)
        self.seed = seed
        self.fused = False
        self.curve: list[dict[str, Any]] = []
        self.logits: dict[int, list[Tensor]] = {}
        self.features: dict[int, list[Tensor]] = {}
        self.mixed_logits: dict[int, list[Tensor]] = {}
        accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.train_loss, self.train_accuracy = RunningMean(), RunningMean()
        self.domain_accuracy = nn.ModuleList(accuracy.clone() for _ in domains)
        self.labelled = True  # whether training batches have labels
        self._batches: list[list[Tensor]] = []
        self._features: list[list[Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) -> logits (n, classes)."""
        logits: Tensor = self.model(images)
        return logits

    def configure_optimizers(self) -> Any:
        """Groups of one learning rate each, that of the head first; everything decays."""
        grouped: dict[Rate, list[nn.Parameter]] = {(1.0, 1): []}
        rates = self._rates()
        for parameter in self.trained_parameters():
            grouped.setdefault(rates.get(id(parameter), (1.0, 1)), []).append(parameter)
        fused = {"fused": True} if self.fused and "fused" in signature(self.make_optimizer).parameters else {}
        groups = [(factor, divisor, group) for (factor, divisor), group in grouped.items() if group]
        optimizer = self.make_optimizer([{"params": groups[0][2]}], **fused)
        base = optimizer.defaults["lr"]
        optimizer.param_groups[0]["lr"] = base * groups[0][0] / groups[0][1]
        for factor, divisor, group in groups[1:]:
            optimizer.add_param_group({"params": group, "lr": base * factor / divisor})
        schedule = self.make_schedule(optimizer, total_steps=self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rates(self) -> dict[int, Rate]:
        """The relative learning rates of the backbone's parameters, by id; Fixup's scalars have a tenth of it."""
        head = {id(p) for p in self.model.head.parameters()}
        rates = {id(p): (self.backbone_rate, 1) for p in self.model.parameters() if id(p) not in head}
        return rates | {id(p): (self.backbone_rate, 10) for p in scalar_parameters(self.model)}

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains."""
        return list(self.model.parameters())

    def take_terms(self) -> dict[str, float]:
        """Means over the epoch of what else is logged, by name; starts the next epoch."""
        return {}

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch, stream=1))
        if self.frozen_statistics:
            for module in self.model.modules():
                if has_running_statistics(module):
                    module.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, _ = batch
        logits = self(images)
        loss = self.objective(logits.float(), labels)
        self.train_loss.update(loss)
        self.train_accuracy.update(logits.detach().argmax(1) == labels)
        return loss

    def on_train_epoch_end(self) -> None:
        loss = self.check_loss()
        epoch = self.current_epoch + 1
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        row = {"epoch": epoch, "loss": loss}
        if self.labelled:
            row["accuracy"] = self.train_accuracy.compute()
        if groups:  # streams step themselves
            row["lr"] = float(groups[0]["lr"])
        terms = self.take_terms()
        self.train_loss.reset()
        self.train_accuracy.reset()
        self.curve.append(row | ({"terms": terms} if terms else {}))
        names = {"loss": "train/loss", "accuracy": "train/accuracy", "lr": "lr"}
        self.log_dict({names[key]: value for key, value in row.items() if key in names})
        self.log_dict({f"train/{name}": value for name, value in terms.items()})

    def check_loss(self) -> float:
        """The mean training loss of the current epoch.

        Raises:
            Diverged: it is not finite.
        """
        loss = self.train_loss.compute()
        if not math.isfinite(loss):
            raise self._diverged(f"the training loss was {loss}", self.current_epoch + 1)
        return loss

    def _diverged(self, what: str, epoch: int) -> Diverged:
        precision = self.trainer.precision
        other = "" if precision == "32-true" else "trainer.precision=32-true, "
        return Diverged(
            f"{what} in epoch {epoch} (trainer.precision={precision}); try {other}"
            "a lower learning rate (…lr=), or model.gain_init=fixup for a ResNet without activation norm",
            epoch,
            self.curve,
        )

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.check_loss()
        self._batches = [[] for _ in (*self.domains, *self.mixed_domains)]
        self._features = [[] for _ in self.sample]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels, numbers = batch
        with torch.compiler.set_stance("force_eager"):  # see Settings.compile
            features = self.model.features(images)
            logits = self.model.head(features).float()
        self._batches[dataloader_idx].append(logits)
        if dataloader_idx < len(self.domains):
            self._metrics()[dataloader_idx].update(logits, labels)
        if dataloader_idx < len(self.sample):
            kept = torch.isin(numbers, self.sample[dataloader_idx].to(numbers.device))
            self._features[dataloader_idx].append(features[kept])

    def on_validation_epoch_end(self) -> None:
        epoch = self.current_epoch + (self.trainer.state.fn == TrainerFn.FITTING)  # fit counts an epoch when it ends
        whole = [torch.cat(batches).cpu().numpy() for batches in self._batches]
        for name, logits in zip((*self.domains, *self.mixed_domains), whole, strict=True):
            if not np.isfinite(logits).all():
                raise self._diverged(f"logits of {name} were not finite", epoch)
        rounded = [torch.from_numpy(round_logits(logits)) for logits in whole]
        self.logits[epoch], self.mixed_logits[epoch] = rounded[: len(self.domains)], rounded[len(self.domains) :]
        self.features[epoch] = [half(torch.cat(batches)) for batches in self._features]
        self._batches, self._features = [], []
        for name, metric in zip(self.domains, self._metrics(), strict=True):
            self.log(f"accuracy/{name}", float(metric.compute()))
            metric.reset()

    def _metrics(self) -> list[MulticlassAccuracy]:
        return [metric for metric in self.domain_accuracy if isinstance(metric, MulticlassAccuracy)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = {name: getattr(self, name) for name in HISTORY}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in HISTORY:
            setattr(self, name, checkpoint["history"][name])


def half(features: Tensor) -> Tensor:
    """Float16 on the host; values that are too large become the largest."""
    most = torch.finfo(torch.float16).max
    return features.float().clamp(-most, most).half().cpu()
