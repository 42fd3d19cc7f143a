"""Custom parts of a user, given as "package.module:function".

Importing a module runs it, so a name from a saved run of somebody else is imported only with the
user's consent. Only functions that are meant to be parts are called, not any function that a name
can reach: numpy:memmap would empty the file that its options name.
"""

import collections.abc
import functools
import importlib
import inspect
import pathlib
import sysconfig
import types
import typing
from collections.abc import Callable
from typing import Any

from dcjax.core.errors import InputError, SettingError

_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = pathlib.Path(sysconfig.get_path("stdlib")).resolve()


def is_custom(name: str) -> bool:
    """Returns whether a name is that of a custom part."""
    return ":" in name


def check_consent(name: str, workdir: str, *, trust_custom_code: bool) -> None:
    """Checks that a part which a saved run names may be imported.

    Raises:
      InputError: if it is a custom part and the caller has not consented.
    """
    if is_custom(name) and not trust_custom_code:
        raise InputError(
            f"The run in {workdir} needs code that is not of dcjax, {name!r}: importing it runs "
            "it. If you trust whoever made the run, and that code, give trust_custom_code=True to "
            "dcjax.load, or the flag --trust_custom_code, or a config of your own that names the "
            "same."
        )


def load(name: str, returns: Any) -> Callable[..., Any]:
    """Returns the function or class called "package.module:function".

    Args:
      name: where it is; the package must be importable, as one in the current folder is.
      returns: class that the function's result must be of, or that the class must derive from.

    Raises:
      SettingError: if there is no such module or function, or it is not made to be such a part; or,
        when it is called, if what it returns is not of that class.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise SettingError(f"Require package.module:function that can be imported, got {name!r}.")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        # Errors within the user's module keep their traceback.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise SettingError(
            f"Require package.module:function that can be imported, got {name!r}: {error}."
        ) from error
    if not callable(function):
        raise SettingError(f"Require a function {attribute!r} in {module}, for {name!r}; got none.")
    if not _is_part(function, returns):
        raise SettingError(
            f"{name} is not called: require a function in a file of your own, a function of an "
            f"installed package that is annotated to return a {returns.__name__}, or a class "
            f"derived from {returns.__name__}; got {_describe(function)}."
        )

    @functools.wraps(function, updated=())  # so that its arguments can be looked up
    def call(**options: Any) -> Any:
        try:
            inspect.signature(function).bind(**options)
        except TypeError as error:
            raise SettingError(
                f"{name} gets the options {', '.join(options) or '(none)'}: {error}."
            ) from error
        part = function(**options)
        if not isinstance(part, returns):
            raise SettingError(
                f"{name} must return a {returns.__name__}, got a {type(part).__name__}."
            )
        return part

    return call


def _is_part(function: Callable[..., Any], returns: Any) -> bool:
    """Returns whether a function is meant to return such a part, without calling it."""
    inner = inspect.unwrap(function)  # of a decorator, as functools.cache
    if isinstance(inner, type):
        # Any class whose instances can be called derives from Callable.
        is_known = returns is not collections.abc.Callable or _is_in_own_file(inner)
        return is_known and issubclass(inner, returns)
    if not isinstance(inner, types.FunctionType):  # one of C, as os.system, shows nothing
        return False
    return _is_in_own_file(inner) or _is_annotated(inner, returns)


def _is_in_own_file(function: type | types.FunctionType) -> bool:
    """Returns whether it is defined in a file outside Python's library and installed packages."""
    try:
        path = pathlib.Path(inspect.getfile(function)).resolve()
    except (TypeError, OSError):  # it is built in
        return False
    # Modules that are frozen into Python, as os, give a name that is no file.
    return path.is_file() and not (_INSTALLED & set(path.parts) or path.is_relative_to(_LIBRARY))


def _is_annotated(function: types.FunctionType, returns: Any) -> bool:
    try:
        hint = typing.get_type_hints(function).get("return")
    except Exception:  # whatever an annotation raises, as of names for a type checker only
        return False
    hint = typing.get_origin(hint) or hint  # of Callable[[Array], Pairs]: Callable
    return isinstance(hint, type) and issubclass(hint, returns)


def _describe(function: Callable[..., Any]) -> str:
    kind = "class" if isinstance(function, type) else type(function).__name__
    name = getattr(function, "__qualname__", repr(function)[:80])
    return f"the {kind} {getattr(function, '__module__', None)}.{name}"
