"""Segmentation: DeepLabv3 with several norms, mean intersection over union (the paper's VOC experiment).

Its options are those of a scope in ``conf/study/voc.yaml``: ``data.root=PATH recipe.epochs=9 seeds=[0]``. Stages:

==========  ===============================================================================================
train       one run per norm and seed, the first seed of every norm first; finished runs are not repeated
report      ours beside the paper's, its claim, ``runs.csv``, and ``examples.png``: image, truth, every norm
==========  ===============================================================================================
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from da_wa.config.compose import rejoin
from da_wa.config.make import make
from da_wa.config.segmentation_types import SegmentationOptions
from da_wa.config.tree import folders, read_node
from da_wa.config.validate import checked, shown
from da_wa.errors import ConfigError, DataError, Diverged, UserError, nearest, printable
from da_wa.models.weights import file_digest
from da_wa.records.design import Design, joined, read_design, write_design
from da_wa.records.identity import digest, norm_facts, parameters
from da_wa.records.lease import LeaseLost, confirm
from da_wa.records.provenance import command, machine
from da_wa.records.segmentation import (
    Outputs,
    SegmentationRecord,
    norm_of,
    read_run,
    run_name,
    seed_of,
    write_run,
)
from da_wa.records.store import claimed
from da_wa.runs.jobs import tries_again
from da_wa.studies.study import Bench, Paused, Study, changes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from da_wa.data.masks import MaskedImages
    from da_wa.train.settings import Settings

SHOWN = 4
"""How many images the figure shows."""

STATE = "last.ckpt"
"""The file of a run's training state, until the run is finished."""


@dataclass(frozen=True)
class Run:
    """One norm and seed."""

    name: str
    seed: int
    folder: Path
    facts: Mapping[str, Any]


class Segmentation(Study):
    """The study; see the module docstring.

    Args:
        study: its name, by which ``report/paper.yaml`` knows it.
        title: of its table.
        norms: names of the norms; the second is compared with the first.
        scopes: plain values of :class:`~da_wa.config.segmentation_types.SegmentationOptions` by name; ``norms`` and
            ``trainer`` may be left out.
    """

    def __init__(self, study: str, title: str, norms: Sequence[str], scopes: Mapping[str, Mapping[str, Any]]) -> None:
        self.study, self.title = study, title
        self.scopes = {name: {"norms": list(norms), **node} for name, node in scopes.items()}

    def options(self, scope: str) -> list[str]:
        """None: a scope is a complete set of options.

        Raises:
            ConfigError: there is no such scope.
        """
        if scope not in self.scopes:
            raise ConfigError(f"scope={scope} is unknown. {nearest(scope, self.scopes)}")
        return []

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> dict[str, SegmentationOptions]:
        """Its runs have the same options."""
        return {"runs": self.chosen(scope, words, config_dir)}

    def chosen(self, scope: str, words: Sequence[str] = (), config_dir: Path | None = None) -> SegmentationOptions:
        """The options of a scope with overrides.

        Raises:
            ConfigError: an unknown option, or a value that it cannot have.
        """
        self.options(scope)
        base = OmegaConf.create({"trainer": read_node("trainer", "auto", folders(config_dir))})
        try:
            node = OmegaConf.merge(base, self.scopes[scope], OmegaConf.from_dotlist(rejoin(words)))
            plain = OmegaConf.to_container(node, resolve=True)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from None
        return checked(SegmentationOptions, plain)

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        work = cache(partial(self._work, scope))  # images are decoded once for all stages
        return {"train": partial(self._train, work), "report": partial(self._report, work)}

    def _work(self, scope: str, bench: Bench) -> _Work:
        chosen = self.chosen(scope, [*bench.options, *bench.words], bench.config_dir)
        return _Work(self.study, scope, chosen, bench.out, bench.config_dir)

    def _train(self, work_of: Callable[[Bench], _Work], bench: Bench) -> None:
        work = work_of(bench)
        work.check()
        runs = list(work.runs())
        design = work.design(self.title, runs, changes(bench.words))
        with suppress(DataError):  # the first command, or a damaged file, which is replaced
            design = work.joined(design, runs, self.scopes[work.scope]["norms"])
        write_design(bench.out, design)
        for run in runs:
            with suppress(LeaseLost), claimed(run.folder / "lease", ".*.part") as mine:  # else another process has it
                if not mine or work.has_ended(run):
                    continue
                if time.monotonic() >= bench.ends:
                    raise Paused
                try:
                    record = work.do(run, bench.ends)
                except (Paused, LeaseLost, UserError):
                    raise
                except Exception:  # e.g. too little memory: the other runs go on, the next command tries again
                    bench.failed.append(run.folder.name)
                    bench.console.print(f"{run.name}, seed {run.seed}: failed\n{traceback.format_exc()}", markup=False)
                    continue
                result = record.error or f"{record.cost['train_s'] + record.cost['eval_s']:.0f} s"
                bench.console.print(f"{record.label}, seed {run.seed}: {result}")

    def _report(self, work_of: Callable[[Bench], _Work], bench: Bench) -> None:
        from da_wa.report.segmentation import write_segmentation  # imports pandas

        report = write_segmentation(bench.out, work_of(bench).shown)
        bench.console.print(report.summary())
        bench.console.print(f"The report is in {bench.out}")


