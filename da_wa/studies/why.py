"""Why WeightAlign works: what becomes of weights and activations with every norm (the paper's Figs. 2, 4, 5, 7–12).

Stages:

===========  ==============================================================================================
initial      a plain network at initialisation (Figs. 2, 7, 8); ``initial.csv``
growth       the second moment against depth, at initialisation; ``growth.csv``
trained      the networks in ``checkpoint_dir``, or those of the package (Fig. 5); ``trained.csv``
===========  ==============================================================================================

Images are those of the first source: ``data=folders data.root=PATH sources=[NAME]``.
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
from da_wa.runs.inputs import Inputs
from da_wa.runs.jobs import PACKAGED
from da_wa.runs.plan import chosen_sources
from da_wa.studies.study import Bench, scope_options

if TYPE_CHECKING:
    from da_wa.studies.layer_values import Layer


@dataclass(frozen=True)
class Scope:
    """The size of the study.

    Attributes:
        options: overrides for its experiment.
        sizes: plain values of :class:`~da_wa.studies.layer_values.Sizes`.
    """

    options: Sequence[str]
    sizes: Mapping[str, Any]


class Why:
    """The study; see the module docstring.

    Args:
        experiment: the file in ``conf/experiment`` that has norms, network and images.
        scopes: plain values of :class:`Scope` by name.
    """

    def __init__(self, experiment: str, scopes: Mapping[str, Mapping[str, Any]]) -> None:
        self.experiment = experiment
        self.scopes = {name: Scope(**node) for name, node in scopes.items()}

    def options(self, scope: str) -> list[str]:
        """Overrides of the experiment.

        Raises:
            ConfigError: there is no such scope.
        """
        return scope_options(self.experiment, self.scopes, scope)

    def experiments(self, scope: str) -> dict[str, Sequence[str]]:
        """The one that all stages read."""
        return {"networks": []}

    def stages(self, scope: str) -> dict[str, Callable[[Bench], None]]:
        """What each stage does, in order."""
        chosen = self.scopes[scope]
        stages = {"initial": self._initial, "growth": self._growth, "trained": self._trained}
        return {name: partial(stage, scope=chosen) for name, stage in stages.items()}

    def extra_stages(self) -> dict[str, Callable[[Bench], None]]:
        """None."""
        return {}

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
        from da_wa.studies.layer_values import Sizes, image_batch, trained_layers  # imports torch

        experiment = _composed(bench)
        cfg = experiment.cfg
        folder = Path(cfg["checkpoint_dir"] or PACKAGED)
        networks = {name: find_network(folder, cfg["model"]["name"], name) for name in experiment.norms}
        domains = Inputs(cfg["data"], Path()).domains
        domain = domains[first_source(cfg["sources"], domains.names)]
        images = image_batch(domain, Sizes(**scope.sizes).batch, cfg["data"]["size"])
        layers = (
            (norm.label, layer)
            for name, norm in zip(networks, map(make, experiment.norms.values()), strict=True)
            for layer in trained_layers(networks[name], cfg["model"]["build"], norm, images)
        )
        _write(bench, "trained", layers)


def find_network(folder: Path, model: str, norm: str) -> Path:
    """The checkpoint of a model with ``norm`` in ``folder``.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = sorted(folder.glob(f"{model}-*-{norm}-*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise ConfigError(
            f"{folder} needs one file {model}-*-{norm}-*.safetensors; found: {listed}. Leave {norm} out of norms=[…], "
            f"or train it: run_office31.py experiment=checkpoints norms=[{norm}] checkpoint_dir={folder}"
        )
    return found[0]


def first_source(wanted: Any, names: Sequence[str]) -> str:
    """The domain whose images are measured: the first of ``sources``.

    >>> first_source("all", ["H", "N"])
    'H'

    Raises:
        ConfigError: there is none, or it is not a domain.
    """
    if not (chosen := chosen_sources(wanted, names)):
        raise ConfigError(f"sources=[] leaves no images to measure; name one of {', '.join(names)}.")
    return chosen[0]


def _composed(bench: Bench) -> Experiment:
    return compose(bench.options, bench.config_dir)


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
    bench.console.print(text, highlight=False, markup=False)
    bench.console.print(f"\nTables and figures are in {bench.out}\n", highlight=False)
