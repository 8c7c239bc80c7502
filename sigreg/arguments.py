"""Checks of numbers that a caller gives; the message names the argument and what is expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def assert_int(at_least: float = -math.inf, **arguments: Any) -> None:
    """Check integers, those of NumPy included.

    Raises:
        TypeError: one is no int (True and False are none).
        ValueError: one is smaller than `at_least`.

    Example:
        >>> assert_int(1, num_slices=256, patience=0)
        Traceback (most recent call last):
        ValueError: patience=0 must be at least 1
    """
    _assert(Integral, "an int", at_least, arguments)


def assert_number(at_least: float = -math.inf, **arguments: Any) -> None:
    """Check numbers, whole or not.

    Raises:
        TypeError: one is no number (True and False are none).
        ValueError: one is smaller than `at_least`, or NaN.

    Example:
        >>> assert_number(0, collapse="0.1")
        Traceback (most recent call last):
        TypeError: collapse='0.1' must be a number
    """
    _assert(Real, "a number", at_least, arguments)


def _assert(kind: type, expected: str, at_least: float, arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be {expected}")
        if not value >= at_least:  # type: ignore[operator]
            bound = f"at least {at_least}" if value == value else expected
            raise ValueError(f"{name}={value} must be {bound}")
