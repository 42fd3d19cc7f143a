"""Whether options are in their range."""

import math
import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from dcjax.errors import InputError

SMALLEST = 1e-6  # of what must not be 0


def require_known(option: str, value: str, known: Sequence[str]) -> None:
    """Raises InputError unless an option's value is known."""
    if value not in known:
        raise InputError(f"Unknown {option} {value!r}; known are {', '.join(known)}.")


def require_options(what: str, options: Collection[str], known: Collection[str]) -> None:
    """Raises InputError unless the names of options are just the known ones."""
    if set(options) != set(known):
        raise InputError(
            f"{what} takes exactly the options {', '.join(known) or '(none)'}; "
            f"unknown: {sorted(set(options) - set(known))}, "
            f"missing: {sorted(set(known) - set(options))}."
        )


def require_range(option: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises InputError unless an option's value is a number from low to high."""
    if not low <= value <= high or not math.isfinite(value):
        end = "" if high == math.inf else f" and at most {high}"
        raise InputError(f"Require {option} of at least {low}{end}, got {value}.")


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


def require_integers(
    what: str, values: Any, num: int | None = None, low: int = -(2**63), high: int = 2**63 - 1
) -> np.ndarray:
    """Returns labels or the like as an array; raises InputError unless they are as required.

    Args:
      what: their name in the message.
      values: integers, not empty.
      num: N, how many there must be; None: any number.
      low: the least that is allowed.
      high: the greatest.

    Returns:
      The values [N], of their type.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise InputError(f"{what} must be integers of shape [N], got {error}.") from None
    found = f"got {array.dtype} of shape {array.shape}"
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{what} must be integers of shape [N], not empty, {found}.")
    if num is not None and len(array) != num:
        raise InputError(f"{what} must be {num} integers, one per row, {found}.")
    least, greatest = int(array.min()), int(array.max())
    if least < low or greatest > high:
        raise InputError(f"{what} must lie in {low}..{high}, got {least}..{greatest}.")
    return array
