"""Prints the installed version of every direct dependency; fails if one is not at its declared minimum."""

import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version


def minimum(requirement: Requirement) -> Version | None:
    """Returns the version after `>=`, or None if the requirement has none."""
    bounds = [Version(specifier.version) for specifier in requirement.specifier if specifier.operator == ">="]
    return max(bounds, default=None)


def main() -> int:
    """Compares the environment with pyproject.toml and returns the exit status."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wrong = 0
    for requirement in map(Requirement, requirements):
        installed, declared = Version(version(requirement.name)), minimum(requirement)
        agrees = installed == declared
        wrong += not agrees
        print(f"{requirement.name:20} {installed!s:10}" + ("" if agrees else f" declared minimum: {declared}"))
    if wrong:
        print(f"{wrong} of {len(requirements)} are not at their declared minimum in pyproject.toml", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
