"""The trained network of a run, to predict new images."""

from __future__ import annotations

from da_wa.errors import DataError
from da_wa.records.store import RunDir
from da_wa.runs.execute import normalization
from da_wa.runs.jobs import WEIGHTS
from da_wa.runs.networks import built
from da_wa.train.predictor import Predictor, load_trained
from da_wa.train.recipe import make_recipe


def predictor(run: RunDir) -> Predictor:
    """The trained network of a run.

    Raises:
        DataError: the run is not finished, or has not kept its network.
        CheckpointError: its file is damaged.
    """
    record, weights = run.verified(), run.path / WEIGHTS
    if record is None or not weights.exists():
        raise DataError(
            f"{run.path} has no {WEIGHTS}. A run keeps its network with keep=[weights]; a finished one is not run "
            "again, so use another out=DIR."
        )
    config = run.config()
    recipe, data = make_recipe(config["finetune"]), config["data"]
    model = recipe.network(built(config, 2))
    model.head = model.make_head(len(record.classes))
    load_trained(weights, model, config["method"].get("statistics"))
    return Predictor(
        model.eval(),
        tuple(record.classes),
        data["size"],
        data.get("resize", "squash"),
        data.get("interpolation", "bilinear"),
        recipe.view_for(model).plain,
        normalization(model, config["normalize"]),
    )
