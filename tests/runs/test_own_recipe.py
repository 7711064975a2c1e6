"""Recipes of the user's own: whether methods can be used with them is for their class to say."""

from __future__ import annotations

import numpy as np
import pytest

from da_wa.config.compose import Experiment, compose
from da_wa.data.cache import DecodedDomain
from da_wa.errors import ConfigError
from da_wa.runs.plan import plan
from da_wa.runs.preflight import preflight

OWN = """
from da_wa.train.recipe import AnyRecipe


class Own(AnyRecipe):
    trains_network = True

    def __init__(self, name, epoch_steps=None, optimizer=None):
        pass


class Adapting(Own):
    def adapted(self, backbone, method, changes):
        return backbone
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An experiment with a recipe of that class, and methods."""
    (tmp_path / "own_recipe.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "finetune").mkdir()

    def composed(kind: str, options: str) -> Experiment:
        recipe = f"{{_target_: own_recipe.{kind}, name: own{options}}}"
        (tmp_path / "finetune" / "own.yaml").write_text(recipe)
        words = ["finetune=own", "methods=[none,mcc,shot]", "norms=[bn]", "model=resnet20", "pretrain=none"]
        return compose([*words, "protocol.holdout=0.5"], tmp_path)

    return composed


OPTIONS = ["", ", optimizer: {name: sgd, lr: 0.1}, epoch_steps: 2"]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_recipe_that_adapts_is_planned_and_checked_with_methods(own, tmp_path, options):
    experiment = own("Adapting", options)
    pixels = np.zeros((8, 3, 32, 32), np.uint8)
    domains = [DecodedDomain(n, pixels, np.arange(8) % 2, tuple("01234567"), n, ("a", "b")) for n in "AW"]
    jobs = plan(experiment, domains, tmp_path / "out", tmp_path)
    assert {job.config["unit"]["factors"]["method"] for job in jobs} == {"none", "mcc", "shot"}
    preflight(experiment, domains, jobs)


@pytest.mark.parametrize("options", OPTIONS)
def test_another_is_refused_in_its_own_words(own, options):
    with pytest.raises(ConfigError, match=r"method mcc cannot.*finetune=own: this recipe does not adapt networks"):
        preflight(own("Own", options), [], [])
