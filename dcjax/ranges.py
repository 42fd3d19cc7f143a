"""Whether options are in their range."""

import math
from collections.abc import Collection, Sequence

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
