"""Parts of a user's own, named as "package.module:function"."""

import importlib
from collections.abc import Callable
from typing import Any


def is_own(name: str) -> bool:
    """Returns whether a name is that of a part of the user's own."""
    return ":" in name


def load(name: str, returns: Any) -> Callable[..., Any]:
    """Returns the function called "package.module:function".

    Args:
      name: where it is; the package must be importable, as one in the current folder is.
      returns: class that the function's result must be of.

    Raises:
      ValueError: if there is no such module or function, or, when it is called, if what it returns
        is not of that class.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Require package.module:function that can be imported, got {name!r}: {error}."
        ) from error

    def call(**options: Any) -> Any:
        try:
            part = function(**options)
        except TypeError as error:
            raise ValueError(f"{name} was called with {', '.join(options)}: {error}.") from error
        if not isinstance(part, returns):
            raise ValueError(
                f"{name} must return a {returns.__name__}, got a {type(part).__name__}."
            )
        return part

    return call
