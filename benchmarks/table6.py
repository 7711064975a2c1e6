r"""The paper's Table VI with statistics: search the recipe, pre-train, fine-tune, report, in pieces of minutes.

    python benchmarks/table6.py                               # all stages, one after the other
    python benchmarks/table6.py --stage pretrain              # ten ResNet50 on CIFAR-100, most informative norm first
    python benchmarks/table6.py --stage gain-init             # WA alone once more, Fixup's factors on its gains
    python benchmarks/table6.py --stage search                # recipes by accuracy on held-out *source* images
    python benchmarks/table6.py --stage table                 # the recipe that was chosen; protocol full, then paper
    python benchmarks/table6.py --stage paper-recipe          # the recipe nearest to the paper's text
    python benchmarks/table6.py --stage report                # tables, figures, pages; Table I; time and MFU per stage

``--scope full`` is the experiment, on one GPU; ``small`` asks the same of the ResNet20 that are shipped, with one
seed, in about two hours on two cores; ``smoke`` is everything once at tiny size.

A command stops by itself after ``--minutes`` and says "to go on: same command"; what is finished is never run
again. Whatever follows the options is added to every experiment as Hydra overrides, e.g.
``data.root=data/office31 pretrain.root=data/cifar100``. A norm that could not be pre-trained is left out of the
later stages and named. A GPU that one small run cannot fill takes several at once: ``--workers 4``.

On a machine without the images: ``--stage pack`` where they are decodes Office-31 at every size of every scope
and CIFAR-100, and leaves in ``--pixels`` all that the other stages need. There, with that folder in place,

    DA_WA_COMMIT=… python benchmarks/table6.py … data.root=out/pixels/office31.json \
        pretrain.root=out/pixels/cifar100.json

(13 MB, 50 MB and 114 MB for Office-31 at 32, 64 and 96 pixels, 184 MB for CIFAR-100). DA_WA_COMMIT tells records
the commit where the code is there without its history. Beside torch, torchvision, numpy, pandas, scipy,
scikit-learn, matplotlib and pillow, such a machine needs pytorch-lightning, torchmetrics, lightning-utilities,
hydra-core, omegaconf 2.3, antlr4-python3-runtime 4.9, safetensors, filelock, platformdirs, rich, seaborn, pyyaml.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from da_wa.runs.build import load_domains, preflight
from da_wa.runs.ledger import Ledger, write_atomically
from da_wa.runs.progress import shown
from rich.console import Console

from da_wa.config.compose import compose
from da_wa.config.make import make
from da_wa.data.cache import DecodedDomain
from da_wa.errors import UserError
from da_wa.report import write_report
from da_wa.report.paper import TABLE_I
from da_wa.runs.jobs import FinetuneJob, Job, PretrainJob
from da_wa.runs.plan import plan

GAIN_INIT = ("norms=[wa]", "model.gain_init=fixup")
"""What the paper leaves open of WA in Fixup's blocks, the other way, see ``da_wa/models/fixup.py``."""

NOT_USED = "not used: "  # heads the columns of the search that hold target accuracies


@dataclass(frozen=True)
class Recipe:
    """What the paper does not tell of the fine-tuning: size, learning rate, schedule, epochs."""

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
            f"finetune.schedule._target_=da_wa.train.schedule.{self.schedule}",
            f"finetune.epochs={self.epochs}",
        ]


PAPER = Recipe(32, 0.001, "constant", 30)
"""Nearest to the paper's text, which tells the learning rate; the rest is the plainest choice."""


@dataclass(frozen=True)
class Scope:
    """How much is computed.

    Attributes:
        options: overrides for every experiment.
        start: the recipe that the search starts from.
        axes: varied one after the other, each from the best recipe so far.
        paper: the recipe nearest to the paper's text.
        protocols: under which the tables are made, the headline first.
        searched: the norms that the search fine-tunes, with one seed.
    """

    options: tuple[str, ...]
    start: Recipe
    axes: tuple[tuple[Mapping[str, Any], ...], ...]
    paper: Recipe = PAPER
    protocols: tuple[str, ...] = ("full", "paper")
    searched: str = "[bn,bn_wa]"

    @property
    def sizes(self) -> set[int]:
        """Every image size that is needed."""
        return {self.start.size, self.paper.size, *(c["size"] for axis in self.axes for c in axis if "size" in c)}


