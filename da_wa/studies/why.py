"""Why WeightAlign works: what becomes of weights and activations with every norm (the paper's Figs. 2, 4, 5, 7–12).

Stages:

===========  ==============================================================================================
initial      a plain network at initialisation (Figs. 2, 7, 8); ``initial.csv``
growth       the second moment against depth, at initialisation; ``growth.csv``
trained      the networks in ``checkpoint_dir``, or those of the package (Figs. 4, 5); ``trained.csv``,
             ``branches.csv``
over_epochs  networks that are trained here, from the kept weights of some epochs (Figs. 4, 9–12); ``over_epochs.csv``
===========  ==============================================================================================

The networks of ``over_epochs`` are runs of an ordinary experiment: interrupted ones resume, finished ones are not
repeated. Images are those of the first source: ``data=folders data.root=PATH sources=[NAME]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from da_wa.config.compose import Experiment, compose
from da_wa.config.make import make
from da_wa.errors import ConfigError
from da_wa.launchers.launch import Planned
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import Done, UnitJob
from da_wa.runs.plan import chosen_sources, one_file
from da_wa.shipped import CHECKPOINTS
from da_wa.studies.study import Bench, ScopedStudy

if TYPE_CHECKING:
    from da_wa.data.domains import Domain
    from da_wa.studies.layer_values import Layer


@dataclass(frozen=True)
class Scope:
    """The size of the study.

    Attributes:
        options: overrides for its experiment.
        over_epochs: further ones for the networks that are trained.
        sizes: plain values of :class:`~da_wa.studies.layer_values.Sizes`.
    """

    options: Sequence[str]
    sizes: Mapping[str, Any]
    over_epochs: Sequence[str] = ()


class Why(ScopedStudy[Scope]):
    """The study; see the module docstring.

    Args:
        experiment: the file in ``conf/experiment`` that has norms, network and images.
        scopes: plain values of :class:`Scope` by name.
    """

    def __init__(self, experiment: str, scopes: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(experiment, {name: Scope(**node) for name, node in scopes.items()})

    def experiments(self, scope: str, words: Sequence[str], config_dir: Path | None) -> dict[str, Experiment]:
        """The one that trains networks; the other stages read its norms, model and images."""
        start = [*self.options(scope), *words]
        return {"over_epochs": compose([*start, *self.scopes[scope].over_epochs], config_dir)}

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        chosen = self.scopes[scope]
        stages = {
            "initial": self._initial,
            "growth": self._growth,
            "trained": self._trained,
            "over_epochs": self._over_epochs,
        }
        return {name: partial(stage, scope=chosen) for name, stage in stages.items()}

    def _initial(self, bench: Bench, scope: Scope) -> None:
        from da_wa.studies.layer_values import Sizes, initial_layers  # imports torch

        norms = map(make, _composed(bench).norms.values())
        layers = ((norm.label, layer) for norm in norms for layer in initial_layers(norm, Sizes(**scope.sizes)))
        _write(bench, "initial", layers)

    def _growth(self, bench: Bench, scope: Scope) -> None:
        from da_wa.report.why import write_growth  # imports pandas
        from da_wa.studies.layer_values import Sizes, second_moments  # imports torch

        _composed(bench)  # a wrong option is named in every stage
        _show(bench, write_growth(bench.out, second_moments(Sizes(**scope.sizes))))

    def _trained(self, bench: Bench, scope: Scope) -> None:
        import pandas as pd

        from da_wa.report.why import write_branches
        from da_wa.studies.layer_values import Sizes, image_batch, trained_branches, trained_layers  # imports torch

        experiment = _composed(bench)
        cfg = experiment.cfg
        folder = Path(cfg["checkpoint_dir"] or CHECKPOINTS)
        networks = {name: find_network(folder, cfg["model"]["name"], name) for name in experiment.norms}
        images = image_batch(first_source(cfg), Sizes(**scope.sizes).batch, cfg["data"]["size"])
        norms = dict(zip(networks, map(make, experiment.norms.values()), strict=True))
        build = cfg["model"]["build"]
        layers = (
            (norm.label, layer)
            for name, norm in norms.items()
            for layer in trained_layers(networks[name], build, norm, images)
        )
        _write(bench, "trained", layers)
        branches = [
            {"norm": norm.label, "block": number, "branch_share": share}
            for name, norm in norms.items()
            for number, share in enumerate(trained_branches(networks[name], build, norm, images), start=1)
        ]
        _show(bench, write_branches(bench.out, pd.DataFrame(branches)))

    def _over_epochs(self, bench: Bench, scope: Scope) -> None:
        import pandas as pd

        from da_wa.report.why import write_over_epochs
        from da_wa.studies.layer_values import Sizes, check_blocks, image_batch, kept_layers  # imports torch

        cfg = _composed(bench, scope.over_epochs).cfg
        images = image_batch(first_source(cfg), Sizes(**scope.sizes).batch, cfg["data"]["size"])
        planned = bench.prepare("over_epochs", scope.over_epochs)
        norms = planned.experiment.norms
        check_blocks(cfg["model"]["build"], make(next(iter(norms.values()))))
        bench.run(planned)
        kept = _kept(planned)
        if not kept:  # all runs failed, which the command says
            return
        rows = [
            {"norm": norms[norm]["label"], "source": source, "seed": seed, "epoch": epoch}
            | layer.measures()
            | layer.quantiles()
            for (norm, source, seed, epoch), (path, config) in kept.items()
            for layer in kept_layers(path, config, images)
        ]
        _show(bench, write_over_epochs(bench.out, pd.DataFrame(rows)))


def find_network(folder: Path, model: str, norm: str) -> Path:
    """The checkpoint of a model with ``norm`` in ``folder``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    advice = (
        f"Leave {norm} out of norms=[…], choose a folder with one, or train it: run_office31.py "
        f"experiment=checkpoints model={model} norms=[{norm}] checkpoint_dir={folder}"
    )
    return one_file(folder, f"{model}-*-{norm}-*.safetensors", advice)


