"""Wrong options, each refused by name before torch is imported or anything is decoded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from da_wa.cli import main
from da_wa.config.compose import compose
from da_wa.errors import ConfigError

CASES: list[tuple[str, str]] = [
    # data
    ("data.size=true", "data.size"),
    ("data.size=null", "data.size"),
    ("data.size=big", "data.size"),
    ("data.size=32.5", "data.size"),
    ("data.size=0", "data.size"),
    ("data.size=-32", "data.size"),
    ("data.size=100000", "data.size"),
    ("data.size=[32,32]", "data.size"),
    ("data.extra=null", "data.extra"),
    ("data.extra=abc", "data.extra"),
    ("data.extra=[a]", "data.extra"),
    ("+data.extra.C=5", "data.extra"),
    ("data.name=null", "data.name"),
    ("data.name=31", "data.name"),
    ("data.folders=abc", "data.folders"),
    ("data.folders=[a,b]", "data.folders"),
    ("data.on_bad=ignore", "data.on_bad"),
    ("data.resize=squish", "Did you mean 'squash'"),
    ("data.interpolation=nearest", "data.interpolation"),
    ("data.classes=some", "data.classes"),
    ("+data.foo=1", "data.foo"),
    ("data.domains=5", "data.domains"),
    ("data=null", "data"),
    ("data=office32", "office31"),
    # norms, models, methods, sources, seeds, what is kept
    ("norms=[1]", "norms"),
    ("norms=[]", "norms"),
    ("norms=null", "norms"),
    ("norms=bn", "norms=[bn,bn_wa]"),
    ("norms=[null]", "norms"),
    ("norms=[bnn]", "Did you mean 'bn'"),
    ("norms={a:bn}", "norms"),
    ("~norms", "norms"),
    ("model=null", "model"),
    ("model=[resnet20,resnet18]", "models=[a,b]"),
    ("model=resnet20,resnet18", "models=[a,b]"),
    ("model=5", "model=5"),
    ("models=resnet20", "models=[resnet20,resnet18]"),
    ("models=[]", "models"),
    ("models=[1]", "models"),
    ("models=[resnet21]", "Did you mean 'resnet"),
    ("methods=[]", "methods"),
    ("methods=null", "methods"),
    ("methods=[dan_n]", "dan_n"),
    ("methods=none", "methods"),
    ("sources=null", "sources"),
    ("sources=A", "sources"),
    ("sources=[1]", "sources"),
    ("sources=5", "sources"),
    ("seeds=3", "seeds=[0,1,2]"),
    ("seeds=[]", "seeds"),
    ("seeds=null", "seeds"),
    ("seeds=[-1]", "seeds"),
    ("seeds=[0.5]", "seeds"),
    ("seeds=[true]", "seeds"),
    ("seeds=[99999999999999999999]", "seeds"),
    ("seeds=[", "seeds=["),
    ("keep=weights", "keep"),
    ("keep=[weight]", "keep"),
    ("keep_epochs=[-1]", "keep_epochs"),
    ("keep_epochs=[0,31]", "keep_epochs=[31]: must be at most the number of epochs, finetune.epochs=30"),
    # folders
    ("out=null", "out"),
    ("out=5", "out"),
    ("out=[a]", "out"),
    ("out=true", "out"),
    ("out=''", "out"),
    (f"out={'x' * 300}", "out"),
    (f"out={'/x' * 2000}", "out"),
    (f"out={__file__}", "out"),
    ("cache_dir=5", "cache_dir"),
    ("checkpoint_dir=true", "checkpoint_dir"),
    # model
    ("model.build.depths=[0,0,0]", "model.build.depths"),
    ("model.build.depths=[]", "model.build.depths"),
    ("model.build.depths=3", "model.build.depths"),
    ("model.build.depths=[3,3]", "model.build.depths"),
    ("model.build.widths=[16,32,-64]", "model.build.widths"),
    ("model.build.widths=[true,32,64]", "model.build.widths"),
    ("model.build=null", "model.build"),
    ("~model.build", "model.build"),
    ("model.gain_init=foo", "model.gain_init"),
    ("model.gain_init=null", "model.gain_init"),
    ("model.name=null", "model.name"),
    ("model.name=resnet50", "model.name=resnet50 does not change the network of model=resnet20."),
    ("models=[resnet18,resnet20] model.name=mine", "model.name=mine does not change the network of model="),
    ("model=resnet50 experiment=imagenet", "experiment=imagenet, takes no other model="),
    (
        "report.contrasts=[aling]",
        "'aling' is neither a weight of these norms nor one of these methods. Did you mean 'align'",
    ),
    ("data=/data/mine", "data=folders data.root=/data/mine"),
    ("data=", "there is no data called ''"),
    ("+model.foo=1", "model.foo"),
    ("+model.weights=x.pt", "pretrain.checkpoint=FILE"),
    ("+model.weights=imagenet", "pretrain.checkpoint=FILE"),
    ("+model.version=two", "model.version"),
    # recipes
    ("finetune=null", "finetune"),
    ("finetune=fast", "default"),
    ("finetune.epochs=0", "finetune.epochs"),
    ("finetune.epochs=many", "finetune.epochs"),
    ("finetune.epochs=1.5", "finetune.epochs"),
    ("finetune.epochs=true", "finetune.epochs"),
    ("~finetune.epochs", "finetune.epochs"),
    ("finetune.batch_size=null", "finetune.batch_size"),
    ("finetune.batch_size=0", "finetune.batch_size"),
    ("+finetune.foo=1", "finetune.foo"),
    ("finetune.epoch=3", "Did you mean 'finetune.epochs'"),
    ("finetune.lr=1", "Did you mean 'finetune.optimizer.lr'?"),
    ("+finetune.lr=1", "Did you mean 'finetune.optimizer.lr'?"),
    ("finetune.momentum=0.5", "Did you mean 'finetune.optimizer.momentum'?"),
    ("finetune.optimizer=null", "finetune.optimizer"),
    ("finetune.optimizer=adamw", "finetune.optimizer"),
    ("finetune.optimizer.name=adamm", "Did you mean 'adam'"),
    ("finetune.optimizer.name=SGD", "Did you mean 'sgd'"),
    ("finetune.optimizer.name=lbfgs", "finetune.optimizer.name"),
    ("finetune.optimizer.lr=-1", "finetune.optimizer.lr"),
    ("finetune.optimizer.lr=nan", "finetune.optimizer.lr"),
    ("finetune.optimizer.lr=inf", "finetune.optimizer.lr"),
    ("finetune.optimizer.lr=fast", "finetune.optimizer.lr"),
    ("finetune.optimizer.lr=null", "finetune.optimizer.lr"),
    ("finetune.optimizer.lr=true", "finetune.optimizer.lr"),
    ("~finetune.optimizer.lr", "finetune.optimizer.lr"),
    ("finetune.optimizer.momentum=2", "finetune.optimizer.momentum"),
    ("finetune.optimizer.weight_decay=-0.1", "finetune.optimizer.weight_decay"),
    ("finetune.schedule.name=cosinus", "Did you mean 'cosine'"),
    ("finetune.schedule=cosine", "finetune.schedule"),
    ("+finetune.schedule.warmup=0.1", "finetune.schedule.warmup"),
    ("+finetune.schedule.foo=1", "finetune.schedule.foo"),
    ("finetune.augment=null", "finetune.augment"),
    ("finetune.augment.crop=-1", "finetune.augment.crop"),
    ("finetune.augment.flip=maybe", "finetune.augment.flip"),
    ("finetune.augment.erase=2", "finetune.augment.erase"),
    ("finetune.label_smoothing=1", "finetune.label_smoothing"),
    ("finetune.evaluations=0", "finetune.evaluations"),
    # pre-training
    ("pretrain=null", "pretrain"),
    ("pretrain=cifar", "cifar10"),
    ("pretrain.seed=-1", "pretrain.seed"),
    ("pretrain.seeds=3", "pretrain.seeds"),
    ("pretrain.seeds=[]", "pretrain.seeds"),
    ("pretrain.holdout=1", "pretrain.holdout"),
    ("pretrain.holdout=null", "pretrain.holdout"),
    ("pretrain.size=true", "pretrain.size"),
    ("pretrain.dtype=float8", "pretrain.dtype"),
    ("pretrain.download=null", "pretrain.download"),
    ("pretrain.verify=off", "pretrain.verify"),
    ("pretrain.checkpoint=/no/such/file", "pretrain.checkpoint=/no/such/file"),
    ("pretrain.recipe.epochs=0", "pretrain.recipe.epochs"),
    ("pretrain.recipe.schedule.name=one", "pretrain.recipe.schedule.name"),
    ("~pretrain.dtype", "pretrain.dtype"),
    ("+pretrain.foo=1", "pretrain.foo"),
    # protocol
    ("protocol=null", "protocol"),
    ("protocol.holdout=abc", "protocol.holdout"),
    ("protocol.holdout=null", "protocol.holdout"),
    ("protocol.holdout=0", "protocol.holdout"),
    ("protocol.holdout=1.5", "protocol.holdout"),
    ("protocol.holdout=nan", "protocol.holdout"),
    ("protocol=paper protocol.sizes=10", "protocol.sizes"),
    ("protocol=paper protocol.sizes=[10,10]", "protocol.sizes"),
    ("protocol=paper protocol.sizes={A: 1.5,B: 10}", "protocol.sizes"),
    ("protocol=paper protocol.sizes={A:0}", "protocol.sizes"),
    # how it is computed
    ("trainer=null", "trainer"),
    ("trainer.accelerator=foo", "trainer.accelerator"),
    ("trainer.accelerator=null", "trainer.accelerator"),
    ("trainer.precision=16-true", "trainer.precision"),
    ("trainer.precision=64-true", "trainer.precision"),
    ("trainer.precision=bf17", "trainer.precision"),
    ("trainer.precision=32", "trainer.precision"),
    ("trainer.accelerator=cpu trainer.precision=16-mixed", "trainer.precision"),
    ("trainer.save_every_s=abc", "trainer.save_every_s"),
    ("trainer.save_every_s=nan", "trainer.save_every_s"),
    ("trainer.save_every_s=-1", "trainer.save_every_s"),
    ("trainer.save_every_s=null", "trainer.save_every_s"),
    ("trainer.resident_gb=nan", "trainer.resident_gb"),
    ("trainer.resident_gb=inf", "trainer.resident_gb"),
    ("trainer.resident_gb=abc", "trainer.resident_gb"),
    ("trainer.channels_last=maybe", "trainer.channels_last"),
    ("trainer.channels_last=null", "trainer.channels_last"),
    ("trainer.channels_last=1", "trainer.channels_last"),
    ("trainer.fused=maybe", "trainer.fused"),
    ("trainer.deterministic=maybe", "trainer.deterministic"),
    ("trainer.compile=3", "trainer.compile"),
    ("+trainer.foo=1", "trainer.foo"),
    ("launcher=null", "launcher"),
    ("launcher=slum", "launcher"),
    ("launcher.workers=true", "launcher.workers"),
    ("launcher.workers=0", "launcher.workers"),
    ("launcher.workers=many", "launcher.workers"),
    ("launcher.threads=true", "launcher.threads"),
    ("launcher.threads=10000", "launcher.threads"),
    ("launcher.threads=1.5", "launcher.threads"),
    ("launcher.deadline_s=true", "launcher.deadline_s"),
    ("launcher.deadline_s=soon", "launcher.deadline_s"),
    ("launcher.deadline_s=nan", "launcher.deadline_s"),
    ("launcher.deadline_s=-1", "launcher.deadline_s"),
    ("logger=wand", "logger"),
    ("logger.csv=null", "logger.csv"),
    # new entries of mappings
    ("launcher.gpus=0", "launcher.gpus=0: must be auto or a list"),
    ("launcher.gpus=[true]", "launcher.gpus"),
    ("launcher.units_per_gpu=true", "launcher.units_per_gpu"),
    ("launcher=slurm launcher.setup=module", "launcher.setup=module: must be a list of shell commands"),
    ("launcher=slurm launcher.mem_gb=abc", "launcher.mem_gb=abc: must be null or a number above 0"),
    ("launcher=slurm launcher.mem_gb=0", "launcher.mem_gb"),
    ("launcher=slurm launcher.signal_s=2.5", "launcher.signal_s"),
    ("launcher=slurm launcher.cpus_per_worker=0", "launcher.cpus_per_worker"),
    ("launcher=slurm launcher.gpus_per_worker=-1", "launcher.gpus_per_worker"),
    ("launcher=slurm launcher.sbatch=5", "launcher.sbatch"),
    ("launcher=ray launcher.cpus_per_unit=0", "launcher.cpus_per_unit"),
    ("launcher=ray launcher.gpus_per_unit=-1", "launcher.gpus_per_unit"),
    ("launcher=ray launcher.retries=abc", "launcher.retries"),
    ("launcher=slurm launcher.sbatch={nice:100}", "no option 'launcher.sbatch.nice'. To add an entry, write +"),
    ("launcher=slurm launcher.sbatch.nice=100", "To add an entry, write +launcher.sbatch.nice=…"),
    ("launcher=ray launcher.runtime_env={pip:[a]}", "To add an entry, write +launcher.runtime_env.pip=…"),
    ("pretrain.rates={wa:0.05}", "there is no option 'pretrain.rates.wa'. To add an entry, write +pretrain.rates.wa=…"),
    ("+pretrain.rates.wq=0.05", "pretrain.rates.wq: there is no norm 'wq'. Did you mean 'wn' or 'wa'?"),
    (
        "pretrain=cifar100_short norms=[bn,brn,wa] pretrain.recipe.optimizer.lr=0.3",
        "pretrain.recipe.optimizer.lr: without effect on bn, wa",
    ),
    ("pretrain.checkpoint=/ pretrain.seeds=[0,1]", "pretrain.seeds=[0,1]: pretrain.checkpoint gives one network"),
    ("methods=[tent] method.tent.recipe.optimizer.lr=0.1", "method.tent.recipe.optimizer has no effect: a stream is"),
    ("methods=[sar] method.sar.recipe.epochs=3", "method.sar.recipe.epochs has no effect"),
    ("methods=[sar,tent] method.recipe.epochs=3", "method: there is no option 'recipe.epochs'"),
    (
        "methods=[shot] method.shot.recipe.epoch_steps=9",
        "method.shot.recipe.epoch_steps has no effect: an epoch is one",
    ),
    ("+pretrain.epochs.nb=4", "pretrain.epochs.nb: there is no norm 'nb'."),
    ("+pretrain.epochs.bn=0", "pretrain.epochs={bn:0}"),
    ("+pretrain.epochs.bn=4.5", "pretrain.epochs={bn:4.5}"),
    ("finetune={lr:1}", "there is no option 'finetune.lr'. Did you mean 'finetune.optimizer.lr'?"),
    ("models=[resnet50] experiment=imagenet", "models=[resnet50]: resnet50 has no weights, and the experiment starts"),
    # the report
    ("report=null", "report"),
    ("report.images=no", "report.images"),
    ("report.images=null", "report.images"),
    ("report.compare=null", "report.compare"),
    ("report.compare=[null]", "report.compare"),
    ("report.compare=[nope]", "report.compare"),
    ("report.compare=nope", "report.compare"),
    ("report.spread=range", "report.spread"),
    ("report.spread=null", "report.spread"),
    # images
    ("normalize=null", "normalize"),
    ("normalize.mean=[127,127,127]", "divide values of 0…255 by 255"),
    ("normalize.mean=[0.5,0.5]", "normalize.mean"),
    ("normalize.mean=0.5", "normalize.mean"),
    ("normalize.mean=null", "normalize.mean"),
    ("normalize.mean=[a,b,c]", "normalize.mean"),
    ("normalize.std=[0.2,0.2]", "normalize.std"),
    ("normalize.std=[0.2,0.2,0.2,0.2]", "normalize.std"),
    ("normalize.std=[0.2,0.2,0]", "normalize.std"),
    ("normalize.std=[58,57,57]", "normalize.std"),
    ("normalize.std=[nan,1,1]", "normalize.std"),
    ("normalise.mean=[127,127,127]", "normalize.mean"),
    # the command line itself
    ("experiment=[quick,demo]", "experiment=[quick,demo]"),
    ("experiment=quik", "Did you mean 'quick'"),
    ("experiment=quick,demo", "experiment=quick,demo"),
    ("norm=bn", "Did you mean 'norms'"),
    ("sede=[1]", "Did you mean 'seeds'"),
    ("+foo=1", "foo"),
    ("foo", "foo"),
    ("=1", "=1"),
    ("sources=[Köln]", "text with special letters needs two pairs of quotes, \"sources=['…']\""),
    ("out=a(b,c", "text with special letters needs two pairs of quotes, \"out='…'\""),
    ("out=a,b", "out=a,b cannot be read. A list is out=[a,b]"),
    ("out=a(b)", "out=a(b) cannot be read"),
    ("seeds=range(3)", "seeds=range(3) cannot be read. A list is seeds=[a,b]"),
    ("norms=[bn", "norms=[bn cannot be read"),
    ("methods=[mcc] method.weight=1,2", "method.weight=1,2 cannot be read. A list is method.weight=[a,b]"),
    ("methods=[mcc] method.weight=[1", "method.weight=[1 cannot be read"),
    ("methods=[mcc] method.weight", "'method.weight' cannot be read; write option=value."),
]


def words(case: str) -> list[str]:
    """As a shell would split it."""
    return case.split(" ")


@pytest.mark.parametrize(("case", "named"), CASES, ids=[case[:60] for case, _ in CASES])
def test_a_wrong_option_is_named_before_any_image_is_read(case, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["model=resnet20"] if not case.startswith(("model=", "models=")) else []
    data = ["data=folders", "data.root=/there/is/no/such/folder"] if not case.startswith("data=") else []
    assert main([*data, *base, *words(case)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert named in said
    assert "/there/is/no" not in said.replace(" ".join(data), "")
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_no_wrong_option_needs_torch(tmp_path):
    code = (
        "import json, sys\n"
        "from da_wa.config.compose import compose\n"
        "from da_wa.errors import ConfigError\n"
        "for words in json.load(sys.stdin):\n"
        "    try:\n"
        "        compose(words)\n"
        "    except ConfigError:\n"
        "        continue\n"
        "    sys.exit(f'accepted: {words}')\n"
        "sys.exit(', '.join({'torch', 'pytorch_lightning', 'pandas', 'matplotlib'} & set(sys.modules)) or None)\n"
    )
    first = [["data=folders", "data.root=x", "model=resnet20", *words(case)] for case, _ in CASES[::3]]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(first), capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        compose(["finetune.epochs=0", "seeds=3", "trainer.fused=maybe"])
    lines = str(error.value).splitlines()
    assert [line.split("=")[0] for line in lines] == ["finetune.epochs", "trainer.fused", "seeds"]


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError) as error:
        compose([f"out={'x' * 5000}"])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("quote", ["", "'"])
def test_a_tilde_is_the_home_folder(quote, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "other").mkdir()
    keys = ("out", "cache_dir", "checkpoint_dir", "data.root")
    cfg = compose(["data=folders", *(f"{key}={quote}~/{key}{quote}" for key in keys), "report.compare=['~/other']"]).cfg
    assert [cfg[key] for key in keys[:3]] == [str(tmp_path / key) for key in keys[:3]]
    assert cfg["data"]["root"] == "~/data.root"  # expanded where it is read


def test_names_with_letters_like_ö_are_read_as_the_message_says():
    assert compose(["sources=['Köln',A]"]).cfg["sources"] == ["Köln", "A"]


@pytest.mark.parametrize(
    "words",
    [
        ["logger=null"],
        ["logger=[csv,tensorboard]"],
        ["experiment=null"],
        ["sources=[]"],
        ["trainer.save_every_s=0"],
        ["launcher.deadline_s=0", "launcher.threads=1024", "launcher.workers=auto"],
        ["normalize.mean=[0,0,0]", "normalize.std=[1,1,1]"],
        ["finetune.optimizer.lr=1e20"],
        ["trainer.compile=cudagraphs", "trainer.channels_last=false", "trainer.accelerator=cpu"],
        ["keep=[]", "keep_epochs=[0,30]"],
        ["keep=[weights,logits]", "report.spread=sem", "methods=[none]"],
        ["protocol=paper", "protocol.sizes={A:415,D:73,W:130}"],
        ["launcher=slurm", "+launcher.sbatch.nice=100", "launcher.setup=[module load cuda]", "launcher.mem_gb=12.5"],
        ["launcher=slurm", "launcher.gpus_per_worker=0", "launcher.time=02:00:00", "launcher.partition=gpu"],
        ["launcher=ray", "launcher.gpus_per_unit=0.25", "launcher.retries=0"],
        ["launcher.gpus=[0,1]", "launcher.units_per_gpu=3"],
        ["launcher=ray", "+launcher.runtime_env.pip=[a]"],
        ["+pretrain.rates.wa=0.05", "+pretrain.epochs.wa=4"],
        ["methods=[shot,tent]", "method.recipe.epochs=3"],
        ["pretrain=cifar100_short", "pretrain.recipe.optimizer.lr=0.3", "~pretrain.rates"],
        ["pretrain=cifar100_short", "pretrain.recipe.optimizer.lr=0.3", "++pretrain.rates.bn=0.2"],
        ["experiment=classify_imagenet", "data.root=x", "data.folders.val=test"],
        ["pretrain.seeds=[0,1]", "pretrain.holdout=0.1"],
        ["finetune.optimizer.name=adamw", "~finetune.optimizer.momentum"],
        ["finetune.schedule.name=one_cycle", "+finetune.schedule.warmup=0.1"],
        ["data.root=/données/office 31"],
    ],
    ids=" ".join,
)
def test_unusual_but_valid_options_are_accepted(words):
    experiment = compose(["norms=[bn]", *words])
    assert set(experiment.norms) == {"bn"}
