"""The command line: ``da-wa``, and ``run_office31.py``, which is ``da-wa run``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml
from rich.console import Console

from da_wa.config.compose import Experiment, compose, rejoin
from da_wa.config.tree import add_code, available
from da_wa.config.tree import folders as config_folders
from da_wa.errors import ConfigError, UserError, nearest
from da_wa.launchers.launch import launch, prepare
from da_wa.launchers.progress import phase
from da_wa.launchers.watch import Watch, watch
from da_wa.records.export import export
from da_wa.records.networks import rename_networks
from da_wa.select.catalogue import chosen, load
from da_wa.studies.run import composed, is_study, run_study

USAGE = """\
da-wa [run] [option=value …]     run an experiment or a study, write its report
       da-wa report out=DIR             write the report again (compare=[DIR,…], select=[entropy,im])
       da-wa status out=DIR             count done, running, waiting and failed runs; time left
       da-wa watch out=DIR              the same, live, also from another machine
       da-wa claims out=DIR to=DIR      what of the paper holds, from the studies in DIR
       da-wa export out=DIR to=DIR      copy records, small enough to publish
       da-wa list GROUP                 list names: norms, models, methods, scores, data, experiments, studies, …
       da-wa migrate DIR                rename pre-trained networks of an earlier version
       da-wa conform                    compare adaptation losses with their float64 references
       run_office31.py [option=value …] is da-wa run [option=value …]

  experiment=demo | quick | imagenet | probe | features | classify      da-wa list experiments
  study=NAME  scope=full | small | smoke  stage=NAME  minutes=9         da-wa list studies
  data=office31 | folders | lists | digits      data.root=PATH  data.size=32  +data.extra.C=PATH
  model=NAME | models=[NAME,…]                  norms=[bn,bn_wa]  methods=[none,mcc]  sources=[A,W]  seeds=[0,1,2]
  pretrain=cifar100 | cifar10 | none            pretrain.root=PATH  pretrain.checkpoint=PATH
  finetune.epochs=30  protocol=full | paper     launcher=local | slurm | ray
  out=DIR  cache_dir=DIR  checkpoint_dir=DIR    keep=[weights,logits]  report.select=[entropy,im]

