"""The paper's Table VI with statistics: pre-train, search the recipe, fine-tune, report.

The paper does not state image size, epochs and schedule of the fine-tuning. The study searches them on held-out
*source* images; target accuracies are not used. Stages:

==============  =======================================================================================
pretrain        one network per norm on CIFAR-100, the most informative norm first
search          recipes compared by accuracy on held-out source images
table           the selected recipe; protocol ``full``, then ``paper``
paper-recipe    the recipe closest to the text of the paper
gain-init       WA alone again, with Fixup's factors on its gains
report          reports, Table I, cost and MFU per stage, all records in one archive
pack            (only with ``stage=pack``) decode all images, to run on a machine without the image files
==============  =======================================================================================
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import pandas as pd

from da_wa.config.compose import Experiment, compose
from da_wa.config.make import make
from da_wa.data.decoded import save_index
from da_wa.errors import ConfigError, UserError
from da_wa.launchers.launch import Planned, decode
from da_wa.records.export import export
from da_wa.records.files import locked, write_atomically
from da_wa.records.identity import recipe_facts
from da_wa.records.store import Store
from da_wa.report import report_options, write_report
from da_wa.report.paper import TABLE_I
from da_wa.runs.jobs import PretrainJob, UnitJob
from da_wa.studies.study import Bench, ScopedStudy, option_of, training_result

NOT_USED = "not used: "
"""Heads the columns of ``search.csv`` that hold target accuracies."""


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning recipe: image size, learning rate, schedule, epochs.

    >>> print(Recipe(32, 0.01, "cosine", 30))
    32px-lr0.01-cosine-30ep
    """

    size: int
    lr: float
    schedule: str
    epochs: int

    def __str__(self) -> str:
        return f"{self.size}px-lr{self.lr:g}-{self.schedule}-{self.epochs}ep"

    @property
    def options(self) -> list[str]:
        """The recipe as overrides."""
        return [
            f"data.size={self.size}",
            f"finetune.optimizer.lr={self.lr}",
            f"finetune.schedule.name={self.schedule}",
            f"finetune.epochs={self.epochs}",
        ]


@dataclass(frozen=True)
class Scope:
    """The size of a study.

    Attributes:
        options: overrides for every experiment.
        start: the recipe that the search starts from.
        axes: varied in turn, each starting from the best recipe so far.
        paper: the recipe closest to the text of the paper.
        protocols: under which the tables are made, the headline first.
    """

    options: Sequence[str]
    start: Recipe
    axes: Sequence[Sequence[Mapping[str, Any]]]
    paper: Recipe
    protocols: Sequence[str]

    @property
    def sizes(self) -> set[int]:
        """Every image size that is needed."""
        return {self.start.size, self.paper.size, *(c["size"] for axis in self.axes for c in axis if "size" in c)}


