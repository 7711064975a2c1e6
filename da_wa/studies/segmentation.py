"""Segmentation: DeepLabv3 with several norms, mean intersection over union (the paper's VOC experiment).

Its options are those of a scope in ``conf/study/voc.yaml``: ``data.root=PATH recipe.epochs=9 seeds=[0]``. Stages:

==========  ===============================================================================================
train       one run per norm and seed, the first seed of every norm first; finished runs are not repeated
report      ours beside the paper's, its claim, ``runs.csv``, and ``examples.png``: image, truth, every norm
==========  ===============================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError

from da_wa.config.make import make
from da_wa.config.nodes import Node, Part
from da_wa.config.tree import folders, options, read_node
from da_wa.errors import ConfigError, Diverged, nearest
from da_wa.models.weights import file_digest
from da_wa.records.design import Design, write_design
from da_wa.records.files import locked
from da_wa.records.identity import digest, norm_facts, parameters
from da_wa.records.provenance import command, machine
from da_wa.records.segmentation import Outputs, SegmentationRecord, read_run, write_run
from da_wa.studies.study import Bench, Paused

if TYPE_CHECKING:
    from da_wa.data.masks import MaskedImages

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]
SHOWN = 4
"""How many images the figure shows."""


class DataNode(Node):
    """Where images and masks are; see :mod:`da_wa.data.masks`."""

    layout: str
    root: str
    train: str
    test: str
    classes: Annotated[list[str], Field(min_length=2, max_length=254)]
    void: Annotated[int, Field(ge=0, le=255)]
    mean: Channels
    std: Channels


class RecipeNode(Node):
    """See :class:`da_wa.tasks.segmentation.SegmentationRecipe`."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    power: Positive
    crop: tuple[Count, Count]
    scale: tuple[Positive, Positive]
    flip: bool = True


class Options(Node):
    """All options of a scope."""

    caption: str
    norms: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    data: DataNode
    model: Part
    recipe: RecipeNode
    trainer: dict[str, Any] = Field(default={})


@dataclass(frozen=True)
class Run:
    """One norm and seed."""

    name: str
    seed: int
    folder: Path
    facts: Mapping[str, Any]


class Segmentation:
    """The study; see the module docstring.

    Args:
        study: its name, by which ``report/paper.yaml`` knows it.
        title: of its table.
        norms: names of the norms; the second is compared with the first.
        scopes: plain values of :class:`Options` by name.
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

    def experiments(self, scope: str) -> dict[str, Sequence[str]]:
        """None: its runs are not those of an experiment on domains."""
        return {}

    def chosen(self, scope: str, words: Sequence[str] = ()) -> Options:
        """The options of a scope with overrides.

        Raises:
            ConfigError: an unknown option, or a value that it cannot have.
        """
        self.options(scope)
        try:
            node = OmegaConf.merge(OmegaConf.create(self.scopes[scope]), OmegaConf.from_dotlist(list(words)))
            return Options.model_validate(OmegaConf.to_container(node, resolve=True))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{place}: {first['msg']} (study={self.study}); see conf/study/{self.study}.yaml"
            ) from None
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from None

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        return {"train": partial(self._train, scope=scope), "report": partial(self._report, scope=scope)}

    def extra_stages(self) -> dict[str, Callable[[Bench], None]]:
        """None."""
        return {}

    def _train(self, bench: Bench, scope: str) -> None:
        work = _Work(self.study, scope, self.chosen(scope, bench.options), bench.out, bench.config_dir)
        runs = list(work.runs())
        write_design(bench.out, work.design(self.title, runs))
        for run in runs:
            with locked(run.folder / "run", patience=0) as mine:  # another process may have it
                if not mine or read_run(run.folder) is not None:
                    continue
                if time.monotonic() >= bench.ends:
                    raise Paused
                work.do(run)
                record, _ = read_run(run.folder) or (None, None)
                assert record is not None
                result = record.error or f"{record.cost['train_s'] + record.cost['eval_s']:.0f} s"
                bench.console.print(f"{record.label}, seed {run.seed}: {result}", highlight=False)
                bench.failed += [run.folder.name] if record.error else []

    def _report(self, bench: Bench, scope: str) -> None:
        from da_wa.report.segmentation import write_segmentation  # imports pandas

        work = _Work(self.study, scope, self.chosen(scope, bench.options), bench.out, bench.config_dir)
        images = work.evaluated
        report = write_segmentation(bench.out, images.images[:SHOWN].numpy(), images.masks[:SHOWN].numpy())
        bench.console.print(report.summary(), highlight=False, markup=False)
        bench.console.print(f"The report is in {bench.out}", highlight=False)


class _Work:
    """The runs of one command: decodes the images once, trains one run after another."""

    def __init__(self, study: str, scope: str, chosen: Options, out: Path, config_dir: Path | None) -> None:
        self.study, self.scope, self.options, self.out = study, scope, chosen, out
        where = folders(config_dir)
        for name in chosen.norms:
            if name not in options("norm", where):
                raise ConfigError(f"norms: {name} is unknown. {nearest(name, options('norm', where))}")
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

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """Facts of all runs."""
        given, data = self.options.model_dump(by_alias=True), self.options.data
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
        for seed, name in product(self.options.seeds, self.norms):
            facts = {
                **self._shared,
                "norm": norm_facts(name, self.norms[name]),
                "model": self._model_facts(name),
                "seed": seed,
            }
            yield Run(name, seed, self.out / "runs" / f"{name}-seed{seed}-{digest(facts)}", facts)

    def design(self, title: str, runs: Sequence[Run]) -> Design:
        """What the report needs to know beside the records."""
        return Design(
            study=self.study,
            scope=self.scope,
            title=title,
            caption=self.options.caption,
            task="segmentation",
            factors={"norm": list(self.norms)},
            rows=["norm"],
            columns=[],
            names={"norm": {name: node["label"] for name, node in self.norms.items()}},
            norms={name: dict(node.get("factors") or {}) for name, node in self.norms.items()},
            folders=[run.folder.relative_to(self.out).as_posix() for run in runs],
        )

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

    def do(self, run: Run) -> None:
        """Train, evaluate and record one run."""
        import torch

        from da_wa.data.augment import Normalize
        from da_wa.tasks.segmentation import SegmentationRecipe, train_segmentation
        from da_wa.train.settings import Settings

        given, data = self.options, self.options.data
        norm, k = make(self.norms[run.name]), len(data.classes)
        record = SegmentationRecord(
            study=self.study,
            scope=self.scope,
            norm=run.name,
            label=norm.label,
            seed=run.seed,
            classes=data.classes,
            images=list(self.evaluated.names),
            facts=dict(run.facts),
            curve=[],
            cost={},
            provenance={**machine(), "command": command()},
        )
        torch.manual_seed(run.seed)
        model = make(self._model(run.name))(norm=norm, num_classes=k)
        try:
            result = train_segmentation(
                model,
                self.training,
                self.evaluated,
                k,
                SegmentationRecipe(**given.recipe.model_dump()),
                Settings(**given.trainer),
                Normalize(data.mean, data.std),
                run.seed,
                shown=SHOWN,
            )
        except Diverged as error:
            write_run(run.folder, record.model_copy(update={"error": str(error), "curve": error.curve}))
            return
        done = record.model_copy(update={"curve": list(result.curve), "cost": result.cost})
        write_run(run.folder, done, Outputs(result.confusion, result.predicted))