RATES = tuple({"lr": lr, "schedule": s} for lr, s in itertools.product((0.001, 0.01, 0.05), ("constant", "cosine")))

SCOPES = {
    "full": Scope(
        options=(),
        start=Recipe(32, 0.01, "cosine", 30),
        axes=(
            RATES,
            tuple({"size": size} for size in (32, 64, 96)),
            tuple({"epochs": epochs} for epochs in (15, 30, 60)),
        ),
    ),
    "small": Scope(
        options=(
            "model=resnet20",
            "pretrain=cifar100_short",  # the networks that are shipped, by their own recipe:
            "pretrain.recipe.epochs=6",
            "pretrain.recipe.batch_size=128",
            "pretrain.recipe.optimizer.lr=0.1",
            "seeds=[0]",
            "finetune.evaluations=3",
        ),
        start=Recipe(32, 0.05, "cosine", 15),
        axes=(RATES, ({"size": 64},), ({"epochs": 8},)),
        protocols=("full",),
    ),
    "smoke": Scope(
        options=(
            "norms=[bn,bn_wa,wa]",
            "seeds=[0]",
            "model.build.depths=[1,1,1,1]",
            "model.build.widths=[4,8,8,8]",
            "pretrain.recipe.epochs=1",
            "finetune.evaluations=1",
        ),
        start=Recipe(32, 0.01, "cosine", 1),
        axes=(({"lr": 0.001},), ({"size": 16},)),
        paper=Recipe(32, 0.001, "constant", 1),
    ),
}


class Paused(Exception):
    """The time of this command is up."""


