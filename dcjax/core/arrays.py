"""Checks of arrays that users pass."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dcjax.core.errors import InputError


def is_known(x: Any) -> bool:
    """Returns whether the values of x can be read here: they are neither traced nor remote."""
    return not isinstance(x, jax.Array) or (
        not isinstance(x, jax.core.Tracer) and x.is_fully_addressable
    )


def require_integers(
    what: str, values: Any, num: int | None = None, low: int = -(2**63), high: int = 2**63 - 1
) -> Any:
    """Returns integers, such as labels, as an array; raises InputError unless they are as required.

    Args:
      what: their name in the message.
      values: integers, not empty. Those that are traced are checked by shape and type alone.
      num: N, how many there must be; None: any number.
      low: the least that is allowed.
      high: the greatest.

    Returns:
      The values [N], of their type: JAX's arrays as they are, others in NumPy.
    """
    values = _as_array(what, values)
    given = f"got an array of {values.dtype} of shape {values.shape}"
    if values.ndim != 1 or not values.size or not jnp.issubdtype(values.dtype, jnp.integer):
        raise InputError(f"{what} must be integers of shape [N], not empty, {given}.")
    if num is not None and len(values) != num:
        raise InputError(f"{what} must be {num} integers, one for each row, {given}.")
    if is_known(values):
        host_values = np.asarray(values)  # JAX would trace min, while another function is traced
        least, greatest = int(host_values.min()), int(host_values.max())
        if least < low or greatest > high:
            raise InputError(f"{what} must lie in {low}..{high}, got {least}..{greatest}.")
    return values


def require_floats(what: str, values: Any, shape: Sequence[int | None]) -> Any:
    """Returns values as an array; raises InputError unless they are floats of this shape.

    Args:
      what: their name in the message.
      values: floating-point numbers, not empty, finite or not.
      shape: of each dimension the size, or None where any will do.

    Returns:
      The values, of their type: JAX's arrays as they are, others in NumPy.
    """
    values = _as_array(what, values)
    fits = values.ndim == len(shape) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(values.shape, shape, strict=True)
    )
    if not fits or not jnp.issubdtype(values.dtype, jnp.floating):
        wanted = ", ".join("N" if size is None else str(size) for size in shape)
        raise InputError(
            f"{what} must be floating-point numbers of shape [{wanted}], not empty, got "
            f"{values.dtype} of shape {values.shape}."
        )
    return values


def _as_array(what: str, values: Any) -> Any:
    if isinstance(values, jax.Array):
        return values
    try:
        array = np.asarray(values)
        return array.astype(array.dtype.newbyteorder("="), copy=False)  # JAX knows no other order
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise InputError(f"{what} must be an array, got {error}.") from None
