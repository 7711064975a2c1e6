"""Classification as a transfer from training to test images, and batches of one image."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from da_wa.config.compose import compose
from da_wa.data.cifar import cifar100
from da_wa.data.decoded import save_index
from da_wa.errors import ConfigError, DataError
from da_wa.launchers.launch import launch, prepare
from da_wa.records.store import Store
from da_wa.runs.inputs import Inputs
from da_wa.runs.preflight import preflight, refused

SMALL = [
    "experiment=classify", "model=resnet20", "model.build.depths=[1,1,1]", "model.build.widths=[4,4,4]",
    "data.verify=false", "data.size=8", "finetune.epochs=1", "seeds=[0]", "launcher.workers=1", "launcher.threads=1",
]  # fmt: skip


@pytest.mark.timeout(600)
def test_it_trains_on_every_training_image_and_evaluates_every_test_image(tmp_path, cifar_root):
    words = [*SMALL, f"data.root={cifar_root}", "norms=[wa]", "finetune.batch_size=1", f"out={tmp_path / 'out'}"]
    planned = prepare(compose([*words, f"cache_dir={tmp_path / 'cache'}"]), Console(quiet=True))
    launch(planned, Console(quiet=True))
    (run,) = Store(tmp_path / "out").runs()
    record = run.verified()
    assert record is not None
    assert (record.source, record.targets, record.factors.dataset) == ("train", ["test"], "CIFAR-100")
    assert [(e.domain, e.role, e.n) for e in record.evaluations] == [("test", "target", 16)]
    seen = record.cost["images_per_s"] * record.cost["train_s"]
    assert seen == pytest.approx(48, rel=0.2)  # every image once, none held out; both numbers are rounded
    assert record.pretraining is None


def test_a_dataset_with_one_domain_is_refused(tmp_path, draw_tree):
    root = draw_tree(tmp_path / "shapes", domains=("paper",), per_class=1)
    data = compose(["data=folders", f"data.root={root}"]).cfg["data"]
    with pytest.raises(
        ConfigError, match=r"has only one domain, paper\..*or check data\.root: it is the folder that holds"
    ):
        _ = Inputs(data, tmp_path).domains


@pytest.mark.parametrize("indexed", [False, True])
def test_one_more_domain_has_some_of_the_classes(indexed, tmp_path, cifar_root, draw_tree):
    root = cifar_root
    if indexed:
        root = tmp_path / "index.json"
        save_index(cifar100(cifar_root, verify=False), root)
    extra = draw_tree(tmp_path, domains=("extra",), classes=("bear", "clock"), per_class=3, side=32) / "extra"
    words = [*SMALL, f"data.root={root}", f"+data.extra.C={extra}"]
    with pytest.raises(DataError, match="C lacks apple, dolphin"):
        _ = Inputs(compose(words).cfg["data"], tmp_path).domains
    domains = Inputs(compose([*words, "data.classes=common"]).cfg["data"], tmp_path).domains
    assert (domains.names, domains.classes) == (("train", "test", "C"), ("bear", "clock"))
    assert [np.bincount(domain.labels).tolist() for domain in domains.domains] == [[12, 12], [4, 4], [3, 3]]
    names = [domains["test"].images.name(i) for i in range(8)]
    assert [name.split("/")[0] for name in names] == ["bear"] * 4 + ["clock"] * 4


@pytest.mark.parametrize("norm", ["bn", "bn_wa", "brn"])
def test_batches_of_one_image_have_no_statistics(norm):
    experiment = compose([*SMALL, f"norms=[{norm},wa,gn,ln,in,none]", "finetune.batch_size=1"])
    assert list(refused(experiment)) == [norm]
    with pytest.raises(ConfigError, match=rf"finetune\.batch_size=1: norm {norm} uses statistics over the images"):
        preflight(experiment, [], [])
    assert refused(compose([*SMALL, f"norms=[{norm}]", "finetune.batch_size=2"])) == {}
    assert list(refused(compose(["model=resnet20", f"norms=[{norm},wa]", "pretrain.recipe.batch_size=1"]))) == [norm]
