"""Checks that options are in their ranges."""

import math
import operator
from collections.abc import Collection
from typing import Any, NamedTuple

from dcjax.core.errors import InputError

SMALLEST = 1e-6  # lower bound of values that must be positive


class Bounds(NamedTuple):
    """The least and the greatest value that is allowed."""

    low: float
    high: float = math.inf


POSITIVE = Bounds(SMALLEST)
COSINE = Bounds(-1, 1)
DISTANCE = Bounds(0, 2)  # of unit vectors


def require_known(option: str, value: str, known: Collection[str]) -> None:
    """Raises InputError unless an option's value is known."""
    if value not in known:
        raise InputError(f"Unknown {option} {value!r}; known are {', '.join(known)}.")


def require_range(option: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises InputError unless an option's value is a number from low to high."""
    try:
        is_inside = low <= value <= high and math.isfinite(value)
    except TypeError:  # as of None and "1"
        is_inside = False
    if not is_inside:
        end = "" if high == math.inf else f" and at most {high}"
        raise InputError(f"Require {option} of at least {low}{end}, got {value!r}.")


def require_whole(option: str, value: Any, low: int, high: float = math.inf) -> int:
    """Returns an option's value as an int; raises InputError unless it is whole, low to high."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # as of 1.5, "1" and NumPy's truth values
        number = None
    if number is None or not low <= number <= high:
        end = "" if high == math.inf else f" and at most {high}"
        raise InputError(f"Require {option}, a whole number of at least {low}{end}, got {value!r}.")
    return number
