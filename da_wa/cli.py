"""The command: compose the configuration, plan the jobs, launch them, write the report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from rich.console import Console

from da_wa.config.compose import compose
from da_wa.config.loggers import check_loggers
from da_wa.errors import UserError

USAGE = """\
%(prog)s [option=value …]

  experiment=demo | quick | …   a ready-made experiment
  data=office31 | folders | lists | digits      data.root=PATH  data.size=32  +data.extra.C=PATH
  model=resnet50 | resnet20 | …                 norms=[bn,bn_wa]  sources=all | [A,W]  seeds=[0,1,2]
  pretrain=cifar100 | cifar10 | none            pretrain.root=PATH  pretrain.checkpoint=PATH
  finetune.epochs=30  protocol=full | paper  launcher=local  out=DIR

The same command again finishes what is missing and rewrites the report."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    0: everything asked for is in the table. 1: some of it is missing, and named. 2: the command or the
    data is wrong. 130: interrupted; the same command goes on from there.
    """
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument(
        "overrides", nargs="*", metavar="option=value", help="Hydra overrides; see conf/ for all options"
    )
    parser.add_argument(
        "--config-dir", type=Path, help="a folder with further options, laid out like conf/, and with their code"
    )
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    arguments = parser.parse_intermixed_args(argv)
    console = Console(soft_wrap=True)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("da_wa").setLevel(logging.INFO)
    if arguments.config_dir is not None:
        sys.path.insert(0, str(arguments.config_dir.resolve()))  # workers get it, too
    try:
        experiment = compose(arguments.overrides, arguments.config_dir)
        cfg, norms = experiment.cfg, experiment.norms
        if arguments.cfg:
            print(yaml.safe_dump(cfg, sort_keys=False), end="")
            return 0
        check_loggers(cfg["logger"])
        return run(cfg, norms, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def run(cfg: dict[str, Any], norms: dict[str, Any], console: Console) -> int:
    """Plan, launch and report one experiment."""
    from da_wa.config.make import make
    from da_wa.runs.build import load_domains, preflight
    from da_wa.runs.ledger import Ledger
    from da_wa.runs.plan import plan
    from da_wa.runs.progress import decoding, shown

    users = Path(platformdirs.user_cache_dir("da_wa"))
    cfg["cache_dir"] = str(cfg["cache_dir"] or users / "pixels")
    checkpoint_dir = Path(cfg["checkpoint_dir"] or users / "checkpoints")
    out = Path(cfg["out"])

    with decoding(console) as progress:
        domains = load_domains(cfg["data"], Path(cfg["cache_dir"]), progress) if cfg["sources"] else []
    jobs = plan(cfg, norms, domains, Ledger(out), checkpoint_dir)
    if not all(job.done() for job in jobs):
        preflight(cfg, norms, domains, jobs)
        for job in jobs:
            job.register()
        with shown(jobs, console) as emit:
            make(cfg["launcher"])(jobs, emit)
    failed = [job.id for job in jobs if not job.done() or job.diverged()]
    if domains:
        from da_wa.report import write_report

        images = {domain.name: domain.pixels for domain in domains} if cfg["report"]["images"] else None
        report = write_report(out, images=images, compare=[Path(other) for other in cfg["report"]["compare"]])
        console.print(report.summary(), highlight=False, markup=False)
        console.print(f"The report is in {out}", highlight=False)
        failed += report.missing
    return 1 if failed else 0
