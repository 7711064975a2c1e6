"""Copy finished units without large arrays, to commit or share results."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from da_wa.errors import ConfigError, DataError
from da_wa.records.design import FILE, folders_of
from da_wa.records.files import read_bytes, write_bytes
from da_wa.records.outputs import published
from da_wa.records.store import RunDir, Store


def export(out: Path, to: Path) -> list[RunDir]:
    """Copy every finished unit of ``out`` to ``to``: record, plan, predicted classes and confidences.

    Of a study, the units of all its folders and ``study.json``.

    Of absolute paths in commands and plans the last part is kept: they say where things lay on one machine. Units keep
    their ids. Units of schema 1 are written as schema 2. Units that are not finished are skipped. Running it again adds
    what has been finished since and writes the rest as before. A unit of Office-31 with three evaluations takes 27 kB
    (median of the 174 in ``results/``).

    Args:
        out: the folder of the experiment or study.
        to: a folder outside ``out``; it is made where it is missing.

    Returns:
        The copies, ordered by id.

    Raises:
        ConfigError: ``to`` lies in ``out``, is a file or has the runs of another experiment; ``out`` has no finished
            unit.
        DataError: a unit cannot be trusted, or a file cannot be written.
    """
    source, target = Path(out).resolve(), Path(to).resolve()
    if target.is_relative_to(source):
        raise ConfigError(f"to={to} lies in out={out}. Choose a folder outside of it.")
    if target.is_file():
        raise ConfigError(f"to={to} is a file. Choose a folder; it is made where it is missing.")
    folders = folders_of(source)
    stores = [(Store(folder), Store(target / folder.relative_to(source))) for folder in folders]
    for old, new in stores:
        _refuse_other(old, new, to)
    copies = [copy for old, new in stores for run in old.runs() if (copy := _export_unit(run, new.run(run.id)))]
    if not copies:
        raise ConfigError(f"{out} has no finished runs to export. Check out=DIR.")
    if (study := read_bytes(source / FILE)) is not None:
        _write(study, target / FILE)
    return copies


def _refuse_other(source: Store, target: Store, to: Path) -> None:
    """Raise where the target has runs, all of other experiments: no report could be made of both."""
    old = _experiments(target)
    if old and (new := _experiments(source)) and old.isdisjoint(new):
        raise ConfigError(
            f"to={to} has runs of another experiment, with other images or settings. Choose an empty folder."
        )


def _experiments(store: Store) -> set[str]:
    """What the readable records belong to."""
    found = set()
    for run in store.runs():
        with suppress(DataError):  # of the source: reported when it is copied; of the target: replaced
            found |= {record.experiment for record in [run.record()] if record is not None}
    return found


def _export_unit(run: RunDir, copy: RunDir) -> RunDir | None:
    found = run.load()
    if found is None:
        return None
    record, outputs = found
    plan = read_bytes(run.path / "config.yaml")
    if plan is not None:
        _write(without_folders(plan.decode()).encode(), copy.path / "config.yaml")
    if "command" in record.provenance:
        known = record.provenance | {"command": without_folders(record.provenance["command"])}
        record = record.model_copy(update={"provenance": known})
    copy.finish(record, published(outputs))
    return copy


def _write(content: bytes, target: Path) -> None:
    if content != read_bytes(target):
        write_bytes(target, content)


_FOLDERS = re.compile(r"(?<![\w.~/-])/(?:[^\s'\",:/\]}]+/)+")


def without_folders(text: str) -> str:
    """Text with the last part of every absolute path.

    >>> without_folders("run_office31.py data.root=/data/me/office31 out=out/a 'cache_dir=/tmp/cache' http://a/b")
    "run_office31.py data.root=office31 out=out/a 'cache_dir=cache' http://a/b"
    """
    return _FOLDERS.sub("", text)
