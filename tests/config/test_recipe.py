"""Recipes by name: the names agree with torch, and the callables are those that the names say."""

from __future__ import annotations

import inspect

import pytest
import torch
from pytorch_lightning.accelerators import AcceleratorRegistry
from torch import optim

from da_wa.config import choices
from da_wa.config.compose import compose
from da_wa.data.augment import Augment
from da_wa.errors import ConfigError
from da_wa.train import schedule
from da_wa.train.recipe import OPTIMIZERS, make_recipe

BASE = {
    "epochs": 2,
    "batch_size": 8,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine"},
    "augment": {"crop": 0.0, "flip": True, "erase": 0.25},
}


def test_the_names_of_optimizers_are_torchs():
    known = {
        name.lower(): kind
        for name, kind in vars(optim).items()
        if inspect.isclass(kind) and issubclass(kind, optim.Optimizer) and kind is not optim.Optimizer
    }
    unfit = {"lbfgs", "sparseadam", "muon"}
    assert known.keys() - unfit == OPTIMIZERS.keys()
    assert all(known[name] is kind for name, kind in OPTIMIZERS.items())


@pytest.mark.parametrize("name", choices.OPTIMIZERS)
def test_every_optimizer_trains_a_convolution(name):
    layer = torch.nn.Conv2d(3, 4, 3)
    before = layer.weight.detach().clone()
    recipe = make_recipe({**BASE, "optimizer": {"name": name, "lr": 0.1}})
    optimizer = recipe.optimizer([{"params": list(layer.parameters())}])
    layer(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_the_names_of_schedules_and_their_options_are_those_of_the_functions():
    functions = {
        name: function
        for name, function in vars(schedule).items()
        if inspect.isfunction(function) and function.__module__ == schedule.__name__
    }
    assert functions == schedule.SCHEDULES
    for name, function in functions.items():
        parameters = set(inspect.signature(function).parameters) - {"optimizer", "total_steps"}
        assert parameters == set(choices.SCHEDULES[name])


def test_the_names_of_accelerators_and_types_are_known_to_lightning_and_torch():
    assert set(choices.ACCELERATORS) - {"auto", "gpu"} <= set(AcceleratorRegistry.available_accelerators())
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in choices.DTYPES)


def test_a_recipe_by_names_is_the_one_by_class_paths():
    recipe = make_recipe(BASE)
    parameter = torch.nn.Parameter(torch.ones(1))
    made = recipe.optimizer([parameter])
    reference = optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert type(made) is optim.SGD
    assert made.defaults == reference.defaults
    assert recipe.augment == Augment(crop=0.0, flip=True, erase=0.25)
    steps = recipe.schedule(made, total_steps=4)
    assert steps.lr_lambdas[0](2) == pytest.approx(0.5)
    assert (recipe.epochs, recipe.batch_size, recipe.label_smoothing, recipe.evaluations) == (2, 8, 0.0, 1)


def test_the_papers_recipe():
    cfg = compose(["norms=[bn]"]).cfg
    recipe, before = make_recipe(cfg["finetune"]), make_recipe(cfg["pretrain"]["recipe"])
    assert recipe.optimizer.func is before.optimizer.func is optim.SGD
    assert recipe.optimizer.keywords == {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}
    assert before.optimizer.keywords == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert (recipe.schedule.func, before.schedule.func) == (schedule.constant, schedule.one_cycle)
    assert recipe.augment == before.augment == Augment(0.125, True, 0.0)


def test_options_of_a_schedule_reach_it():
    recipe = make_recipe({**BASE, "schedule": {"name": "one_cycle", "warmup": 0.5, "start": 0.2}})
    steps = recipe.schedule(optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), total_steps=10)
    assert steps.lr_lambdas[0](0) == pytest.approx(0.2)
    assert steps.lr_lambdas[0](5) == pytest.approx(1.0)


def test_callables_of_the_users_own():
    recipe = make_recipe(
        {
            **BASE,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.3},
            "schedule": {"_target_": "da_wa.train.schedule.multi_step", "_partial_": True, "at": [0.5]},
            "augment": {"_target_": "torch.flipud", "_partial_": True},
        }
    )
    assert isinstance(recipe.optimizer([torch.nn.Parameter(torch.ones(1))]), optim.Adam)
    assert recipe.schedule.keywords == {"at": [0.5]}
    assert recipe.augment(torch.tensor([[1], [2]])).tolist() == [[2], [1]]


@pytest.mark.parametrize("part", ["experiment=imagenet finetune.augment", "experiment=probe finetune.input"])
@pytest.mark.parametrize("crop", ["atuo", "0", "1.5"])
def test_a_crop_is_a_number_or_auto(part, crop):
    experiment, _, group = part.partition(" ")
    words = [experiment, "model.name=test_resnet"]
    with pytest.raises(ConfigError, match=rf"{group}.crop={crop}: must be auto or a number above 0, up to 1"):
        compose([*words, f"{group}.crop={crop}"])
    for valid in ("auto", "0.5", "1"):
        compose([*words, f"{group}.crop={valid}"])


@pytest.mark.parametrize(
    ("key", "node", "said"),
    [
        ("optimizer", {"name": "adamw", "lr": 1.0, "momentum": 0.9}, "adamw has no option 'momentum'"),
        ("optimizer", {"_target_": "nowhere.Lion"}, "nowhere.Lion"),
        ("schedule", {"name": "cosine", "warmup": 0.1}, "cosine has no option 'warmup'"),
    ],
)
def test_what_cannot_be_made_is_named(key, node, said):
    with pytest.raises(ConfigError) as error:
        make_recipe({**BASE, key: node})
    assert said in str(error.value)
