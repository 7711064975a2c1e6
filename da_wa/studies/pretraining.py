"""Pre-train every norm with the same budget and its own learning rate.

A single rate for all norms favours some of them. The study selects a rate per norm by accuracy on held-out *training*
images of CIFAR after a short training; test images are not used. Every norm is trained at the same rates first; while
its best rate is the smallest or the largest, the rate beyond it is trained too. So the selected rate has worse ones on
both sides. Then several seeds of every norm are trained at the selected rate. Stages:

==========  =========================================================================
search      every norm at several rates on most training images; ``rates.csv``
train       every norm at its selected rate on all training images, several seeds
match       every norm for as many epochs as it needs for the accuracy that all reach with
            the first seed; ``matched.csv``, with how far each network misses it
report      ``pretraining.csv`` (test accuracy), ``curves.csv``, ``curves.png``,
            ``cards/``, a page about every network, and ``networks.tar``, the
            networks with their pages
transfer    only on request: fine-tunes the networks that are trained so far and reports
            in ``transfer`` and, after ``match``, ``transfer_matched``
==========  =========================================================================

Networks of the same budget differ in accuracy, and so does what can be transferred. The networks of ``match`` have
about the same accuracy, that of the worst norm; each has its own whole schedule, which is shorter.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import IO, Any

import pandas as pd

from da_wa.config.compose import Experiment, compose
from da_wa.errors import ConfigError, UserError
from da_wa.launchers.launch import Planned
from da_wa.records.files import write_atomically, write_bytes
from da_wa.report import report_options, write_report
from da_wa.runs.jobs import PretrainJob
from da_wa.studies.model_card import model_card
from da_wa.studies.search import best_rate, nearest_epochs, next_epochs, next_rate
from da_wa.studies.study import (
    Bench,
    ScopedStudy,
    merged,
    option_of,
    training_result,
)

RATES = "rates.csv"
SELECTED = "selected.json"
MATCHED = "matched.json"


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


class Pretraining(ScopedStudy[Scope]):
    """The study; see the module docstring.

    Args:
        experiment: the file in ``conf/experiment`` that all trainings start from.
        norms: in the order in which they are trained.
        rates: the learning rates that the search begins with, each twice the one before.
        limits: the smallest and the largest rate that it may go to.
        holdout: the fraction of training images that the search holds out.
        tolerance: difference of accuracies (a fraction) at which networks count as equally accurate.
        transfer: overrides that make an experiment of fine-tuning; those of the command come before them.
        scopes: plain values of :class:`Scope` by name.
    """

    def __init__(
        self,
        experiment: str,
        norms: Sequence[str],
        rates: Sequence[float],
        limits: tuple[float, float],
        holdout: float,
        tolerance: float,
        transfer: Sequence[str],
        scopes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__(experiment, {name: Scope(**node) for name, node in scopes.items()})
        self.norms, self.rates, self.limits = norms, rates, limits
        self.holdout, self.tolerance, self.transfer = holdout, tolerance, transfer

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> dict[str, Experiment]:
        """The one that all others are changes of."""
        return {"networks": compose([*self.options(scope), *words], config_dir)}

    def sets(self, scope: str) -> list[str]:
        """Norms, seeds, rates and epochs."""
        of_recipe = [f"pretrain.recipe.{name}" for name in ("epochs", "optimizer.lr")]
        return [
            "norms",
            *of_recipe,
            *(f"pretrain.{name}" for name in ("seed", "seeds", "rates", "epochs", "holdout")),
        ]

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        chosen = self.scopes[scope]
        return {
            "search": partial(self._search, scope=chosen),
            "train": partial(self._train, scope=chosen),
            "match": partial(self._match, scope=chosen),
            "report": partial(self._report, scope=chosen),
        }

    def extra_stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """Fine-tuning, which needs other data."""
        return {"transfer": partial(self._transfer, scope=self.scopes[scope])}

    def _search(self, bench: Bench, scope: Scope) -> None:
        """Train every norm at several rates; of equally accurate rates the smaller is selected."""
        rates = {norm: list(self.rates) for norm in self.norms}
        accuracies: dict[str, dict[float, float | None]] = {}
        while wanted := [(n, r) for n in self.norms for r in sorted(rates[n]) if r not in accuracies.get(n, {})]:
            planned = merged([self._trial(bench, scope, norm, rate) for norm, rate in wanted])
            bench.run(planned)
            if failed := [job.id for job in planned.jobs if not job.done]:  # not diverged, which is a result
                raise UserError(
                    f"search: {len(failed)} of {len(planned.jobs)} trainings failed: {', '.join(failed)}. "
                    "Rerun the command to try them again."
                )
            found = self._trials(bench, scope, rates)
            bench.write_csv(RATES, found)
            for norm, of_norm in found.groupby("norm"):
                accuracies[str(norm)] = _accuracy_by(of_norm, "lr")
            for norm in self.norms:
                beyond = next_rate(accuracies[norm])
                if beyond is not None and self.limits[0] <= beyond <= self.limits[1]:
                    rates[norm].append(beyond)
        best = {norm: best_rate(accuracies[norm]) for norm in self.norms}
        bench.decide(SELECTED, {norm: rate for norm, rate in best.items() if rate is not None})

    def _trial(self, bench: Bench, scope: Scope, norm: str, rate: float) -> Planned:
        options = [
            f"norms=[{norm}]",
            f"pretrain.holdout={self.holdout}",
            f"pretrain.recipe.epochs={scope.search_epochs}",
            f"++pretrain.rates.{norm}={rate}",
        ]
        return _one_network(bench.prepare("search", options))

    def _trials(self, bench: Bench, scope: Scope, rates: Mapping[str, Sequence[float]]) -> pd.DataFrame:
        return pd.DataFrame(
            {"norm": norm, "lr": rate, **_outcome(job)}
            for norm in self.norms
            for rate in sorted(rates[norm])
            for job in _networks(self._trial(bench, scope, norm, rate))
        )

    def _train(self, bench: Bench, scope: Scope) -> None:
        for seed in scope.seeds:
            bench.run(merged([self._trained(bench, norm, seed, scope.epochs) for norm in self.norms]))

    def _match(self, bench: Bench, scope: Scope) -> None:
        """Find the epochs of every norm with the first seed, then train the other seeds for as many."""
        first = scope.seeds[0]
        full = {norm: self._accuracy(bench, norm, first, scope.epochs) for norm in self.norms}
        known = {norm: {scope.epochs: accuracy} for norm, accuracy in full.items() if accuracy is not None}
        if not known:
            raise UserError(f"{bench.out}: no network is trained yet: run stage=train first.")
        if left_out := [norm for norm in self.norms if norm not in known]:
            bench.console.print(f"match: {', '.join(left_out)} left out: not trained with seed {first}, or diverged")
        level = min(reached[scope.epochs] for reached in known.values())
        lowest = next(norm for norm, reached in known.items() if reached[scope.epochs] == level)
        bench.console.print(f"match: the level is {100 * level:.1f} %, that of {lowest}")
        guesses = _searched(bench, scope)
        while wanted := {
            norm: epochs
            for norm, reached in known.items()
            if (epochs := next_epochs(reached, level, self.tolerance, guesses.get(norm, {}))) is not None
        }:
            bench.run(merged([self._trained(bench, norm, first, n) for norm, n in wanted.items()]))
            for norm, epochs in wanted.items():
                accuracy = self._accuracy(bench, norm, first, epochs)
                if accuracy is not None:
                    known[norm][epochs] = accuracy
                elif all(job.done for job in _networks(self._trained(bench, norm, first, epochs))):
                    bench.console.print(f"match: {norm} left out: it diverged with {epochs} epochs")
                    del known[norm]
                else:
                    raise UserError(f"match: {norm} with {epochs} epochs failed. Run stage=match again.")
        matched = {norm: nearest_epochs(reached, level) for norm, reached in known.items()}
        bench.decide(MATCHED, matched, **self._matched_with(bench, scope))
        for seed in scope.seeds:
            bench.run(merged([self._trained(bench, norm, seed, epochs) for norm, epochs in matched.items()]))
        found = pd.DataFrame(
            {
                "norm": norm, "seed": seed, "level": level, "epochs": epochs,
                "accuracy": _outcome(job)["accuracy"], "network": job.id,
            }
            for norm, epochs in matched.items()
            for seed in scope.seeds
            for job in _networks(self._trained(bench, norm, seed, epochs))
        )  # fmt: skip
        found["miss"] = found["accuracy"].astype(float) - level
        bench.write_csv("matched.csv", found)
        for norm, miss in found.groupby("norm", sort=False)["miss"].mean().items():
            if abs(miss) > self.tolerance:
                bench.console.print(f"match: {norm} is {100 * miss:+.1f} points from the level: an epoch is too coarse")

    def _accuracy(self, bench: Bench, norm: str, seed: int, epochs: int) -> float | None:
        """The test accuracy of a network; None if it is not trained, failed or diverged."""
        (job,) = _networks(self._trained(bench, norm, seed, epochs))
        accuracy: float | None = _outcome(job)["accuracy"]
        return accuracy

    def _matched(self, bench: Bench, scope: Scope) -> dict[str, int]:
        """The epochs of every norm at which the networks are about equally accurate; none before ``match``."""
        if not (bench.out / MATCHED).exists():
            return {}
        return bench.decided(MATCHED, "match", **self._matched_with(bench, scope))

    def _matched_with(self, bench: Bench, scope: Scope) -> dict[str, Any]:
        """What the decision of ``match`` depends on beside the network."""
        return {"rates": _selected(bench), "epochs": scope.epochs}

    def _transfer(self, bench: Bench, scope: Scope) -> None:
        """Fine-tune the networks of all seeds that are trained so far, then those of ``match``."""
        self._fine_tune(bench, scope, "transfer", {norm: scope.epochs for norm in self.norms})
        if matched := self._matched(bench, scope):
            self._fine_tune(bench, scope, "transfer_matched", matched)
        else:
            bench.console.print(f"transfer: no matched networks, {bench.out / MATCHED} is written by stage=match")

    def _fine_tune(self, bench: Bench, scope: Scope, folder: str, epochs: Mapping[str, int]) -> None:
        rates, given = _selected(bench), set(map(option_of, bench.words))
        options = [f"pretrain.recipe.epochs={scope.epochs}"]
        options += [option for option in self.transfer if option_of(option) not in given]
        planned = []
        for seed in scope.seeds:
            norms = [n for n, k in epochs.items() if self._accuracy(bench, n, seed, k) is not None]
            if absent := [n for n in epochs if n not in norms]:
                bench.console.print(f"{folder}: seed {seed} without {', '.join(absent)}: not trained yet, or diverged")
            if norms:
                starts = [f"norms=[{','.join(norms)}]", f"pretrain.seeds=[{seed}]"]
                for norm in norms:
                    starts += [f"++pretrain.rates.{norm}={rates[norm]}", f"++pretrain.epochs.{norm}={epochs[norm]}"]
                planned.append(bench.prepare(folder, [*options, *starts]))
        if not planned:
            stage = "train" if folder == "transfer" else "match"
            raise UserError(f"{bench.out}: no network is trained yet: run stage={stage} first.")
        together = merged(planned)
        bench.run(together)
        shown = report_options(together.experiment.cfg["report"], together.experiment.scores)
        bench.console.print(write_report(together.out, **shown).summary())

    def _trained(self, bench: Bench, norm: str, seed: int, epochs: int) -> Planned:
        rates = _selected(bench)
        if norm not in rates:
            raise UserError(
                f"{norm} diverged at every rate of the search; remove it from `norms` in the file of the study."
            )
        options = [
            f"norms=[{norm}]",
            f"pretrain.seeds=[{seed}]",
            f"pretrain.recipe.epochs={epochs}",
            f"++pretrain.rates.{norm}={rates[norm]}",
        ]
        return _one_network(bench.prepare("networks", options))

    def _report(self, bench: Bench, scope: Scope) -> None:
        from da_wa.report.figures import learning_curves, rendered  # imports matplotlib

        rates, rows, curves = _selected(bench), [], []
        trained = [
            (norm, seed, job)
            for norm, seed in product(self.norms, scope.seeds)
            for job in _networks(self._trained(bench, norm, seed, scope.epochs))
        ]
        if not any(job.done for _, _, job in trained):
            raise UserError(f"{bench.out}: no network is trained yet: run stage=train first.")
        for norm, seed, job in trained:
            label = job.config["norm"]["label"]
            row = {"norm": norm, "label": label, "seed": seed, "lr": rates[norm]}
            rows.append({**row, "state": _state(job), **_outcome(job), "network": job.id})
            curves += [{"norm": norm, "label": label, "seed": seed, **point} for point in _curve(job)]
        bench.write_csv("pretraining.csv", pd.DataFrame(rows))
        bench.write_csv("curves.csv", pd.DataFrame(curves).rename(columns={"accuracy": "train_accuracy"}))
        if curves:  # else all diverged in the first epoch
            figure = learning_curves(_lines(pd.DataFrame(curves)), [f"seed {seed}" for seed in scope.seeds])
            write_bytes(bench.out / "curves.png", rendered(figure, "png"))
        cards, files = self._ended(bench, scope)
        for name, card in cards.items():
            write_bytes(bench.out / "cards" / name, card.encode())
        packed = {path.name: path.read_bytes() for path in files} | {name: c.encode() for name, c in cards.items()}
        write_atomically(bench.out / "networks.tar", partial(_pack, packed))
        bench.console.print(pd.DataFrame(rows).to_string(index=False))

    def _ended(self, bench: Bench, scope: Scope) -> tuple[dict[str, str], list[Path]]:
        """A page about every trained network by file name, and the files of all that ended, diverged ones included."""
        from da_wa.models.checkpoint import read_header  # imports torch

        searched, cards, files = _rates(bench), {}, []
        matched = self._matched(bench, scope)
        for norm in self.norms:
            rates = _accuracy_by(searched[searched["norm"] == norm], "lr")
            for epochs in sorted({scope.epochs, matched.get(norm, scope.epochs)}):
                planned = {seed: self._trained(bench, norm, seed, epochs) for seed in scope.seeds}
                jobs = {seed: job for seed, one in planned.items() for job in _networks(one) if job.done}
                accuracies = {seed: _outcome(job)["accuracy"] for seed, job in jobs.items()}
                for job in jobs.values():
                    if not job.checkpoint.exists():
                        files.append(job.diverged_file)
                        continue
                    files.append(job.checkpoint)
                    label, header = job.config["norm"]["label"], read_header(job.checkpoint)
                    card = model_card(
                        job.id, label, header.facts, header.result, accuracies, rates, scope.search_epochs
                    )
                    cards[f"{job.id}.md"] = card
        return cards, files


def _pack(files: Mapping[str, bytes], archive: IO[bytes]) -> None:
    """Files as a tar archive; the same files give the same bytes."""
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def _searched(bench: Bench, scope: Scope) -> dict[str, dict[int, float]]:
    """The held-out accuracy at the selected rate of every norm, by the epochs of the search."""
    rates, found = _selected(bench), _rates(bench)
    return {
        str(row["norm"]): {scope.search_epochs: row["accuracy"]}
        for row in found.to_dict("records")
        if row["lr"] == rates.get(str(row["norm"]))
    }


def _rates(bench: Bench) -> pd.DataFrame:
    """The trainings of the search.

    Raises:
        UserError: there is no such file.
    """
    try:
        return pd.read_csv(bench.out / RATES)
    except FileNotFoundError:
        raise UserError(
            f"{bench.out} has no {RATES}: copy it from where the search ran, or run stage=search."
        ) from None


def _accuracy_by(frame: pd.DataFrame, by: str) -> dict[Any, float | None]:
    """Accuracy by seed or rate; None where the training diverged."""
    return {key: None if pd.isna(a) else a for key, a in zip(frame[by], frame["accuracy"], strict=True)}


def _networks(planned: Planned) -> list[PretrainJob]:
    return [job for job in planned.jobs if isinstance(job, PretrainJob)]


def _one_network(planned: Planned) -> Planned:
    """Refuse several models, and networks that are given.

    Raises:
        ConfigError: not one network would be trained.
    """
    if len(_networks(planned)) != 1:
        raise ConfigError(
            "study=pretraining trains one model from scratch with every norm: choose it with model=…, a separate out "
            "for each, and leave out models=[…], pretrain.checkpoint and weights of the model."
        )
    return planned


def _outcome(job: PretrainJob) -> dict[str, Any]:
    """Epochs, counts, accuracy (a fraction), final loss, images per second, processor and commit of a training."""
    result = training_result(job)
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


def _state(job: PretrainJob) -> str:
    """Whether a network is trained, diverged, or neither."""
    if not job.done:
        return "not trained"
    return "trained" if job.checkpoint.exists() else "diverged"


def _curve(job: PretrainJob) -> Sequence[Mapping[str, float]]:
    curve: Sequence[Mapping[str, float]] = training_result(job).get("curve") or []
    return curve


def _lines(curves: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Accuracy on augmented training images in percent, a line for every seed of a norm."""
    percent = curves.assign(mean=100 * curves["accuracy"], low=100 * curves["accuracy"], high=100 * curves["accuracy"])
    return {
        str(label): {f"seed {seed}": line for seed, line in of_norm.groupby("seed")}
        for label, of_norm in percent.groupby("label", sort=False)
    }


def _selected(bench: Bench) -> dict[str, float]:
    """The rate of every norm that the search selected."""
    return bench.decided(SELECTED, "search")
