"""Checks of the options of methods: each returns the value, or says what is allowed."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from da_wa.errors import ConfigError

Value = TypeVar("Value")


def whole(name: str, value: int) -> int:
    """A whole number, 1 or more.

    >>> whole("width", 16)
    16

    Raises:
        ConfigError: it is not.
    """
    return _checked(name, value, type(value) is int and value >= 1, "a whole number, 1 or more")


def positive(name: str, value: float) -> float:
    """A number above 0.

    Raises:
        ConfigError: it is not.
    """
    return _checked(name, value, _is_number(value) and value > 0, "a number above 0")


def not_negative(name: str, value: float) -> float:
    """A number, 0 or more.

    Raises:
        ConfigError: it is not.
    """
    return _checked(name, value, _is_number(value) and value >= 0, "a number, 0 or more")


def fraction(name: str, value: float) -> float:
    """A number from 0 to 1.

    Raises:
        ConfigError: it is not.
    """
    return _checked(name, value, _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")


def below_1(name: str, value: float) -> float:
    """A number, 0 or more and less than 1.

    Raises:
        ConfigError: it is not.
    """
    return _checked(name, value, _is_number(value) and 0 <= value < 1, "a number, 0 or more and less than 1")


def flag(name: str, value: bool) -> bool:
    """True or false.

    >>> flag("entropy", "no")
    Traceback (most recent call last):
    da_wa.errors.ConfigError: entropy=no must be true or false

    Raises:
        ConfigError: it is neither.
    """
    return _checked(name, value, isinstance(value, bool), "true or false")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked(name: str, value: Value, valid: bool, allowed: str) -> Value:
    if not valid:
        raise ConfigError(f"{name}={value} must be {allowed}")
    return value