class Table6(ScopedStudy[Scope]):
    """The study; see the module docstring.

    Args:
        experiment: the file in ``conf/experiment`` that all its experiments start from.
        search: the norms that the search fine-tunes.
        gain_init: overrides of the stage ``gain-init``.
        scopes: plain values of :class:`Scope` by name.
    """

    def __init__(
        self,
        experiment: str,
        search: Sequence[str],
        gain_init: Sequence[str],
        scopes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        known = {
            name: Scope(**{**node, "start": Recipe(**node["start"]), "paper": Recipe(**node["paper"])})
            for name, node in scopes.items()
        }
        super().__init__(experiment, known)
        self.searched, self.gain_init = search, gain_init

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> dict[str, Experiment]:
        """The one that all others are changes of."""
        return {"table": compose([*self.options(scope), *words], config_dir)}

    def sets(self, scope: str) -> list[str]:
        """The recipe and the protocol."""
        return [*map(option_of, self.scopes[scope].start.options), "protocol"]

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        chosen = self.scopes[scope]
        return {
            "pretrain": partial(self._pretrain, scope=chosen),
            "search": partial(self._search, scope=chosen),
            "table": lambda bench: self._table(bench, "table", _selected(bench), chosen.protocols),
            "paper-recipe": lambda bench: self._table(bench, "paper-recipe", chosen.paper, chosen.protocols),
            "gain-init": lambda bench: bench.run(self._networks(bench, self.gain_init)),
            "report": self._report,
        }

    def extra_stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """Stages that run only on request."""
        return {"pack": self._pack}

    def _pretrain(self, bench: Bench, scope: Scope) -> None:
        """Train the networks; before the first one, find the images of the search and check its runs."""
        networks = self._networks(bench)
        if not all(job.done for job in networks.jobs):
            from da_wa.runs.preflight import preflight  # imports torch

            search = _prepared(bench, f"search/{scope.start}", scope.start.options)
            preflight(search.experiment, search.inputs.manifests if search.inputs else [], search.jobs)
        bench.run(networks)

    def _networks(self, bench: Bench, options: Sequence[str] = ()) -> Planned:
        return _prepared(bench, "table", ["sources=[]", *options])

    def _finetune(self, bench: Bench, folder: str, options: Sequence[str]) -> list[UnitJob]:
        """Fine-tune from the networks that exist; norms without one are left out and named."""
        planned = _prepared(bench, folder, options)
        units = [job for job in planned.jobs if isinstance(job, UnitJob)]
        ready = [job for job in units if job.waits_for() is None]
        if absent := sorted({job.unit.factors.norm for job in units} - {job.unit.factors.norm for job in ready}):
            bench.console.print(f"{folder}: left out, not pre-trained: {', '.join(absent)}")
        bench.run(planned, ready)
        return units

    def _search(self, bench: Bench, scope: Scope) -> None:
        """Vary the axes in turn, each starting from the best recipe so far.

        The score is the mean accuracy on held-out source images; of equal recipes the cheaper one is selected.
        """
        best, rows = scope.start, []
        score: dict[Recipe, float] = {}
        for number, axis in enumerate(scope.axes, start=1):
            tried = list(dict.fromkeys([best, *(replace(best, **change) for change in axis)]))
            for recipe in tried:
                if recipe in score:
                    continue
                options = [f"norms=[{','.join(self.searched)}]", "seeds=[0]", *recipe.options]
                units = self._finetune(bench, f"search/{recipe}", options)
                if not all(unit.done for unit in units):
                    raise UserError(
                        f"search of {recipe}: runs failed, or their networks are missing. "
                        f"Run stage=pretrain norms=[{','.join(self.searched)}]."
                    )
                found = _last_accuracies(units)
                held_out = found[found["role"] == "source"]
                score[recipe] = float(held_out["accuracy"].mean())
                rows.append({"round": number, **vars(recipe), "source_val": _percent(score[recipe]), **_wide(found)})
                bench.write_csv("search.csv", pd.DataFrame(rows))
            best = max(tried, key=lambda recipe: (score[recipe], -recipe.epochs * recipe.size**2))
        rule = "mean accuracy on held-out source images"
        found = {**vars(best), "source_val": score[best], "selected_by": rule}
        bench.decide("selected.json", found, finetune=_finetuning(bench))
        bench.console.print(f"selected by {rule}: {best}")

    def _table(self, bench: Bench, stage: str, recipe: Recipe, protocols: Sequence[str]) -> None:
        for protocol in protocols:
            folder = stage if protocol == "full" else f"{stage}-{protocol}-protocol"
            self._finetune(bench, folder, [*recipe.options, f"protocol={protocol}"])

    def _report(self, bench: Bench) -> None:
        self._table_i(bench)
        folders = [path for path in sorted(bench.out.iterdir()) if (path / "runs").is_dir()]
        searched = [path for path in sorted(bench.out.glob("search/*")) if (path / "runs").is_dir()]
        experiment = bench.compose()
        options = report_options(experiment.cfg["report"], experiment.scores)
        for folder in folders:
            others = [other for other in options["compare"] if other.resolve() != folder.resolve()]
            written = write_report(folder, **{**options, "compare": others})
            bench.console.print(f"\n{folder.name}\n{written.summary()}")
        bench.write_csv("stages.csv", pd.DataFrame([_cost(folder) for folder in [*folders, *searched]]))
        _write_records(bench.out, [*folders, *searched])
        bench.console.print(f"The report is in {bench.out}")

    def _table_i(self, bench: Bench) -> None:
        """Error on CIFAR-100 in percent and the paper's; WA alone also with Fixup's factors on its gains."""
        rows, curves = [], []
        for options, addition in ((), ""), (self.gain_init, ", Fixup gains"):
            for job in self._networks(bench, options).jobs:
                if not isinstance(job, PretrainJob) or (addition and not job.done):
                    continue
                label = job.config["norm"]["label"]
                result = training_result(job)
                cost, correct = result.get("cost", {}), result.get("correct")
                rows.append(
                    {
                        "norm": label + addition,
                        "error": "" if correct is None else _percent(1 - correct / result["n"]),
                        "paper": TABLE_I.get(label, ""),
                        "epochs": result.get("epochs", ""),
                        **{key: cost.get(key, "") for key in ("total_s", "images_per_s", "mfu")},
                        "note": "" if correct is not None else getattr(job.state(), "reason", "not run"),
                        "network": job.id,
                    }
                )
                curves += [{"norm": label + addition, "network": job.id, **point} for point in result.get("curve", [])]
        bench.write_csv("table1.csv", pd.DataFrame(rows))
        bench.write_csv("pretraining_curves.csv", pd.DataFrame(curves))

    def _pack(self, bench: Bench) -> None:
        """Decode the images of all scopes, and write index files to use instead of the images."""
        for size in sorted({size for scope in self.scopes.values() for size in scope.sizes}):
            planned = bench.prepare("pack", [f"data.size={size}"])
            decode(planned, planned.jobs, bench.console)
        cfg = planned.experiment.cfg
        cache = Path(cfg["cache_dir"])
        for name, node in {"domains": cfg["data"]["domains"], "pretrain": cfg["pretrain"]["data"]}.items():
            save_index(make(node), cache / f"{name}.json")
        bench.console.print(
            f"Packed in {cache}. Elsewhere: cache_dir=… data.root=…/domains.json pretrain.root=…/pretrain.json",
        )


def _prepared(bench: Bench, folder: str, options: Sequence[str]) -> Planned:
    """An experiment, planned.

    Raises:
        ConfigError: it adapts, or has several models: the search selects by what all runs have, held-out images of a
            source.
    """
    composed = bench.compose(options)
    if list(composed.methods) != ["none"]:
        raise ConfigError("study=table6 trains on the source only; leave methods=[…] out.")
    if len(composed.models) > 1:
        raise ConfigError("study=table6 searches the recipe of one model; choose one with model=… and a separate out.")
    return bench.prepare(folder, options)


def _finetuning(bench: Bench) -> Any:
    """What the search does not vary of the recipe."""
    return recipe_facts(bench.compose().cfg["finetune"])


def _selected(bench: Bench) -> Recipe:
    """The recipe that the search selected."""
    found = bench.decided("selected.json", "search", finetune=_finetuning(bench))
    return Recipe(found["size"], found["lr"], found["schedule"], found["epochs"])


def _last_accuracies(units: Sequence[UnitJob]) -> pd.DataFrame:
    """Norm, source, domain, role and accuracy after the last epoch; a unit that diverged has none right."""
    rows = []
    for unit in units:
        record = unit.directory.record()
        assert record is not None
        last = {row.domain: row for row in record.results if row.selection == "last"}
        for domain in record.domains:
            role = "source" if domain == record.source else "target"
            accuracy = last[domain].accuracy if domain in last else 0.0
            rows.append((record.factors.norm, record.source, domain, role, accuracy))
    return pd.DataFrame(rows, columns=["norm", "source", "domain", "role", "accuracy"])


def _wide(found: pd.DataFrame) -> dict[str, str]:
    """The columns of ``search.csv`` for one recipe, in percent: means over seeds and networks."""
    found = found.groupby(["norm", "source", "domain", "role"], sort=False, as_index=False)["accuracy"].mean()
    held_out, targets = found[found["role"] == "source"], found[found["role"] == "target"]
    row = {f"source_val {r.norm} {r.source}": _percent(r.accuracy) for r in held_out.itertuples()}
    row |= {
        f"{NOT_USED}{n} Avg": _percent(m) for n, m in targets.groupby("norm", sort=False)["accuracy"].mean().items()
    }
    return row | {f"{NOT_USED}{r.norm} {r.source}->{r.domain}": _percent(r.accuracy) for r in targets.itertuples()}


def _write_records(out: Path, folders: Sequence[Path]) -> None:
    """Copy the finished runs of experiments to ``records/`` and ``records.tar.gz``, in place of earlier copies."""
    records = out / "records"

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            if records.is_dir():
                archive.add(records, "records")

    with locked(records):  # another command may have come to its end as well
        shutil.rmtree(records, ignore_errors=True)
        for folder in folders:
            if any(run.record() is not None for run in Store(folder).runs()):
                export(folder, records / folder.relative_to(out))
        write_atomically(out / "records.tar.gz", write)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _cost(folder: Path) -> dict[str, Any]:
    """Units, seconds and model-FLOPs utilisation of one experiment, from its records."""
    costs = [record.cost for run in Store(folder).runs() if (record := run.record()) and record.cost]
    seconds = sum(cost["total_s"] for cost in costs)
    bound = sum(cost["flops"] / cost["matrix_rate"] for cost in costs)
    name = folder.parent.name + "/" + folder.name if folder.parent.name == "search" else folder.name
    return {
        "experiment": name,
        "units": len(costs),
        "seconds": round(seconds, 1),
        "mfu": f"{bound / seconds:.4g}" if seconds else "",
    }
