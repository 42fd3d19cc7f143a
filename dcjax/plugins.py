"""Parts of a user's own, named as "package.module:function"."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from dcjax.errors import InputError


def is_own(name: str) -> bool:
    """Returns whether a name is that of a part of the user's own."""
    return ":" in name


def load(name: str, returns: Any) -> Callable[..., Any]:
    """Returns the function called "package.module:function".

    Args:
      name: where it is; the package must be importable, as one beside launch.py is.
      returns: class that the function's result must be of.

    Raises:
      InputError: if there is no such module or function, or, when it is called, if what it returns
        is not of that class.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise InputError(f"Require package.module:function, got {name!r}.")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        # What goes wrong within the user's module is theirs to see, with its place.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"Require package.module:function that can be imported, got {name!r}: {error}."
        ) from error
    if not callable(function):
        raise InputError(f"Require a function {attribute!r} in {module}, for {name!r}; got none.")

    def call(**options: Any) -> Any:
        try:
            inspect.signature(function).bind(**options)
        except TypeError as error:
            raise InputError(
                f"{name} gets the options {', '.join(options) or '(none)'}: {error}."
            ) from error
        part = function(**options)
        if not isinstance(part, returns):
            raise InputError(
                f"{name} must return a {returns.__name__}, got a {type(part).__name__}."
            )
        return part

    return call
