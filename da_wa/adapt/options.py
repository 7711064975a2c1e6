"""Checks of the options of methods: each returns the value, or says what is allowed."""

from __future__ import annotations

import math
from typing import Any

from da_wa.errors import ConfigError


def whole(name: str, value: Any) -> int:
    """A whole number, 1 or more.

    >>> whole("width", 16)
    16

    Raises:
        ConfigError: it is not.
    """
    checked: int = _checked(name, value, type(value) is int and value >= 1, "a whole number, 1 or more")
    return checked


def positive(name: str, value: Any) -> float:
    """A number above 0.

    Raises:
        ConfigError: it is not.
    """
    checked: float = _checked(name, value, _is_number(value) and value > 0, "a number above 0")
    return checked


def not_negative(name: str, value: Any) -> float:
    """A number, 0 or more.

    Raises:
        ConfigError: it is not.
    """
    checked: float = _checked(name, value, _is_number(value) and value >= 0, "a number, 0 or more")
    return checked


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        ConfigError: it is not.
    """
    checked: float = _checked(name, value, _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
    return checked


def below_1(name: str, value: Any) -> float:
    """A number, 0 or more and less than 1.

    Raises:
        ConfigError: it is not.
    """
    checked: float = _checked(name, value, _is_number(value) and 0 <= value < 1, "a number, 0 or more and less than 1")
    return checked


def flag(name: str, value: Any) -> bool:
    """True or false.

    >>> flag("entropy", "no")
    Traceback (most recent call last):
    da_wa.errors.ConfigError: entropy=no must be true or false

    Raises:
        ConfigError: it is neither.
    """
    checked: bool = _checked(name, value, isinstance(value, bool), "true or false")
    return checked


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked(name: str, value: Any, valid: bool, allowed: str) -> Any:
    if not valid:
        raise ConfigError(f"{name}={value} must be {allowed}")
    return value
