"""The options of a part: names and defaults, from the signature of the function that creates it.

A default is written once, in that signature: library users get it by leaving the option out, and
`configs/default.py` reads it from there.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dcjax.core.errors import InputError, nearest

REQUIRED = inspect.Parameter.empty  # in place of a default


def of(part: Callable[..., Any]) -> dict[str, Any]:
    """Returns the options of a part, each with its default or `REQUIRED`.

    Args:
      part: a function or class. Its options are the parameters that have a default or can only be
        given by keyword.
    """
    return {
        name: parameter.default
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is not REQUIRED or parameter.kind is parameter.KEYWORD_ONLY
    }


def require(what: str, given: Collection[str], known: Mapping[str, Any]) -> None:
    """Raises InputError if an option is not known, or one without a default is missing.

    Args:
      what: the part in the message, such as "loss 'margin'".
      given: names of options.
      known: the options of the part, as `of` returns them.
    """
    for name in given:
        if name not in known:
            raise InputError(
                f"Unknown option {name!r} of {what}; known options are "
                f"{', '.join(known) or 'none'}{nearest(name, known)}."
            )
    missing = [name for name, default in known.items() if default is REQUIRED and name not in given]
    if missing:
        raise InputError(
            f"The {what} lacks the options {', '.join(missing)}, which have no default."
        )
