"""Fine-tuning: one run per source and seed, evaluated on every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger

from da_wa.data.augment import Normalize
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import DomainDataModule, Subset
from da_wa.data.splits import Evaluation
from da_wa.models.backbone import Backbone
from da_wa.train.classifier import Classifier
from da_wa.train.fitting import Fitted, Notify, fit
from da_wa.train.recipe import Recipe
from da_wa.train.settings import Settings


@dataclass(frozen=True)
class Finetuned:
    """What came of a run, in plain values.

    Attributes:
        results: one row per domain and selection: domain, role, selection, epoch, correct, n.
        evaluations: one row per evaluated epoch and domain: epoch, domain, role, correct, n.
        curve: one row an epoch: epoch, loss, accuracy, lr.
        predictions: ``epochs`` (p,), and for domain number k ``index_k`` (n,), ``label_k`` (n,),
            ``predicted_k`` (p, n); after the last epoch ``confidence_k`` (n,), the probability of the
            predicted label, and ``feature_k`` (m, d) of the images ``feature_index_k`` (m,).
        fitted: how it was computed and what it took.
    """

    results: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    curve: list[dict[str, float]]
    predictions: dict[str, np.ndarray]
    fitted: Fitted


def finetune(
    model: Backbone,
    domains: Sequence[DecodedDomain],
    source: str,
    *,
    protocol: Evaluation,
    recipe: Recipe,
    normalize: Normalize,
    seed: int,
    settings: Settings,
    workdir: Path,
    notify: Notify = lambda done, epochs: None,
    loggers: Sequence[Logger] = (),
    logged: Mapping[str, Any] | None = None,
) -> Finetuned:
    """Train ``model`` on one domain and predict the others.

    Args:
        model: pre-trained, with a fresh head for the classes of the domains.
        domains: all domains over one class list; those that are not the source are targets.
        source: the name of the domain to train on.
        protocol: which images train and which are evaluated.
        recipe: how to train.
        normalize: of the images.
        seed: of splits, order and augmentation.
        settings: how to compute.
        workdir: holds the state to resume from.
        notify: told of every epoch.
        loggers: Lightning's.
        logged: what they are told of the run beside its metrics.

    Raises:
        Diverged: the training loss is not finite.
    """
    evaluated: list[Subset] = []
    train: Subset | None = None
    for domain in domains:
        if domain.name == source:
            kept, holdout = protocol.source(domain.name, domain.labels, seed)
            train = Subset(domain, kept)
            evaluated.append(Subset(domain, holdout))
        else:
            evaluated.append(Subset(domain, protocol.target(domain.name, domain.labels, seed)))
    assert train is not None, f"{source} is none of {[d.name for d in domains]}"

    extracted = [Subset(domain, feature_sample(domain)) for domain in domains]
    data = DomainDataModule(
        train,
        evaluated,
        extracted,
        seed=seed,
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        normalize=normalize,
        resident_gb=settings.resident_gb,
    )
    module = Classifier(
        model,
        len(train.domain.classes),
        recipe.optimizer,
        recipe.schedule,
        [subset.domain.name for subset in evaluated],
        seed=seed,
        label_smoothing=recipe.label_smoothing,
    )
    fitted = fit(
        module,
        data,
        epochs=recipe.epochs,
        evaluate_every=recipe.evaluate_every,
        settings=settings,
        resume_from=workdir / "last.ckpt",
        notify=notify,
        loggers=loggers,
        logged=logged,
    )
    epochs = sorted(module.predictions)
    predictions: dict[str, np.ndarray] = {"epochs": np.array(epochs, np.int32)}
    evaluations = []
    for k, subset in enumerate(evaluated):
        predicted = np.stack([module.predictions[epoch][k].numpy() for epoch in epochs]).astype(np.int16)
        predictions[f"index_{k}"] = subset.index.astype(np.int32)
        predictions[f"label_{k}"] = subset.labels.astype(np.int16)
        predictions[f"predicted_{k}"] = predicted
        predictions[f"confidence_{k}"] = module.confidences[k].numpy().astype(np.float16)
        predictions[f"feature_index_{k}"] = extracted[k].index.astype(np.int32)
        predictions[f"feature_{k}"] = fitted.features[k].numpy().astype(np.float16)
        correct = (predicted == subset.labels).sum(axis=1)
        role = "source" if subset.domain.name == source else "target"
        evaluations += [
            {"epoch": epoch, "domain": subset.domain.name, "role": role, "correct": int(c), "n": len(subset)}
            for epoch, c in zip(epochs, correct, strict=True)
        ]
    return Finetuned(select(evaluations), evaluations, module.curve, predictions, fitted)


def feature_sample(domain: DecodedDomain, most: int = 200) -> np.ndarray:
    """Numbers of the images whose features are kept: the same for every norm and seed, (m,) sorted int64."""
    drawn = np.random.default_rng(0).choice(len(domain), min(most, len(domain)), replace=False)
    return np.sort(drawn)


def select(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every domain's row under every selection rule.

    ``last``: the last epoch. ``source_val``: the epoch that is best on the held-out part of the source.
    ``target_oracle``: for each target the epoch that is best on it, which uses its labels. Of equally
    good epochs the latest counts.
    """

    def latest_best(rows: Sequence[dict[str, Any]]) -> int:
        return int(max(rows, key=lambda row: (row["correct"], row["epoch"]))["epoch"])

    last = max(row["epoch"] for row in evaluations)
    on_source = latest_best([row for row in evaluations if row["role"] == "source"])
    chosen: dict[str, Callable[[str], int]] = {
        "last": lambda domain: last,
        "source_val": lambda domain: on_source,
        "target_oracle": lambda domain: latest_best([row for row in evaluations if row["domain"] == domain]),
    }
    results = []
    for selection, epoch_for in chosen.items():
        for row in evaluations:
            is_oracle_of_source = selection == "target_oracle" and row["role"] == "source"
            if row["epoch"] == epoch_for(row["domain"]) and not is_oracle_of_source:
                results.append({**row, "selection": selection})
    return results
