"""Check that the packages of the chosen loggers are installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from da_wa.config.choices import LOGGER_PACKAGES
from da_wa.errors import ConfigError, install


def check_loggers(loggers: Mapping[str, Any]) -> None:
    """Check for the packages of the loggers without importing them.

    Args:
        loggers: the ``logger`` node of an experiment, by name; the user's own loggers are not checked.

    >>> check_loggers({"csv": {}})

    Raises:
        ConfigError: a package is not installed; the text has the command that installs it.
    """
    for name in loggers:
        packages = LOGGER_PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise ConfigError(f"logger={name} needs {packages[0]}; {install(name)}")
