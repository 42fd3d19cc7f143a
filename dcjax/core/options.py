"""The options of a part: names and defaults, from the signature of the function that creates it.

A default is written once, in that signature: library users get it by leaving the option out, and
`configs/default.py` reads it from there.
"""

import ast
import functools
import inspect
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dcjax.core.errors import InputError, nearest

REQUIRED = inspect.Parameter.empty  # in place of a default

_PACKAGE = pathlib.Path(__file__).parents[1]


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


def read(place: str, *names: str) -> dict[str, Any]:
    """Returns options of a function of dcjax with their defaults, from the text of its module.

    The module is not imported. So a config is read, and a wrong flag found, without the seconds
    that JAX, Flax, Optax and SciPy take.

    Args:
      place: "package.module:function", within dcjax.
      names: the options wanted, whose defaults are literals or constants of the module; none: all.

    Raises:
      ValueError: if there is no such function or option, or its default is another expression.
    """
    module, _, function = place.partition(":")
    tree = _parse(module)
    signatures = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in signatures:
        raise ValueError(f"Require a function in dcjax.{module}, got {function!r}.")
    defaults = _defaults(signatures[function])
    if unknown := set(names) - defaults.keys():
        raise ValueError(f"Require options of {place}, {list(defaults)}, got {sorted(unknown)}.")
    return {
        name: REQUIRED if default is None else _value(default, tree)
        for name, default in defaults.items()
        if name in names or not names
    }


@functools.cache
def _parse(module: str) -> ast.Module:
    path = _PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_bytes(), str(path))


def _defaults(signature: ast.arguments) -> dict[str, ast.expr | None]:
    """Returns the default of each option in order, None for one that has none; as `of` does."""
    positional = [*signature.posonlyargs, *signature.args]
    optional = positional[len(positional) - len(signature.defaults) :]
    pairs = [
        *zip(optional, signature.defaults, strict=True),
        *zip(signature.kwonlyargs, signature.kw_defaults, strict=True),
    ]
    return {parameter.arg: default for parameter, default in pairs}


def _value(default: ast.expr, tree: ast.Module) -> Any:
    """Returns the value of a literal, or of a constant of the module that is a literal."""
    if isinstance(default, ast.Name):
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == default.id:
                return ast.literal_eval(node.value)
    return ast.literal_eval(default)


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
