"""The interface of an adaptation method. No type here has a field for target labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from da_wa.models.backbone import Backbone

Phase = Literal["joint", "target", "stream"]
"""``joint``: trains on labelled source and unlabelled target images. ``target``: starts from the network trained on the
source and sees target images only. ``stream``: likewise, one batch at a time, predicting each when it arrives."""


@dataclass(frozen=True)
class Seen:
    """A batch after the network.

    Attributes:
        features: (n, d), float32.
        logits: (n, k), float32.
    """

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Step:
    """What a method may use in one training step.

    Attributes:
        source: the source batch; None without source images (phase ``target``).
        labels: of the source batch, (n,) int64.
        target: the target batch.
        index: positions of the target images in the order of :meth:`Method.refresh`, (n,) int64.
        progress: share of all steps that are done, in [0, 1). Schedules are functions of it alone.
        strong: forwards a second, strongly augmented view of the target batch; costs a forward pass.
    """

    source: Seen | None
    labels: Tensor | None
    target: Seen
    index: Tensor
    progress: float
    strong: Callable[[], Seen]

    @property
    def pair(self) -> tuple[Seen, Seen]:
        """Source and target.

        Raises:
            ValueError: the step has no source images.
        """
        if self.source is None:
            raise ValueError("this step has no source images; set `phase: joint` for a method that needs them")
        return self.source, self.target


class Method(nn.Module):
    """An adaptation method. Its parameters and buffers travel in the training state.

    A subclass sets ``phase`` and overrides what it needs: :meth:`loss` for ``joint`` and ``target``, :meth:`observe`
    for ``stream``, :meth:`calibrate` for a method without training.

    Attributes:
        phase: see :data:`Phase`.
        trains: False for a method of phase ``target`` that only calls :meth:`calibrate`.
        views: True if its loss calls :attr:`Step.strong`; it needs images that can be augmented.
        least_images: images of each domain that a step needs; smaller batches are refused before the first run.
        statistics: the only ``statistics`` with which it is this method; None: any.
        watched: scalars of this step to log beside the loss, without gradient; empty before every step.

    >>> import torch
    >>> class Confident(Method):
    ...     phase = "joint"
    ...
    ...     def loss(self, step):
    ...         return {"confidence": -step.target.logits.softmax(1).amax(1).mean()}
    >>> seen = Seen(torch.zeros(2, 3), torch.zeros(2, 4))
    >>> Confident().loss(Step(seen, torch.zeros(2, dtype=torch.int64), seen, torch.arange(2), 0.0, lambda: seen))
    {'confidence': tensor(-0.2500)}
    """

    phase: ClassVar[Phase]
    trains: ClassVar[bool] = True
    views: ClassVar[bool] = False
    least_images: ClassVar[int] = 1
    statistics: ClassVar[str | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[str, Tensor] = {}

    def build(self, backbone: Backbone, classes: int, images: int) -> None:
        """Create parameters and buffers. Called once, on the CPU, before training; randomness is seeded.

        A second instance is built before the first run, to check the configuration, with a network and with new tensors
        on the device ``meta``: they have shapes and no values, so nothing here may read a value.

        Args:
            backbone: the network; a ``stream`` method may change its modes here.
            classes: k.
            images: the number of target images.
        """

    def trained(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        """The parameters of ``backbone`` that are trained; those of the method always are."""
        return backbone.parameters()

    def calibrate(self, backbone: Backbone, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Change ``backbone`` without training, for methods with ``trains = False``.

        Args:
            backbone: the network, in evaluation mode.
            batches: gives all target images, normalized, (n, 3, h, w) float32 each.
        """
        raise NotImplementedError(f"{type(self).__name__} does not train and has no `calibrate`")

    def refresh(self, look: Callable[[], Seen]) -> None:
        """Called at the start of every epoch, with no gradient.

        Args:
            look: forwards all target images in evaluation mode.
        """

    @property
    def weighted(self) -> bool:
        """Whether it has a loss of its own, which ``weight`` multiplies."""
        return type(self).loss is not Method.loss

    def loss(self, step: Step) -> dict[str, Tensor]:
        """Terms that are added to the loss, by name, each a scalar."""
        return {}

    def observe(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Predict a batch of a stream, then learn from it.

        Args:
            backbone: the network.
            images: (n, 3, h, w) float32, normalized.

        Returns:
            Logits (n, k) from before the update.
        """
        raise NotImplementedError(f"{type(self).__name__} has phase `stream` and no `observe`")
