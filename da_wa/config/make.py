"""Objects from configuration nodes."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from da_wa.errors import ConfigError, UserError


def make(node: Any) -> Any:
    """The object that a configuration node describes by its ``_target_``.

    Raises:
        UserError: as the object's constructor raised it, or a ConfigError that names what could not be made and why.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise ConfigError(f"{str(error).splitlines()[0]}{f': {cause}' if cause else ''}") from error
