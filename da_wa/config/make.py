"""Configuration node → object. The only caller of Hydra's ``instantiate``."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from da_wa.errors import ConfigError, UserError


def make(node: Any, **made: Any) -> Any:
    """Instantiate a configuration node: call its ``_target_`` with the other keys.

    Args:
        node: the configuration.
        made: further arguments, objects that are already made.

    >>> make({"_target_": "collections.Counter", "a": 2})
    Counter({'a': 2})

    Raises:
        UserError: as raised by the target, or a ConfigError that names the target and the reason.
    """
    try:
        return instantiate(node, _convert_="all", **made)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise ConfigError(f"{str(error).splitlines()[0].rstrip(':')}{f': {cause}' if cause else ''}") from error
