"""The package imports on Windows: no module of ``data`` needs what only POSIX systems have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import da_wa.data

POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
FILES = sorted(Path(da_wa.data.__file__).parent.glob("*.py"))


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_posix_only_module_is_imported(path: Path) -> None:
    assert not imported(path) & POSIX_ONLY
