"""One thread: these networks are so small that threads would only wait for each other."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def everywhere(one_thread: None) -> None:
    """Every module of this folder has one thread."""