def first_source(cfg: Mapping[str, Any]) -> Domain:
    """The domain whose images are measured: the first of ``sources``.

    Raises:
        UserError: there is none, or the data is wrong.
    """
    domains = Inputs(cfg["data"], Path()).domains
    if not (chosen := chosen_sources(cfg["sources"], domains.names)):
        raise ConfigError(f"sources=[] leaves no images to measure; name one of {', '.join(domains.names)}.")
    return domains[chosen[0]]


def _composed(bench: Bench, more: Sequence[str] = ()) -> Experiment:
    """The experiment, checked.

    Raises:
        ConfigError: a wrong option, or one that compares something else than norms.
    """
    experiment = bench.compose(more)
    if list(experiment.methods) != ["none"] or len(experiment.models) > 1:
        raise ConfigError("study=why compares norms alone; leave out methods=[…] and models=[…], e.g. model=resnet18.")
    return experiment


def _kept(planned: Planned) -> dict[tuple[str, str, int, int], tuple[Path, Mapping[str, Any]]]:
    """The kept weights by norm, source, seed and epoch, and the configuration of their run.

    Raises:
        ConfigError: a finished run has not kept them.
    """
    found = {}
    for job in planned.jobs:
        if not isinstance(job, UnitJob) or job.outcome() is None:
            continue
        factors = job.unit.factors
        for epoch in job.config["keep_epochs"]:
            path = job.weights_after(epoch)
            if path.exists():
                found[factors.norm, job.unit.source, factors.seed, epoch] = path, job.config
            elif isinstance(job.outcome(), Done):
                raise ConfigError(f"{job.directory.path} was run without keep_epochs=[{epoch}]; delete it.")
    return found


def _write(bench: Bench, name: str, layers: Iterable[tuple[str, Layer]]) -> None:
    """Measure layers, each with the label of its norm; draw and tabulate some."""
    import pandas as pd

    from da_wa.report.why import write_distributions

    rows, curves = [], []
    for norm, layer in layers:
        rows.append({"norm": norm, **layer.measures()})
        curves.append(layer.curves().assign(norm=norm))
    _show(bench, write_distributions(bench.out, name, pd.DataFrame(rows), pd.concat(curves)))


def _show(bench: Bench, text: str) -> None:
    bench.console.print(text)
    bench.console.print(f"\nTables and figures are in {bench.out}\n")
