"""Convert values to types that JSON and YAML can store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, numbers that are not finite as None, tuples as lists; containers are copies.

    >>> plain({"a": (np.float32(0.5), float("nan"))})
    {'a': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
