"""Write the files of a report, remove those of an earlier one, and check whether a report is current."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from da_wa.errors import printable
from da_wa.records.files import remove_abandoned, write_bytes
from da_wa.report.content import Section
from da_wa.report.facts import Facts

CONTENTS = "report.json"
"""Names the files that the report wrote and a digest of what they were made from."""


def inputs_digest(facts: Facts, spread: str, others: Sequence[Section], options: Sequence[str] = ()) -> str:
    """A hash of everything that a report depends on: records, options, and the code that writes it.

    Args:
        facts: of the runs; images are known by their digests in the records.
        spread: what stands after ±.
        others: sections about other folders.
        options: whatever else it depends on.
    """
    found = hashlib.sha256(_code_digest().encode())
    for record in facts.records:
        found.update(repr(record.model_dump()).encode(errors="backslashreplace"))
    shapes = sorted((domain, array.shape) for domain, array in (facts.images or {}).items())
    compared = [(section.summary, frame.to_csv()) for section in others for frame in section.data.values()]
    rest = [facts.missing, facts.unreadable, facts.domains, shapes, facts.images is None, spread, compared, *options]
    found.update(repr(rest).encode(errors="backslashreplace"))
    return found.hexdigest()


def is_current(out: Path, digest: str) -> bool:
    """Whether ``out`` holds all files of a report that was made from the same inputs."""
    contents = _contents(out)
    names = contents.get("files")
    return (
        contents.get("inputs") == digest
        and isinstance(names, list)
        and all(isinstance(name, str) and (out / name).is_file() for name in names)
    )


def write_files(out: Path, files: Mapping[str, bytes], digest: str) -> None:
    """Write a report, and remove tables and figures that an earlier one wrote.

    Args:
        out: the folder of the experiment.
        files: by their path in ``out``.
        digest: of what they were made from, see :func:`inputs_digest`.

    Raises:
        DataError: a file cannot be written.
    """
    former = _former(out)
    _write_contents(out, former | set(files), None)  # until all is written, the report is not current
    for name, content in files.items():
        write_bytes(out / name, content)
    for name in former - set(files):
        (out / name).unlink(missing_ok=True)
    _write_contents(out, set(files), digest)
    for folder in {(out / name).parent for name in files}:
        remove_abandoned(folder)


def _write_contents(out: Path, names: set[str], digest: str | None) -> None:
    contents = {"files": sorted(map(printable, names)), "inputs": digest}
    write_bytes(out / CONTENTS, json.dumps(contents, indent=1).encode())


def _contents(out: Path) -> dict[str, object]:
    try:
        found = json.loads((out / CONTENTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _former(out: Path) -> set[str]:
    """Tables and figures that an earlier report wrote; nothing outside their two folders."""
    names = _contents(out).get("files")
    listed = map(str, names) if isinstance(names, list) else []
    return {name for name in listed if re.fullmatch(r"(tables|figures)/[a-z_0-9]+\.[a-z]+", name)}


@cache
def _code_digest() -> str:
    """A hash of the sources that turn records into a report."""
    here = Path(__file__).parent
    sources = sorted([*here.rglob("*.py"), *(here.parent / "records").glob("*.py")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
