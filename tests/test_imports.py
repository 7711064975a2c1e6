"""The house rules of who may know whom, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import da_wa

PACKAGE = Path(da_wa.__file__).parent
LEAVES = {"errors", "config"}
KNOWS = {
    "config": {"config"},
    "data": {"data"},
    "norm": {"norm"},
    "models": {"models", "norm"},
    "train": {"train", "data", "models"},
    "runs": {"runs", "train", "data", "models"},
    "report": {"report", "runs.ledger"},
}


def imported(path: Path) -> set[str]:
    """Names of this package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("da_wa.") for name in found if name.startswith("da_wa")} | (
        {"run_office31"} if any(name.startswith("run_office31") for name in found) else set()
    )


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_only_its_neighbours(room):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            allowed = any(name == other or name.startswith(f"{other}.") for other in KNOWS[room] | LEAVES)
            assert allowed, f"{file.relative_to(PACKAGE)} imports da_wa.{name}"


def test_every_room_is_under_the_rule():
    rooms = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(KNOWS)


def test_nothing_imports_the_command():
    for file in PACKAGE.rglob("*.py"):
        assert "run_office31" not in imported(file)


@pytest.mark.parametrize("module", ["da_wa.report", "da_wa.runs.ledger", "da_wa.cli"])
def test_torch_is_not_imported_by(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_is_thin():
    assert len((PACKAGE.parent / "run_office31.py").read_text().splitlines()) < 60
