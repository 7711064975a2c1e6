"""Every loss against its oracle, as a table and as golden values for other packages.

    >>> all(row.difference < 1e-10 for row in rows())
    True

:mod:`da_wa.adapt.oracles` needs NumPy only, and :func:`golden` writes plain arrays: both can check the losses of
another package. Here it is a CORAL with n instead of n - 1:

    >>> def other(source, target):
    ...     difference = np.cov(source.T, bias=True) - np.cov(target.T, bias=True)
    ...     return (difference**2).sum() / (4 * source.shape[1] ** 2)
    >>> inputs = seeded_inputs(0)
    >>> source, target = inputs["source_features"], inputs["target_features"]
    >>> print(f"{abs(other(source, target) - oracles.coral(source, target)):.2f}")
    0.19
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from da_wa.adapt import alignment, losses, moments, oracles, pseudo_labels
from da_wa.adapt.oracles import Array

SEEDS = (0, 1, 2)
SHAPES = ((12, 9), (7, 11), (6, 6))
"""n_s and n_t for each seed."""
CLASSES, FEATURES = 5, 4


@dataclass(frozen=True)
class Case:
    """One function and its oracle.

    Attributes:
        name: of the row.
        inputs: names of the inputs, see :func:`seeded_inputs`; both functions take them in this order.
        ours: of float64 tensors.
        oracle: of float64 arrays.
        trains: the inputs that the loss sends a gradient to; empty if the result is not a loss.

    >>> next(case for case in cases() if case.name == "mcc").trains
    ('target_logits',)
    """

    name: str
    inputs: tuple[str, ...]
    ours: Callable[..., Tensor]
    oracle: Callable[..., ArrayLike]
    trains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The largest absolute difference between a function and its oracle over all seeds.

    >>> Row("mcc", "da_wa.adapt.oracles.mcc", 1e-16).difference
    1e-16
    """

    name: str
    oracle: str
    difference: float


