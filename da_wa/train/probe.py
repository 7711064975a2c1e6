"""Linear probe: a logistic regression on the features of a frozen network, in place of fine-tuning."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from da_wa.data.augment import View
from da_wa.data.crops import central
from da_wa.data.datamodule import Subset
from da_wa.errors import ConfigError, printable
from da_wa.records.outputs import Outputs, round_logits
from da_wa.train.classifier import half
from da_wa.train.engine import device_name, peak_memory_mb
from da_wa.train.fit import extractor, fit
from da_wa.train.flops import count_flops, matrix_rate, matrix_type
from da_wa.train.frozen import on_features
from da_wa.train.recipe import AnyRecipe
from da_wa.train.subsets import Subsets
from da_wa.train.train import Cost, Task, Trained, packed


@dataclass(frozen=True)
class Head:
    """A fitted classifier: logits = features · weightᵀ + bias.

    Attributes:
        weight: (k, d) float64.
        bias: (k,) float64.
        C: the chosen 1 / L2 penalty.
        validation: accuracy in the cross-validation by C, fractions; empty if there was nothing to choose.
    """

    weight: np.ndarray
    bias: np.ndarray
    C: float
    validation: Mapping[float, float]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (n, d) -> logits (n, k) float64."""
        logits: np.ndarray = features.astype(np.float64) @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class Probe(AnyRecipe):
    """Multinomial logistic regression with an L2 penalty, in float64.

    It minimises C · Σᵢ −log softmax(W xᵢ/s + b)[yᵢ] + ‖W‖²/2 over W and b; for two classes the penalty is on the
    difference of their rows, as in scikit-learn. *s* is the root mean square of the source's centred features, one
    number, so that a value of C means the same for every network. Features are not scaled one by one, which would
    enlarge those that hardly vary. C is chosen by a stratified cross-validation on the source's training images with
    the one-standard-error rule (Breiman et al. 1984): the strongest penalty whose accuracy is within one standard
    error, √(p (1 − p) / n), of the highest accuracy p.

    Args:
        C: candidates; a single one is taken as it is.
        folds: of the cross-validation; fewer where the smallest class has fewer images.
        iterations: of L-BFGS, at most.
        input: how images are shown to the network, see :func:`~da_wa.data.crops.central`.
        name: in the identity of runs.

    >>> features = np.array([[0.0, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> head = Probe([0.1, 1.0], folds=2).fit(features, np.array([0, 0, 1, 1]), classes=2, seed=0)
    >>> head.C, head(features).argmax(1).tolist()
    (0.1, [0, 0, 1, 1])
    """

    C: Sequence[float]
    folds: int = 5
    iterations: int = 1000
    input: Mapping[str, Any] = field(default_factory=dict)
    name: str = "probe"
    new_head: ClassVar[bool] = True

    @property
    def view(self) -> View:
        return central(**self.input)

    def check_images(self, name: str, labels: np.ndarray) -> None:
        """Check that the training images ``labels`` (n,) of the source ``name`` suffice.

        Raises:
            ConfigError: a class has too few images for a cross-validation, or there is one class only.
        """
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) < 2:
            raise ConfigError(f"{printable(name)} has training images of one class only; a probe needs two or more.")
        if len(self.C) > 1 and counts.min() < 2:
            raise ConfigError(
                f"{printable(name)} has one training image of class {classes[counts.argmin()]}, too few for a "
                "cross-validation. Give one number instead, e.g. finetune.C=[0.1], or leave the class out."
            )

    def fit(self, features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> Head:
        """Choose C and fit all images.

        Args:
            features: (n, d).
            labels: (n,) int64.
            classes: k; a class without images is never predicted.
            seed: of the folds.

        Raises:
            ConfigError: it does not converge.
        """
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        scale = float(np.sqrt(np.mean(x**2))) or 1.0
        x /= scale
        candidates = sorted(set(self.C))
        validation = self._validate(x, labels, candidates, seed) if len(candidates) > 1 else {}
        C = within_one_error(validation, len(labels)) if validation else candidates[0]
        fitted = self._regression(C, tolerance=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                fitted.fit(x, labels)
            except ConvergenceWarning as error:
                raise ConfigError(
                    f"The logistic regression with C={C:g} did not converge in {self.iterations} iterations. "
                    "Set a higher finetune.iterations=…, or smaller values of finetune.C."
                ) from error
        weight, bias = fitted.coef_, fitted.intercept_
        if len(fitted.classes_) == 2:  # one row: the difference of the two
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        whole = Head(np.zeros((classes, x.shape[1])), np.full(classes, _NEVER), C, validation)
        whole.weight[fitted.classes_] = weight / scale
        whole.bias[fitted.classes_] = bias - weight @ mean / scale
        return whole

    def _validate(
        self, x: np.ndarray, labels: np.ndarray, candidates: Sequence[float], seed: int
    ) -> dict[float, float]:
        """The accuracy of every candidate over all folds; each fit starts from that of the stronger penalty."""
        smallest = np.unique(labels, return_counts=True)[1].min()
        splits = StratifiedKFold(min(self.folds, smallest), shuffle=True, random_state=seed)
        correct = dict.fromkeys(candidates, 0)
        for train, test in splits.split(x, labels):
            model = self._regression(candidates[0], tolerance=1e-5, warm_start=True)
            for c in candidates:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # the final fit is checked
                    model.set_params(C=c).fit(x[train], labels[train])
                correct[c] += int((model.predict(x[test]) == labels[test]).sum())
        return {c: right / len(labels) for c, right in correct.items()}

    def _regression(self, C: float, tolerance: float, **options: Any) -> LogisticRegression:
        return LogisticRegression(C=C, tol=tolerance, max_iter=self.iterations, **options)


def within_one_error(validation: Mapping[float, float], n: int) -> float:
    """The strongest penalty that is not clearly worse than the best one (Breiman et al. 1984).

    Args:
        validation: accuracy by C, fractions.
        n: images that each accuracy is of.

    >>> within_one_error({0.01: 0.85, 0.1: 0.89, 1.0: 0.90}, n=400)  # one standard error of 0.90 is 0.015
    0.1
    """
    best = max(validation.values())
    enough = best - math.sqrt(best * (1 - best) / n)
    return min(c for c, accuracy in validation.items() if accuracy >= enough)


_NEVER = -1e4
"""Logit of a class without training images."""


@fit.register
def _probe(recipe: Probe, task: Task) -> Trained:
    """Fit the head of a frozen network on the source and evaluate it: one epoch.

    The head is copied into the network, which then predicts from images.
    """
    extract = extractor(recipe, task, task.model)
    started = time.perf_counter()
    model, settings = extract.model, extract.settings
    subsets, computed = on_features(task.subsets, extract)
    assert subsets.train is not None, "training on the source needs source images"
    extracted = time.perf_counter()
    train, x = subsets.train, _features(subsets.train)
    head = recipe.fit(x, train.labels, len(train.domain.classes), task.seed)
    fitted = time.perf_counter()
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))
    outputs = _outputs(subsets, head)
    row = {"epoch": 1, **_fit_of(head(x), train.labels), "terms": {"C": head.C, **_named(head.validation)}}
    for logger in task.loggers:
        logger.log_hyperparams(dict(task.logged))
        accuracies = {name: domain.correct[-1] / len(domain.index) for name, domain in outputs.domains.items()}
        logger.log_metrics({f"accuracy/{name}": float(value) for name, value in accuracies.items()}, step=1)
        logger.save()
        logger.finalize("success")
    cost = Cost(
        settings=settings,
        device=device_name(settings.accelerator),
        train_s=fitted - extracted,
        eval_s=extracted - started,
        total_s=time.perf_counter() - started,
        images_per_s=computed / (extracted - started),
        peak_memory_mb=peak_memory_mb(settings.accelerator),
        flops=computed * count_flops(model, extract.shape(task.subsets.evaluate[0].domain)).prediction,
        matrix_rate=matrix_rate(settings.device, matrix_type(settings.precision), torch.get_num_threads()),
    )
    task.notify(1, 1)
    return Trained([row], outputs, 0, cost)


def _outputs(subsets: Subsets, head: Head) -> Outputs:
    """What the head makes of subsets whose images are features."""
    logits = [torch.from_numpy(head(_features(subset))) for subset in subsets.evaluate]
    seen = zip(subsets.evaluate, subsets.sample, strict=True)
    features = [half(torch.from_numpy(_features(subset)[rows])) for subset, rows in seen]
    mixed = [torch.from_numpy(round_logits(head(_features(made.images)))) for made in subsets.mixed]
    return packed(subsets, {1: logits}, {1: features}, {1: mixed})


def _features(subset: Subset) -> np.ndarray:
    """(n, d) float32."""
    found: np.ndarray = subset.domain.pixels[subset.index][:, :, 0, 0]
    return found


def _fit_of(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean cross-entropy and accuracy on the training images."""
    z = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
    return {"loss": float(losses.mean()), "accuracy": float((logits.argmax(axis=1) == labels).mean())}


def _named(validation: Mapping[float, float]) -> dict[str, float]:
    return {f"cross-validation at C={c:g}": accuracy for c, accuracy in validation.items()}
