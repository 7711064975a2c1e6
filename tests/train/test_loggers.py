from pathlib import Path

import pytest

from da_wa.config.compose import compose
from da_wa.config.make import make


def test_wandb_names_the_run_after_its_folder_and_keeps_runs_apart(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    cfg = compose(["logger=wandb", "+logger.wandb.offline=true", "norms=[bn]"]).cfg
    made = [make(cfg["logger"]["wandb"])(save_dir=tmp_path / name) for name in ("bn-A-s0", "bn-A-s1")]
    for logger in made:
        Path(logger.save_dir).mkdir()
    runs = [logger.experiment for logger in made]
    assert [run.name for run in runs] == ["bn-A-s0", "bn-A-s1"]
    for run in runs:
        run.finish()


def test_mlflow_names_the_run_after_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    cfg = compose(["logger=mlflow", f"logger.mlflow.tracking_uri=sqlite:///{tmp_path}/m.db", "norms=[bn]"]).cfg
    logger = make(cfg["logger"]["mlflow"])(save_dir=tmp_path / "bn-A-s0")
    run = logger.experiment.get_run(logger.run_id)
    assert run.info.run_name == "bn-A-s0"
    logger.finalize("success")


def test_what_a_run_is_reaches_its_loggers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    cfg = compose(["logger=tensorboard", "norms=[bn]"]).cfg
    assert set(cfg["logger"]) == {"csv", "tensorboard"}
    logger = make(cfg["logger"]["tensorboard"])(save_dir=tmp_path)
    logger.log_hyperparams({"norm": "bn"})
    logger.save()
    assert "bn" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()
