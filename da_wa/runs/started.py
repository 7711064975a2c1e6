"""What the header of a checkpoint tells of the network that a unit starts from."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from da_wa.models.checkpoint import CheckpointError, read_header
from da_wa.records import identity
from da_wa.records.schema import Pretraining


def pretraining(start: Path | None) -> Pretraining | None:
    """The network pre-trained elsewhere that a unit, or the unit it starts from, began with.

    Raises:
        CheckpointError: the header lacks an entry, or has one of another type.
    """
    if start is None:
        return None
    header = read_header(start)
    if "pretraining" in header.result:  # the weights of another unit
        known = header.result["pretraining"]
        return None if known is None else Pretraining(**known)
    places = {"dataset": header.facts, "correct": header.result, "n": header.result, "epochs": header.result}
    if lacking := [entry for entry, place in places.items() if entry not in place]:
        raise CheckpointError(f"{start}: {', '.join(lacking)} is missing in its header. {_ADVICE}")
    told = {entry: place[entry] for entry, place in places.items()}
    try:
        return Pretraining(name=start.stem, recipe=identity.digest({**header.facts, "norm": None}), **told)
    except ValidationError as error:
        wrong = ", ".join(f"{found['loc'][0]}={found['input']!r}" for found in error.errors())
        raise CheckpointError(f"{start}: {wrong} in its header is not valid. {_ADVICE}") from error


_ADVICE = "Write it again with Header(facts, result), see “A checkpoint” in docs/extending.md."
