"""Who may know whom, read from the imports of all files."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import da_wa

PACKAGE = Path(da_wa.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LEAVES = {"errors", "locks", "shipped"}
KNOWS = {
    "config": {"records", "select"},
    "norm": set(),
    "data": set(),
    "models": {"norm"},
    "adapt": {"models", "norm"},
    "records": set(),
    "select": set(),
    "train": {"adapt", "config", "data", "models", "norm", "records"},
    "runs": {"train", "records", "config", "data", "models", "select"},
    "tasks": {"config", "data", "models", "norm", "records", "train"},
    "launchers": {"runs", "train", "records", "config", "data"},  # train: to estimate what jobs cost
    "report": {"records", "select"},
    "studies": {"tasks", "train", "launchers", "runs", "records", "config", "data", "models", "report"},
    "api": {"launchers", "runs", "records", "config", "data", "report", "select"},
    "__main__": {"cli"},
    "cli": {"api", "adapt", "studies", "launchers", "runs", "records", "config", "data", "report", "select"},
}
"""The rooms that each room knows beside itself and the leaves."""

HEAVY = {
    "torch",
    "torchvision",
    "pytorch_lightning",
    "matplotlib",
    "seaborn",
    "sklearn",
    "scipy",
    "pandas",
    "da_wa.report",
    "submitit",
    "ray",
}
"""What may be imported inside a function, directly or through a module of ours, so that a light path stays light."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def targets(node: ast.AST) -> list[str]:
    """The modules that an import statement names; of ``from a import b`` that is ``a.b`` where b is a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else str(node.module) for name in inside]
    return []


def for_types_only(tree: ast.AST) -> set[ast.AST]:
    """Everything under ``if TYPE_CHECKING``."""
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {inner for block in guarded for statement in block.body for inner in ast.walk(statement)}


@cache
def imports(module: str, late: bool | None = None) -> frozenset[str]:
    """Modules that ``module`` imports: inside functions (``late``), outside, or (None) both."""
    tree = ast.parse(MODULES[module].read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside = {inner for function in functions for inner in ast.walk(function)}
    typing = for_types_only(tree)
    nodes = [n for n in ast.walk(tree) if n not in typing]
    return frozenset(name for n in nodes if late is None or (n in inside) == late for name in targets(n))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def reaches(module: str) -> frozenset[str]:
    """Top-level packages that importing ``module`` imports, and rooms of this package as ``da_wa.room``."""
    found, queue = set(), [module]
    seen: set[str] = set()
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        found |= {current.split(".")[0], ".".join(current.split(".")[:2])}
        if current in MODULES:
            queue += imports(current, late=False)
    return frozenset(found)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_only_the_rooms_below_its_own(module):
    if room(module) in LEAVES | {""}:
        allowed: set[str] = set()
    else:
        allowed = KNOWS[room(module)] | {room(module)} | LEAVES
    known = {room(name) for name in imports(module) if name in MODULES and name != "da_wa"}
    assert known <= allowed, f"{module} knows {sorted(known - allowed)}"


def test_every_file_is_in_a_room_of_the_table():
    assert {room(module) for module in MODULES} <= {*KNOWS, *LEAVES, ""}


def test_there_is_no_circle_of_imports():
    """Of all files, imports inside functions included."""
    graph = {module: [name for name in imports(module) if name in MODULES] for module in MODULES}
    TopologicalSorter(graph).prepare()  # a CycleError names the circle


@pytest.mark.parametrize("module", [m for m in MODULES if imports(m, late=True)])
def test_imports_inside_functions_are_late_for_their_weight(module):
    for name in imports(module, late=True):
        assert reaches(name) & HEAVY, f"{module} imports {name} late"


LIGHT = [
    ("da_wa.norm", ["hydra", "omegaconf", "pytorch_lightning", "pandas", "matplotlib"]),
    ("da_wa.records.store", ["torch", "pandas", "matplotlib"]),
    ("da_wa.runs.jobs", ["torch"]),
    ("da_wa.runs.plan", ["torch"]),
    ("da_wa.runs.execute", ["timm", "sklearn", "pandas"]),
    ("da_wa.launchers.launch", ["torch"]),
    ("da_wa.launchers.local", ["torch"]),
    ("da_wa.report", ["torch"]),
    ("da_wa.cli", ["torch", "pandas", "sklearn", "matplotlib"]),
    ("da_wa.api", ["torch"]),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("module", "heavy"), [pair for pair in LIGHT if pair[0] in MODULES])
def test_it_imports_without(module, heavy):
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_command_is_thin_and_nothing_imports_it():
    assert len((PACKAGE.parent / "run_office31.py").read_text().splitlines()) < 60
    assert not [module for module in MODULES if "run_office31" in imports(module)]