def seeded_inputs(seed: int) -> dict[str, Array]:
    """Float64 inputs, different numbers of source and target rows for most seeds.

    >>> seeded_inputs(0)["source_features"].shape, seeded_inputs(0)["target_features"].shape
    ((12, 4), (9, 4))
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, Array] = {}
    for domain, n in zip(("source", "target"), SHAPES[seed % len(SHAPES)], strict=True):
        shift = float(domain == "target")
        inputs[f"{domain}_features"] = rng.normal(shift, 1 + shift, (n, FEATURES))
        inputs[f"{domain}_logits"] = rng.normal(0, 3, (n, CLASSES))
        inputs[f"{domain}_adversary"] = rng.normal(0, 2, (n, CLASSES))
        inputs[f"{domain}_outputs"] = rng.normal(0, 2, n)
    inputs["strong_logits"] = rng.normal(0, 3, inputs["target_logits"].shape)
    inputs["map_features"], inputs["map_classes"] = rng.normal(size=(FEATURES, 8)), rng.normal(size=(CLASSES, 8))
    return inputs


def cases() -> list[Case]:
    """All functions that have an oracle.

    >>> len(cases()) > 15
    True
    """
    s_f, t_f = "source_features", "target_features"
    s_z, t_z = "source_logits", "target_logits"
    outputs = ("source_outputs", "target_outputs")
    adversary = ("source_adversary", "target_adversary")
    return [
        Case("coral", (s_f, t_f), alignment.coral, oracles.coral, (s_f, t_f)),
        Case("dan", (s_f, t_f), alignment.mmd, oracles.mmd, (s_f, t_f)),
        Case("dann", outputs, alignment.domain_bce, oracles.domain_bce, outputs),
        Case("cdan: condition", (t_f, t_z), alignment.condition, oracles.condition),
        Case("cdan: random maps", (t_f, t_z, "map_features", "map_classes"), _mapped, oracles.condition_randomly),
        Case("cdan: entropy weights", (t_z,), alignment.entropy_weights, oracles.entropy_weights),
        Case("cdan: weighted", (*outputs, s_z, t_z), _weighted, oracles.entropy_weighted_bce, outputs),
        Case("unit scale", (s_f, t_f), _scaled, oracles.unit_scale),
        Case("mdd", (s_z, adversary[0], t_z, adversary[1]), losses.mdd, oracles.mdd, adversary),
        Case("mcc", (t_z,), losses.mcc, oracles.mcc, (t_z,)),
        Case("bnm", (t_z,), losses.bnm, oracles.bnm, (t_z,)),
        Case("afn", (t_f,), alignment.afn, oracles.afn, (t_f,)),
        Case("fixmatch", ("strong_logits", t_z), pseudo_labels.fixmatch, oracles.fixmatch, ("strong_logits",)),
        Case("adamatch", ("strong_logits", t_z, s_z), _adamatch, oracles.adamatch, ("strong_logits",)),
        Case("shot: information", (t_z,), losses.information_maximization, oracles.information_maximization, (t_z,)),
        Case("shot: labels", (t_f, t_z), pseudo_labels.centroid_labels, oracles.centroid_labels),
        Case("tent", (t_z,), _tent, oracles.mean_entropy, (t_z,)),
        Case("sar: reliable", (t_z,), _sar, oracles.reliable_entropy, (t_z,)),
        Case("sar: sharpness", (outputs[0],), _sharpness, oracles.sharpness_step),
        Case("adabn: merged", (t_f,), _merged, oracles.moments),
    ]


def _mapped(features: Tensor, logits: Tensor, *maps: Tensor) -> Tensor:
    return alignment.condition(features, logits, (maps[0], maps[1]))


def _weighted(source: Tensor, target: Tensor, source_logits: Tensor, target_logits: Tensor) -> Tensor:
    weights = alignment.entropy_weights(source_logits), alignment.entropy_weights(target_logits)
    return alignment.domain_bce(source, target, *weights)


def _scaled(source: Tensor, target: Tensor) -> Tensor:
    return torch.cat(alignment.unit_scale(source, target))


def _adamatch(strong: Tensor, weak: Tensor, source: Tensor) -> Tensor:
    threshold = pseudo_labels.relative_threshold(source)
    return pseudo_labels.fixmatch(strong, pseudo_labels.align_distribution(weak, source), threshold)


def _tent(logits: Tensor) -> Tensor:
    return losses.entropy(logits).mean()


def _sar(logits: Tensor) -> Tensor:
    return losses.masked_mean(losses.entropy(logits), losses.reliable(logits))


def _sharpness(gradient: Tensor) -> Tensor:
    return torch.cat(losses.sharpness_step([gradient[:3], gradient[3:]]))


def _merged(x: Tensor) -> Tensor:
    both = moments.merge_moments(moments.moments(x[:2]), moments.moments(x[2:]))
    return torch.stack([both.mean, both.var])


def rows() -> list[Row]:
    """The table of ``da-wa conform``.

    >>> rows()[0].name, rows()[0].oracle
    ('coral', 'da_wa.adapt.oracles.coral')
    """
    return [
        Row(
            case.name,
            f"{case.oracle.__module__}.{case.oracle.__qualname__}",
            max(_difference(case, seeded_inputs(seed)) for seed in SEEDS),
        )
        for case in cases()
    ]


def _difference(case: Case, inputs: Mapping[str, Array]) -> float:
    arrays = [inputs[name] for name in case.inputs]
    ours = case.ours(*map(torch.from_numpy, arrays)).detach().numpy()
    truth = np.asarray(case.oracle(*arrays))
    if ours.shape != truth.shape:
        raise ValueError(f"{case.name}: shape {ours.shape} of the function, {truth.shape} of the oracle")
    return float(np.abs(ours - truth).max())


def golden(path: Path) -> None:
    """Write inputs, values and gradients of all cases as one ``.npz`` of float64 arrays, about 70 kB.

    Keys: ``SEED/inputs/INPUT``, ``SEED/CASE/value`` and, for losses, ``SEED/CASE/gradient/INPUT``. Values are those of
    the oracles; gradients are autograd's of the losses, whose tests compare them with finite differences.

    Args:
        path: a file to write, replaced if it exists.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     golden(Path(folder) / "golden.npz")
    ...     values = dict(np.load(Path(folder) / "golden.npz", allow_pickle=False))
    >>> values["0/mcc/gradient/target_logits"].shape
    (9, 5)
    """
    arrays: dict[str, Array] = {}
    for seed in SEEDS:
        inputs = seeded_inputs(seed)
        arrays |= {f"{seed}/inputs/{name}": x for name, x in inputs.items()}
        for case in cases():
            arrays[f"{seed}/{case.name}/value"] = np.asarray(case.oracle(*(inputs[name] for name in case.inputs)))
            for name, gradient in gradients(case, inputs).items():
                arrays[f"{seed}/{case.name}/gradient/{name}"] = gradient
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def gradients(case: Case, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The gradient of a loss for every input that it trains; empty for other functions.

    >>> case = next(case for case in cases() if case.name == "coral")
    >>> sorted(gradients(case, seeded_inputs(0)))
    ['source_features', 'target_features']
    """
    if not case.trains:
        return {}
    tensors = {name: torch.from_numpy(inputs[name]).clone().requires_grad_(name in case.trains) for name in case.inputs}
    loss = case.ours(*tensors.values())
    found = torch.autograd.grad(loss, [tensors[name] for name in case.trains])
    return {name: gradient.numpy() for name, gradient in zip(case.trains, found, strict=True)}