@dataclass
class Bench:
    """Runs experiments below one folder until a moment.

    Attributes:
        out: holds everything but decoded images.
        pixels: holds those.
        options: overrides for every experiment.
        ends: of ``time.monotonic()``.
        failed: ids of jobs that failed.
    """

    out: Path
    pixels: Path
    options: tuple[str, ...]
    ends: float
    console: Console
    failed: list[str]

    def compose(self, folder: str, options: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration of an experiment whose runs lie in ``folder``."""
        places = [
            f"out={self.out / folder}",
            f"cache_dir={self.pixels}",
            f"checkpoint_dir={self.out / 'networks'}",
        ]
        experiment = compose(["experiment=table6", *places, *self.options, *options])
        return experiment.cfg, experiment.norms

    def jobs(
        self, folder: str, cfg: Mapping[str, Any], norms: Mapping[str, Any], domains: Sequence[DecodedDomain] = ()
    ) -> list[Job]:
        """All jobs of an experiment."""
        return plan(cfg, norms, domains, Ledger(self.out / folder), Path(cfg["checkpoint_dir"]))

    def networks(self, options: Sequence[str] = ()) -> list[PretrainJob]:
        """The pre-training of every norm."""
        cfg, norms = self.compose("table", ["sources=[]", *options])
        return [job for job in self.jobs("table", cfg, norms) if isinstance(job, PretrainJob)]

    def pretrain(self, stage: str, options: Sequence[str] = ()) -> None:
        """Pre-train what is missing."""
        cfg, norms = self.compose("table", ["sources=[]", *options])
        self._launch(stage, cfg, norms, [], self.networks(options))

    def finetune(self, stage: str, folder: str, options: Sequence[str]) -> list[FinetuneJob]:
        """Fine-tune what is missing, from the networks that are there; gives all runs, also those left out."""
        cfg, norms = self.compose(folder, options)
        domains = load_domains(cfg["data"], self.pixels)
        runs = [job for job in self.jobs(folder, cfg, norms, domains) if isinstance(job, FinetuneJob)]
        ready = [job for job in runs if job.waits_for() is None]
        if absent := sorted({job.config["norm"] for job in runs} - {job.config["norm"] for job in ready}):
            self.console.print(f"{folder}: left out, since not pre-trained: {', '.join(absent)}", highlight=False)
        self._launch(stage, cfg, norms, domains, ready)
        return runs

    def _launch(
        self,
        stage: str,
        cfg: dict[str, Any],
        norms: Mapping[str, Any],
        domains: Sequence[DecodedDomain],
        jobs: Sequence[Job],
    ) -> None:
        pending = [job for job in jobs if not job.done()]
        if not pending:
            return
        left = self.ends - time.monotonic()
        if left <= 0:
            raise Paused
        preflight(cfg, norms, domains, jobs)
        for job in jobs:
            job.register()
        self.console.print(f"== {stage}: {cfg['out']}", highlight=False)
        cfg["launcher"]["deadline_s"] = left
        began, clock = time.time(), time.monotonic()
        try:
            with shown(jobs, self.console) as emit:
                make(cfg["launcher"])(jobs, emit)
        finally:
            self._note(stage, cfg, pending, time.monotonic() - clock)
        failed = [job.id for job in pending if job.diverged() or (not job.done() and job.failed_since(began))]
        self.failed += failed
        if any(not job.done() and job.id not in failed for job in pending):
            raise Paused

    def _note(self, stage: str, cfg: Mapping[str, Any], pending: Sequence[Job], seconds: float) -> None:
        """Bring ``stages.csv`` up to date: what all pieces of a stage took, and the share that was arithmetic."""
        path = self.out / "stages.csv"
        key = {"stage": stage, "experiment": Path(cfg["out"]).relative_to(self.out).as_posix()}
        rows = read_csv(path)
        before: dict[str, str] = next((row for row in rows if key.items() <= row.items()), {})
        took = [outcome(job) for job in pending if job.done()]
        seconds += float(before.get("seconds", 0))
        flops = sum((o["timing"]["flops"] for o in took if "timing" in o), int(before.get("flops", 0)))
        rate = max([machine_rate(o) for o in took if "timing" in o] + [int(before.get("matrix_rate", 0))])
        row = {
            **key,
            "seconds": round(seconds, 1),
            "pieces": int(before.get("pieces", 0)) + 1,
            "jobs finished": int(before.get("jobs finished", 0)) + len(took),
            "jobs left": len(pending) - len(took),
            "flops": flops,
            "matrix_rate": rate,
            "mfu": f"{flops / rate / seconds:.4g}" if rate else "",  # beside jobs that are left: too low
        }
        write_csv(path, [*(old for old in rows if old is not before), row])


def machine_rate(result: Mapping[str, Any]) -> int:
    """Operations per second of the machine that gave ``result``: of its GPU, or of all cores of its processor."""
    rate, there = result["timing"]["matrix_rate"], result["environment"]
    return round(rate * there["cores"] / there["threads"]) if there["device"] == "cpu" else rate


def outcome(job: Job) -> Mapping[str, Any]:
    """What came of a job: of one that diverged there is no timing, of one that was not run nothing."""
    if isinstance(job, FinetuneJob):
        return job.directory.record() or {}
    assert isinstance(job, PretrainJob)
    if job.checkpoint.exists():
        from da_wa.models.checkpoint import read_header

        return read_header(job.checkpoint).result
    return job.divergence() or {}


def accuracies(runs: Sequence[FinetuneJob]) -> dict[tuple[str, str, str], float]:
    """(norm, source, evaluated domain) -> accuracy after the last epoch; a run that diverged has none right."""
    found = {}
    for run in runs:
        record = run.directory.record()
        assert record is not None
        for domain in record["domains"]:
            found[record["norm"], record["source"], domain] = 0.0
        for result in record["results"]:
            if result["selection"] == "last":
                found[record["norm"], record["source"], result["domain"]] = result["correct"] / result["n"]
    return found


def mean(values: Sequence[float]) -> float:
    """Their arithmetic mean."""
    return sum(values) / len(values)


def search(bench: Bench, scope: Scope) -> None:
    """Vary one axis after the other; the recipe with the best mean accuracy on held-out source images goes on.

    Of equal ones the cheaper goes on. Target accuracies are written beside and enter nowhere.
    """
    best, found = scope.start, {}
    score: dict[Recipe, float] = {}
    for number, axis in enumerate(scope.axes, start=1):
        tried = list(dict.fromkeys([best, *(replace(best, **change) for change in axis)]))
        for recipe in tried:
            if recipe in score:
                continue
            options = [f"norms={scope.searched}", "seeds=[0]", *recipe.options]
            runs = bench.finetune("search", f"search/{recipe}", options)
            if not all(run.done() for run in runs):
                raise UserError(f"the search cannot go on: runs of {recipe} failed or their networks are missing")
            found[number, recipe] = accuracies(runs)
            score[recipe] = mean([a for (_, source, d), a in found[number, recipe].items() if source == d])
            write_csv(bench.out / "search.csv", list(itertools.starmap(search_row, found.items())))
        best = max(tried, key=lambda recipe: (score[recipe], -recipe.epochs * recipe.size**2))
    chosen = {**vars(best), "source_val": score[best], "chosen_by": "mean accuracy on held-out source images"}
    write_atomically(bench.out / "chosen.json", lambda file: file.write(json.dumps(chosen, indent=1).encode()))
    bench.console.print(f"chosen on held-out source images: {best}", highlight=False)


def search_row(key: tuple[int, Recipe], found: Mapping[tuple[str, str, str], float]) -> dict[str, Any]:
    """A recipe's row in ``search.csv``, in percent."""
    number, recipe = key
    held_out = {(norm, source): a for (norm, source, domain), a in found.items() if source == domain}
    targets = {k: a for k, a in found.items() if k[1] != k[2]}
    row = {"round": number, **vars(recipe), "source_val": percent(mean(list(held_out.values())))}
    row |= {f"source_val {norm} {source}": percent(a) for (norm, source), a in held_out.items()}
    norms = dict.fromkeys(norm for norm, _, _ in targets)
    row |= {f"{NOT_USED}{n} Avg": percent(mean([a for k, a in targets.items() if k[0] == n])) for n in norms}
    return row | {f"{NOT_USED}{n} {s}->{t}": percent(a) for (n, s, t), a in targets.items()}


def percent(fraction: float) -> str:
    """Two decimals."""
    return f"{100 * fraction:.2f}"


def chosen(out: Path) -> Recipe:
    """The recipe that the search chose."""
    try:
        found = json.loads((out / "chosen.json").read_text())
        return Recipe(found["size"], found["lr"], found["schedule"], found["epochs"])
    except FileNotFoundError:
        raise UserError(f"{out} has no chosen.json yet: run --stage search to its end first") from None


def table(bench: Bench, stage: str, recipe: Recipe, protocols: Sequence[str]) -> None:
    """One recipe, every norm, under every protocol."""
    for protocol in protocols:
        folder = stage if protocol == "full" else f"{stage}-{protocol}-protocol"
        bench.finetune(stage, folder, [*recipe.options, f"protocol={protocol}"])


def report(bench: Bench) -> None:
    """Every report, Table I beside the paper's, the search, and all records without features in one archive."""
    table_i(bench)
    write_text(bench.out / "search.md", search_markdown(read_csv(bench.out / "search.csv")))
    folders = [path for path in sorted(bench.out.iterdir()) if (path / "runs").is_dir()]
    for folder in folders:
        written = write_report(folder)
        bench.console.print(f"\n{folder.name}\n{written.summary()}", highlight=False, markup=False)
    searched = [path for path in sorted(bench.out.glob("search/*")) if (path / "runs").is_dir()]
    with tarfile.open(bench.out / "records.tar.gz", "w:gz") as archive:
        for folder in [*folders, *searched]:
            lean = Ledger(bench.out / "records" / folder.relative_to(bench.out))
            without_features(Ledger(folder), lean)
        archive.add(bench.out / "records", "records")
    bench.console.print(f"All is in {bench.out}", highlight=False)


def table_i(bench: Bench) -> None:
    """Error on CIFAR-100 in percent, and the paper's; WA alone a second time with Fixup's factors on its gains."""
    rows, curves = [], []
    for options, addition in ((), ""), (GAIN_INIT, ", Fixup gains"):
        for job in bench.networks(options):
            if addition and not job.done():
                continue
            norm = job.config["described"]["norm"]["label"]
            result = outcome(job)
            rows.append(
                {
                    "norm": norm + addition,
                    "error": percent(1 - result["correct"] / result["n"]) if "correct" in result else "",
                    "paper": TABLE_I.get(norm, ""),
                    "epochs": result.get("epochs", ""),
                    **{key: result.get("timing", {}).get(key, "") for key in ("total_s", "images_per_s", "mfu")},
                    "note": "" if "correct" in result else job.diverged() or failure(job),
                }
            )
            curves += [{"norm": norm + addition, **point} for point in result.get("curve", [])]
    write_csv(bench.out / "table1.csv", rows)
    write_csv(bench.out / "pretraining_curves.csv", curves)


def search_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The search as people read it: how recipes do on the source, and what the averages over targets were."""
    averages = [column for column in (rows[0] if rows else {}) if column.endswith(" Avg")]
    columns = ["round", "size", "lr", "schedule", "epochs", "source_val", *averages]
    lines = [columns, [":--"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def failure(job: Job) -> str:
    """Why a job has no outcome."""
    return job.failed_since(0.0) or "not run"


def without_features(ledger: Ledger, lean: Ledger) -> None:
    """Copy finished runs but for their feature vectors, which are nine tenths of their size."""
    for run in ledger.runs():
        record = run.record()
        if record is None:
            continue
        kept = {name: array for name, array in run.predictions().items() if not name.startswith("feature_")}
        copy = lean.plan(run.id, run.config())
        if not copy.finished:
            copy.finish({k: v for k, v in record.items() if k not in ("schema", "id", "predictions")}, kept)


def pack(bench: Bench) -> None:
    """Decode all that any scope needs, and leave index files beside it."""
    from da_wa.data.cache import load_decoded
    from da_wa.data.decoded import save_index

    for size in sorted({size for scope in SCOPES.values() for size in scope.sizes}):
        cfg, _ = bench.compose("table", [f"data.size={size}"])
        load_domains(cfg["data"], Path(cfg["cache_dir"]))
    save_index(make(cfg["data"]["domains"]), bench.pixels / "office31.json")
    cifar = make(cfg["pretrain"]["data"])
    for domain in cifar.domains:
        load_decoded(domain, cifar.classes, cfg["pretrain"]["size"], cfg["cache_dir"])
    save_index(cifar, bench.pixels / "cifar100.json")
    bench.console.print(f"Packed in {bench.pixels}", highlight=False)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV with every column that a row has."""
    buffer = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """A file that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none when there is no such file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_stage(stage: str, bench: Bench, scope: Scope) -> None:
    """Carry out one stage, or what there is time for."""
    match stage:
        case "pretrain":
            bench.pretrain(stage)
        case "gain-init":
            bench.pretrain(stage, GAIN_INIT)
        case "search":
            search(bench, scope)
        case "table":
            table(bench, stage, chosen(bench.out), scope.protocols)
        case "paper-recipe":
            table(bench, stage, scope.paper, scope.protocols)
        case "report":
            report(bench)
        case "pack":
            pack(bench)


STAGES = ("pretrain", "search", "table", "paper-recipe", "gain-init", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when all is well, be it finished or not, 1 when a job failed, 2 for a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scope", choices=list(SCOPES), default="full")
    parser.add_argument("--stage", choices=["all", *STAGES, "pack"], default="all")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing more after these (default 9)")
    parser.add_argument("--out", type=Path, help="default out/table6-SCOPE")
    parser.add_argument("--pixels", type=Path, default=Path("out/pixels"), help="decoded images (default out/pixels)")
    parser.add_argument("--norms", help="only these, e.g. bn,bn_wa")
    parser.add_argument("--workers", type=int, help="processes, which may share one GPU")
    parser.add_argument("overrides", nargs="*", metavar="option=value")
    arguments = parser.parse_args(argv)
    scope = SCOPES[arguments.scope]
    options = [*scope.options, *arguments.overrides]
    if arguments.norms:
        options.append(f"norms=[{arguments.norms}]")
    if arguments.workers:
        options.append(f"launcher.workers={arguments.workers}")
    bench = Bench(
        arguments.out or Path(f"out/table6-{arguments.scope}"),
        arguments.pixels,
        tuple(options),
        time.monotonic() + 60 * arguments.minutes,
        Console(soft_wrap=True),
        [],
    )
    try:
        for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
            run_stage(stage, bench, scope)
    except Paused:
        print("Time is up; to go on: same command")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; to go on: same command", file=sys.stderr)
        return 130
    for job in bench.failed:
        print(f"failed: {job}")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