def _belongs(folder: str, facts: Mapping[str, Mapping[str, Any]], same: bool) -> bool:
    """Whether a run of an earlier command is one of this command's table.

    Args:
        folder: of the run.
        facts: of a run of each norm of this command.
        same: whether all else is equal, for runs of other norms.
    """
    norm = norm_of(folder)
    return Path(folder).name == run_name({**facts[norm], "seed": seed_of(folder)}) if norm in facts else same


class _Work:
    """The runs of one command: decodes the images once, trains one run after another."""

    def __init__(self, study: str, scope: str, chosen: SegmentationOptions, out: Path, config_dir: Path | None) -> None:
        self.study, self.scope, self.options, self.out = study, scope, chosen, out
        where = folders(config_dir)
        self.norms: dict[str, Any] = {
            name: OmegaConf.to_container(read_node("norm", name, where), resolve=True) for name in chosen.norms
        }

    @cached_property
    def training(self) -> MaskedImages:
        return self._split(self.options.data.train)

    @cached_property
    def evaluated(self) -> MaskedImages:
        return self._split(self.options.data.test)

    def _split(self, split: str) -> MaskedImages:
        from da_wa.data.masks import load_split  # imports torch

        data = self.options.data
        return load_split(data.layout, Path(data.root).expanduser(), split, len(data.classes), data.void, data.mean)

    def shown(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The first evaluated images (n, 3, h, w) and masks (n, h, w)."""
        return self.evaluated.images[:SHOWN].numpy(), self.evaluated.masks[:SHOWN].numpy()

    def check(self) -> None:
        """Raise errors that would otherwise appear only after images are decoded, or inside a run.

        Raises:
            ConfigError: ``data.void`` is a class, the device is not available, or a network cannot be built or does not
                take the crop.
            WeightsError, CheckpointError: weights are missing, or of another network.
        """
        import torch

        from da_wa.runs.preflight import without_memory  # imports torch

        if (void := self.options.data.void) < len(classes := self.options.data.classes):
            raise ConfigError(
                f"data.void={void} is the label of {classes[void]!r}, whose pixels would not count; "
                f"choose another, from {len(classes)} to 255."
            )
        make(self.options.trainer.model_dump(by_alias=True)).check_device()
        crop, given = self.options.recipe.crop, shown(parameters(self.options.model.model_dump(by_alias=True)))
        for name in self.norms:
            with without_memory():
                try:
                    self._network(name)(torch.zeros(2, 3, *crop))
                except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                    what = f"norm {name} and crops of {crop[0]}×{crop[1]} pixels"
                    raise ConfigError(f"model={given}: no network with {what} can be made: {error}") from error

    def _check_splits(self) -> None:
        """Refuse to test on images of the training, which lists of VOC with masks of SBD often have."""
        from da_wa.data.masks import listing  # imports torch

        data = self.options.data
        root = Path(data.root).expanduser()
        train, test = ({pair.image for pair in listing(data.layout, root, split)} for split in (data.train, data.test))
        if common := sorted(train & test):
            raise DataError(
                f"data.train={data.train} has {len(common)} images of data.test={data.test}, e.g. "
                f"{printable(common[0].name)}: remove them from its list."
            )

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """Facts of all runs."""
        self._check_splits()
        given, data = self.options.cfg, self.options.data
        images = {"train": self.training.digest(), "test": self.evaluated.digest()}
        kept = {key: getattr(data, key) for key in ("classes", "mean", "std")}
        return {
            "task": "segmentation",
            "version": 1,
            "data": {**kept, **images},
            "network": given["model"]["_target_"].rsplit(".", 1)[-1],
            "recipe": given["recipe"],
        }

    def runs(self) -> Iterator[Run]:
        """The first seed of every norm, then the next."""
        for seed, name in product(dict.fromkeys(self.options.seeds), self.norms):
            facts = {
                **self._shared,
                "norm": norm_facts(name, self.norms[name]),
                "model": self._model_facts(name),
                "seed": seed,
            }
            yield Run(name, seed, self.out / "runs" / run_name(facts), facts)

    def design(self, title: str, runs: Sequence[Run], changed: str = "") -> Design:
        """What the report needs to know beside the records; ``changed``: an addition to the caption."""
        return Design(
            study=self.study,
            scope=self.scope,
            title=title,
            caption=self.options.caption + changed,
            task="segmentation",
            factors={"norm": list(self.norms)},
            rows=["norm"],
            columns=[],
            names={"norm": {name: node["label"] for name, node in self.norms.items()}},
            norms={name: dict(node.get("factors") or {}) for name, node in self.norms.items()},
            folders=[run.folder.relative_to(self.out).as_posix() for run in runs],
            settings=digest({**self._shared, "model": parameters(self.options.model.model_dump(by_alias=True))}),
        )

    def joined(self, design: Design, runs: Sequence[Run], own: Sequence[str]) -> Design:
        """A design with the runs of earlier commands of the same settings, which may have other norms and seeds.

        Of the norms of this command those runs are kept that differ in their seed alone.

        Args:
            design: of this command.
            runs: of this command.
            own: the study's own norms, which come first.

        Raises:
            DataError: there is no earlier design, or a file cannot be read.
        """
        earlier = read_design(self.out)
        if (earlier.study, earlier.scope) != (design.study, design.scope):
            return design
        same = earlier.settings == design.settings if earlier.settings else self._continue(earlier, runs)
        facts = {run.name: run.facts for run in runs}
        kept = [folder for folder in earlier.folders if _belongs(folder, facts, same)]
        norms = list(dict.fromkeys(map(norm_of, kept)))
        whole = joined(design, earlier.model_copy(update={"factors": {"norm": norms}}), {"norm": own})
        return whole.model_copy(update={"folders": list(dict.fromkeys([*kept, *design.folders]))})

    def _continue(self, earlier: Design, runs: Sequence[Run]) -> bool:
        """Whether finished runs of a design without settings differ from those of this command in their seed only."""
        facts = {run.name: digest({**run.facts, "seed": 0}) for run in runs}
        found = [run[0] for folder in earlier.folders if (run := read_run(self.out / folder)) is not None]
        known = [record for record in found if record.norm in facts]
        return bool(known) and all(facts[record.norm] == digest({**record.facts, "seed": 0}) for record in known)

    def _model_facts(self, norm: str) -> dict[str, Any]:
        """Of the network; its weights by their content, wherever the file is."""
        found: dict[str, Any] = parameters(self._model(norm))
        return found | ({"weights": file_digest(Path(found["weights"]))} if found.get("weights") else {})

    def _model(self, norm: str) -> dict[str, Any]:
        """The node of the network with the file of its weights; ``{norm}`` in the option is the name of the norm."""
        from da_wa.models.deeplab import weights_file  # imports torch

        node = self.options.model.model_dump(by_alias=True)
        if weights := node.get("weights"):
            node["weights"] = str(weights_file(str(weights).replace("{norm}", norm)))
        return node

    def _network(self, norm: str) -> nn.Module:
        classes = len(self.options.data.classes)
        made: nn.Module = make(self._model(norm))(norm=make(self.norms[norm]), num_classes=classes)
        return made

    def _settings(self, model: nn.Module) -> Settings:
        """The trainer's settings, with the precision that is faster for this network on this device."""
        from da_wa.train.precision import decided  # imports torch

        given, recipe = make(self.options.trainer.model_dump(by_alias=True)), self.options.recipe
        facts = {"network": self._shared["network"], **parameters(self.options.model.model_dump(by_alias=True))}
        return decided(given, model, (recipe.batch_size, 3, *recipe.crop), self.out / "precision", facts)

    def has_ended(self, run: Run) -> bool:
        """Whether a run has a record; one that diverged in another precision than the command sets does not count."""
        known = read_run(run.folder)
        if known is None:
            return False
        again = tries_again(self.options.trainer.precision, known[0].provenance)
        return known[0].error is None or not again

    def do(self, run: Run, ends: float = math.inf) -> SegmentationRecord:
        """Train, evaluate and record one run, from where an earlier command left it.

        Raises:
            Paused: the deadline ``ends`` is reached; no further epoch starts.
            LeaseLost: another command has taken the run over.
        """
        import torch

        from da_wa.data.augment import Normalize
        from da_wa.tasks.segmentation import SegmentationRecipe, train_segmentation

        def notify(done: int, epochs: int) -> None:
            confirm()
            if done < epochs and time.monotonic() >= ends:
                raise Paused

        given, data, state = self.options, self.options.data, run.folder / STATE
        record = SegmentationRecord(
            study=self.study,
            scope=self.scope,
            norm=run.name,
            label=self.norms[run.name]["label"],
            seed=run.seed,
            classes=data.classes,
            images=list(self.evaluated.names),
            facts=dict(run.facts),
            curve=[],
            cost={},
            provenance={**machine(), "command": command()},
        )
        torch.manual_seed(run.seed)
        model = self._network(run.name)
        try:
            result = train_segmentation(
                model,
                self.training,
                self.evaluated,
                len(data.classes),
                SegmentationRecipe(**given.recipe.model_dump()),
                self._settings(model),
                Normalize(data.mean, data.std),
                run.seed,
                state,
                notify,
                shown=SHOWN,
            )
        except Diverged as error:
            provenance = {**record.provenance, **error.computed}
            diverged = record.model_copy(update={"error": str(error), "curve": error.curve, "provenance": provenance})
            write_run(run.folder, diverged)
            return diverged
        provenance = {**record.provenance, **{key: result.cost[key] for key in ("device", "precision")}}
        found = {"curve": list(result.curve), "cost": result.cost, "provenance": provenance}
        done = record.model_copy(update=found)
        write_run(run.folder, done, Outputs(result.confusion, result.predicted))
        state.unlink(missing_ok=True)
        return done
