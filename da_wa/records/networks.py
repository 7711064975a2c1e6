"""Rename pre-trained networks of schema 1, whose names were hashes of class paths and labels.

Only the header of a file changes; its weights are copied unchanged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from da_wa.errors import DataError
from da_wa.records import identity, migrate
from da_wa.records.files import write_bytes

_NAME = re.compile(r"(?P<model>[^-]+)-(?P<pretraining>.+)-(?P<norm>[^-]+)-[0-9a-f]{8}")


def rename_networks(folder: Path) -> dict[Path, Path]:
    """Give every network of schema 1 in ``folder`` its present name; others are left alone.

    Returns:
        The old path of every renamed file and its new one.

    Raises:
        DataError: a file cannot be read or written.
    """
    return {path: new for path in sorted(folder.glob("*.safetensors")) if (new := _renamed(path))}


def _renamed(path: Path) -> Path | None:
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header: dict[str, Any] = json.loads(content[8 : 8 + length])
        metadata = header["__metadata__"]
        old, result = json.loads(metadata["recipe"]), json.loads(metadata["result"])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError):  # not a network of schema 1
        return None
    named = _NAME.fullmatch(path.stem)
    if named is None:
        raise DataError(f"{path}: the name does not say the norm; call it MODEL-DATASET-NORM-00000000.safetensors.")
    facts = migrate.network(old, named["norm"])
    new = path.with_name(f"{identity.network_name(named['pretraining'], facts)}.safetensors")
    header["__metadata__"] = {
        "facts": json.dumps(facts, sort_keys=True),
        "result": json.dumps(migrate.network_result(result)),
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows to eight bytes
    write_bytes(new, len(text).to_bytes(8, "little") + text + content[8 + length :])
    path.unlink()
    return new
