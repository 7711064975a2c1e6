"""Pre-train every norm with the same budget and its own learning rate.

A single rate for all norms favours some of them. The study selects a rate per norm by accuracy on held-out *training*
images of CIFAR after a short training; test images are not used. Then it trains several seeds of every norm at the
selected rate. Stages:

==========  =========================================================================
search      every norm at every rate on most training images; ``rates.csv``
train       every norm at its selected rate on all training images, several seeds
report      ``pretraining.csv`` (test accuracy), ``curves.csv``, ``curves.png``
==========  =========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from da_wa.errors import UserError
from da_wa.launchers.launch import Planned
from da_wa.records.files import write_bytes, write_json
from da_wa.runs.jobs import PretrainJob
from da_wa.studies.study import Bench, scope_options

SELECTED = "selected.json"


@dataclass(frozen=True)
class Scope:
    """The size of a study.

    Attributes:
        search_epochs: of every training of the search.
        epochs: of the final networks.
        seeds: of the final networks.
        options: overrides for every experiment.
    """

    search_epochs: int
    epochs: int
    seeds: Sequence[int]
    options: Sequence[str]


class Pretraining:
    """The study; see the module docstring.

    Args:
        experiment: the file in ``conf/experiment`` that all trainings start from.
        norms: in the order in which they are trained.
        rates: the learning rates of the search.
        holdout: the fraction of training images that the search holds out.
        scopes: plain values of :class:`Scope` by name.
    """

    def __init__(
        self,
        experiment: str,
        norms: Sequence[str],
        rates: Sequence[float],
        holdout: float,
        scopes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.experiment, self.norms, self.rates, self.holdout = experiment, norms, rates, holdout
        self.scopes = {name: Scope(**node) for name, node in scopes.items()}

    def options(self, scope: str) -> list[str]:
        """Overrides for every experiment of a scope.

        Raises:
            ConfigError: there is no such scope.
        """
        return scope_options(self.experiment, self.scopes, scope)

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        chosen = self.scopes[scope]
        return {
            "search": partial(self._search, scope=chosen),
            "train": partial(self._train, scope=chosen),
            "report": partial(self._report, scope=chosen),
        }

    def extra_stages(self) -> dict[str, Callable[[Bench], None]]:
        """None."""
        return {}

    def _search(self, bench: Bench, scope: Scope) -> None:
        """Train every norm at every rate; of equally accurate rates the smaller is selected."""
        rows: list[dict[str, Any]] = []
        for norm, rate in product(self.norms, self.rates):
            planned = bench.prepare(
                "search",
                [
                    f"norms=[{norm}]",
                    f"pretrain.holdout={self.holdout}",
                    f"pretrain.recipe.epochs={scope.search_epochs}",
                    f"pretrain.recipe.optimizer.lr={rate}",
                ],
            )
            bench.run(planned)
            rows += [{"norm": norm, "lr": rate, **_outcome(job)} for job in _networks(planned)]
            bench.write_csv("rates.csv", pd.DataFrame(rows))
        found = pd.DataFrame(rows).sort_values(["accuracy", "lr"], ascending=[False, True], kind="stable")
        best = found.dropna(subset="accuracy").drop_duplicates("norm").set_index("norm")["lr"]
        write_json(bench.out / SELECTED, {norm: float(best[norm]) for norm in self.norms if norm in best})

    def _train(self, bench: Bench, scope: Scope) -> None:
        for seed, norm in product(scope.seeds, self.norms):
            bench.run(self._final(bench, scope, norm, seed))

    def _final(self, bench: Bench, scope: Scope, norm: str, seed: int) -> Planned:
        rates = _selected(bench.out)
        if norm not in rates:
            raise UserError(
                f"{norm} diverged at every rate of the search; remove it from `norms` in the file of the study."
            )
        return bench.prepare(
            "networks",
            [
                f"norms=[{norm}]",
                f"pretrain.seeds=[{seed}]",
                f"pretrain.recipe.epochs={scope.epochs}",
                f"pretrain.rates={{{norm}:{rates[norm]}}}",
            ],
        )

    def _report(self, bench: Bench, scope: Scope) -> None:
        from da_wa.report.figures import learning_curves, rendered  # imports matplotlib

        rates, rows, curves = _selected(bench.out), [], []
        for norm, seed in product(self.norms, scope.seeds):
            for job in _networks(self._final(bench, scope, norm, seed)):
                outcome = _outcome(job)
                label = job.config["norm"]["label"]
                row = {"norm": norm, "label": label, "seed": seed, "lr": rates[norm]}
                rows.append({**row, **outcome, "network": job.id})
                curves += [{"norm": norm, "label": label, "seed": seed, **point} for point in _curve(job)]
        bench.write_csv("pretraining.csv", pd.DataFrame(rows))
        bench.write_csv("curves.csv", pd.DataFrame(curves))
        figure = learning_curves(_lines(pd.DataFrame(curves)), [f"seed {seed}" for seed in scope.seeds])
        write_bytes(bench.out / "curves.png", rendered(figure, "png"))
        bench.console.print(pd.DataFrame(rows).to_string(index=False), highlight=False, markup=False)


def _networks(planned: Planned) -> list[PretrainJob]:
    return [job for job in planned.jobs if isinstance(job, PretrainJob)]


def _result(job: PretrainJob) -> Mapping[str, Any]:
    from da_wa.models.checkpoint import read_header  # imports torch

    return read_header(job.checkpoint).result if job.checkpoint.exists() else job.divergence() or {}


def _outcome(job: PretrainJob) -> dict[str, Any]:
    """Epochs, counts, accuracy (a fraction), final loss, images per second, processor and commit of a training."""
    result = _result(job)
    correct, n, curve = result.get("correct"), result.get("n"), result.get("curve") or []
    provenance = result.get("provenance", {})
    return {
        "epochs": len(curve),
        "correct": correct,
        "n": n,
        "accuracy": None if correct is None or n is None else correct / n,
        "loss": curve[-1]["loss"] if curve else None,
        "images_per_s": result.get("cost", {}).get("images_per_s"),
        "cpu": provenance.get("cpu"),
        "commit": provenance.get("commit"),
    }


def _curve(job: PretrainJob) -> Sequence[Mapping[str, float]]:
    curve: Sequence[Mapping[str, float]] = _result(job).get("curve") or []
    return curve


def _lines(curves: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Accuracy on augmented training images in percent, a line for every seed of a norm."""
    percent = curves.assign(mean=100 * curves["accuracy"], low=100 * curves["accuracy"], high=100 * curves["accuracy"])
    return {
        str(label): {f"seed {seed}": line for seed, line in of_norm.groupby("seed")}
        for label, of_norm in percent.groupby("label", sort=False)
    }


def _selected(out: Path) -> dict[str, float]:
    """The rate of every norm that the search selected."""
    try:
        found: dict[str, float] = json.loads((out / SELECTED).read_text())
    except FileNotFoundError:
        raise UserError(f"{out} has no {SELECTED} yet: run stage=search first.") from None
    return found