Rerun a command to resume it; finished runs are kept."""

NEXT = """\
Nothing was run. Choose one:
  da-wa experiment=demo                          three domains of digits, no download, minutes on two cores
  da-wa experiment=quick data.root=PATH          Office-31 at 32×32 with the shipped ResNet20, minutes on two cores
  da-wa run                                      the default experiment; downloads missing data"""


CONFORMS = 1e-10
"""Largest difference of a loss from its oracle that ``da-wa conform`` accepts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: success. 1: some results of the command are missing; they are listed. 2: an option or the data is wrong. 130:
    interrupted; rerun the command to resume.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("da_wa").setLevel(logging.INFO)
    console = Console(soft_wrap=True, markup=False, highlight=False)  # names of files may have brackets
    try:
        if not words:
            return _preview(console)
        if {"-h", "--help"} & set(words):
            return _run(["--help"], console)
        if words[0] in COMMANDS:
            return COMMANDS[words[0]](words[1:], console)
        return _run(words, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished runs are kept; rerun the command to resume.", file=sys.stderr)
        return 130


def _run(words: Sequence[str], console: Console) -> int:
    """``da-wa run``: an experiment or a study."""
    parser = argparse.ArgumentParser(
        usage=USAGE, epilog=_listing(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    explained = "--cfg prints all options, da-wa list GROUP explains names"
    parser.add_argument("overrides", nargs="*", metavar="option=value", help=explained)
    parser.add_argument("--config-dir", type=Path, help="a folder with your own options and code")
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    parser.add_argument("--version", action="version", version=f"da-wa {version('da-wa')}")
    arguments = parser.parse_intermixed_args(words)
    if arguments.overrides and not set(arguments.overrides[0]) & set("=~"):
        word = arguments.overrides[0]
        if word in NAMES:
            raise ConfigError(f"{word!r} must be the first word: da-wa {word} …, then the options.")
        raise ConfigError(f"{word!r} is neither a command nor option=value. {nearest(word, NAMES)}")
    if arguments.config_dir is not None:
        add_code(arguments.config_dir)
    if is_study(arguments.overrides) and arguments.cfg:
        found = composed(arguments.overrides, arguments.config_dir)
        print(yaml.safe_dump({folder: each.cfg for folder, each in found.items()}, sort_keys=False), end="")
        return 0
    if is_study(arguments.overrides):
        failed = run_study(arguments.overrides, console, arguments.config_dir)
        for job in failed:
            console.print(f"failed: {job}")
        return 1 if failed else 0
    experiment = compose(arguments.overrides, arguments.config_dir)
    if arguments.cfg:
        methods = {name: node for name, node in experiment.methods.items() if name != "none"}
        shown = {**experiment.cfg, "method": methods} if methods else experiment.cfg
        print(yaml.safe_dump(shown, sort_keys=False), end="")
        return 0
    return run(experiment, console)


def run(experiment: Experiment, console: Console) -> int:
    """Plan, run and report one experiment; returns the exit status.

    Raises:
        UserError: an option or the data is wrong.
    """
    planned = prepare(experiment, console)
    launch(planned, console)
    if planned.submitted:
        return 0
    failed = [job.id for job in planned.unfinished]
    if planned.inputs is not None:
        from da_wa.api import write_results  # imports pandas

        write_results(planned, console)
    else:
        there = len(planned.jobs) - len(failed)
        console.print(f"sources=[]: nothing is fine-tuned; {there} of {len(planned.jobs)} networks are pre-trained")
    return 1 if failed else 0


def _report(words: Sequence[str], console: Console) -> int:
    from da_wa.report import write_report  # imports pandas

    words, folders = _own_folder(rejoin(words))
    known = {
        "out": None, "compare": "[]", "spread": "interval", "select": "null", "guard": "true", "contrasts": "null"
    }  # fmt: skip
    given = _options(words, known)
    if given["guard"] not in ("true", "false"):
        raise ConfigError(f"guard={given['guard']}: must be true or false")
    with phase(console, "Writing the report") as progress:
        report = write_report(
            Path(given["out"]),
            compare=list(map(Path, _names(given["compare"]))),
            spread=given["spread"],  # type: ignore[arg-type]
            select=load(None if given["select"] == "null" else _names(given["select"]), folders),
            guard=given["guard"] == "true",
            contrasts=None if given["contrasts"] == "null" else _names(given["contrasts"]),
            progress=progress,
        )
    console.print(report.summary())
    console.print(f"The report is in {given['out']}")
    return 1 if report.missing else 0


def _status(words: Sequence[str], console: Console) -> int:
    for line in Watch(Path(_options(words, {"out": None})["out"])).lines():
        console.print(line)
    return 0


def _watch(words: Sequence[str], console: Console) -> int:
    watch(Path(_options(words, {"out": None})["out"]), console)
    return 0


def _export(words: Sequence[str], console: Console) -> int:
    given = _options(words, {"out": None, "to": None})
    export(Path(given["out"]), Path(given["to"]))
    console.print(f"Exported to {given['to']}")
    return 0


def _claims(words: Sequence[str], console: Console) -> int:
    from da_wa.report.claims_page import write_claims  # imports pandas
    from da_wa.report.tables import table_text

    given = _options(rejoin(words), {"out": None, "to": None})
    table = write_claims(list(map(Path, _names(given["out"]))), Path(given["to"]))
    console.print(table_text(table))
    console.print(f"The overview is in {given['to']}")
    return 0


def _list(words: Sequence[str], console: Console) -> int:
    words, more = _own_folder(words)
    if len(words) != 1 or words[0] not in (*GROUPS, "scores"):
        groups = f"da-wa list needs one of: {', '.join(GROUPS)}, scores."
        raise ConfigError(f"there is no group {words[0]!r}; {groups}" if len(words) == 1 else groups)
    where = more[0] if more else None
    for name, description in _scores(more) if words[0] == "scores" else available(GROUPS[words[0]], where):
        console.print(f"{name:<16} {description}")
    return 0


def _scores(where: Sequence[Path]) -> list[tuple[str, str]]:
    """Label-free scores and the first lines of their docstrings."""
    return [(name, (score.__doc__ or "").partition("\n")[0].strip()) for name, score in load(None, where).items()]


def _migrate(words: Sequence[str], console: Console) -> int:
    if not words:
        raise ConfigError("da-wa migrate needs the folder with the pre-trained networks; write da-wa migrate DIR.")
    for folder in map(Path, words):
        if not folder.is_dir():
            raise ConfigError(f"There is no folder {folder}. Give the one with the pre-trained networks.")
        renamed = rename_networks(folder)
        for old, new in renamed.items():
            console.print(f"{old} -> {new.name}")
        if not renamed:
            console.print(f"{folder}: no network of an earlier version")
    return 0


def _conform(words: Sequence[str], console: Console) -> int:
    from da_wa.adapt.conformance import rows  # imports torch

    if words:
        raise ConfigError(f"conform has no options; leave out {words[0]!r}.")
    found = rows()
    for row in found:
        console.print(f"{row.difference:9.1e}  {row.name:<28} {row.oracle}")
    return 0 if all(row.difference < CONFORMS for row in found) else 1


def _preview(console: Console) -> int:
    """Describe the default experiment and its cost; run nothing."""
    from da_wa.launchers.estimate import estimate  # imports torch

    console.print(estimate(compose([])))
    console.print(NEXT)
    return 0


def _version(words: Sequence[str], console: Console) -> int:
    print(f"da-wa {version('da-wa')}")
    return 0


def _own_folder(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The words without ``--config-dir DIR``, and the folder; Python then imports from it, too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", type=Path)
    given, rest = parser.parse_known_args(words)
    if given.config_dir is None:
        return rest, []
    add_code(given.config_dir)
    return rest, config_folders(given.config_dir)[1:]


def _names(text: str) -> list[str]:
    """``[a,b]`` as a list; ``~`` is the home folder."""
    return [os.path.expanduser(name.strip()) for name in text.strip("[]").split(",") if name.strip()]


def _options(words: Sequence[str], known: dict[str, str | None]) -> dict[str, str]:
    """``key=value`` words of a subcommand; a first word without ``=`` is ``out``, and ``~`` the home folder."""
    found = dict(known)
    for position, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals and position == 0:
            key, value = "out", word
        elif not equals:
            raise ConfigError(f"{word!r}: write option=value. Known: {', '.join(known)}.")
        if key not in known:
            raise ConfigError(f"there is no option {key!r} of this command. {nearest(key, known)}")
        found[key] = os.path.expanduser(value)
    if missing := [key for key, value in found.items() if not value]:
        raise ConfigError(f"{missing[0]} is not set; write {missing[0]}=DIR.")
    return {key: value for key, value in found.items() if value}


def _listing() -> str:
    """All available names, for ``--help``."""
    lines = [f"{title}: {', '.join(name for name, _ in available(group))}" for title, group in GROUPS.items()]
    return "\n".join([*lines, f"scores: {', '.join(chosen())}"])


GROUPS = {
    "norms": "norm",
    "models": "model",
    "methods": "method",
    "data": "data",
    "pretrain": "pretrain",
    "experiments": "experiment",
    "loggers": "logger",
    "studies": "study",
}
"""Groups of ``da-wa list`` and their folders in ``conf/``."""

COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "run": _run,
    "report": _report,
    "status": _status,
    "watch": _watch,
    "claims": _claims,
    "export": _export,
    "list": _list,
    "migrate": _migrate,
    "conform": _conform,
    "--version": _version,
}

NAMES = [name for name in COMMANDS if not name.startswith("-")]
"""Commands as words."""
