"""Bounds of the rounding errors of squared distances in float32.

Squared distances are computed as |g|^2 - 2 <q, g>, in one matrix product. Its terms cancel where
the embeddings are far from the origin or close to each other, and underflow or overflow where they
are tiny or huge. So embeddings are shifted and scaled first,

  x' = s x - s o    with a power of two s, and an origin o amid the gallery,

so that |x'| is about as large as the distances that matter. The error of the result in float32 is
bounded as in Higham, Accuracy and Stability of Numerical Algorithms, sections 2 and 3.
With u = 2^-24, the unit roundoff, and y = s (x - o), exactly:

* Moving rounds once: x' = y (1 + d), |d| <= u; s x is exact. It may underflow: by at most
  2^-126 (s + 2) in each coordinate, as subnormal inputs and results may be flushed to 0. Over all
  coordinates this is a length of a = sqrt(D) 2^-126 (s + 2).
* A sum of D products, in any order, with or without fused operations, has an error of at most
  D u / (1 - D u) |q'| |g'|, and by 2 D 2^-126 where products or sums underflow.
* The few operations that put terms and bounds together add less than 8 u (|g'|^2 + 2 |q'| |g'|).

Together, as long as D u < 1 / 50,

  | |g'|^2 - 2 <q', g'> - (|y_q - y_g|^2 - |y_q|^2) |  <=  e n_g (n_g + 2 n_q)

with e = (1.1 D + 16) u and norms n = |x'| + t that are enlarged by what underflows can hide:
t >= 2 a / e and 3 e t^2 > 6 D 2^-126, of which the second holds for t >= 2^-50.

This exceeds what the errors come to by 5 u n_g (n_g + 2 n_q) at least, since three operations
put terms and bounds together, not eight. XLA may round them otherwise in one part of a program than
in another, with fused operations or without; such bounds differ by less, so that either holds for
both.

The reference is |q - g|^2 in float64, which has an error of at most
(D + 2) 2^-53 |q - g|^2 <= 2 (D + 2) 2^-53 (|q|^2 + |g|^2). The part of |g|^2 is covered by the
bound above; for that of |q|^2, the bound is widened by e64 n_q^2 with e64 = (D + 16) 2^-51.

If all coordinates are small multiples of one power of two, nothing is rounded and the bound is 0.
This is so for binary codes, small integers, and rows that are all the same.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from dcjax.distributed import sharded_rows

# Rows of the gallery whose median is the origin, which need not be exact.
_NUM_SAMPLED = 256
# The exponent to which embeddings are scaled: as large as their squares allow, so that squares of
# small numbers among them do not underflow.
_EXPONENT = 50
# Stands for the exponent of a common unit where there is none; no float32 has it.
_NO_UNIT = -1000


class Frame(NamedTuple):
    """The shift and scale of embeddings that are compared.

    Attributes:
      origin: o, float32 [D].
      scale: s, a power of two.
      unit: the largest power of two that all coordinates before the move are multiples of.
    """

    origin: np.ndarray
    scale: float
    unit: float


class Bound(NamedTuple):
    """The constants in the bound of the error of |g'|^2 - 2 <q', g'>; all 0 if it is exact.

    Attributes:
      relative: e.
      surplus: t, what is added to norms.
      reference: e64.
    """

    relative: Any
    surplus: Any
    reference: Any


def choose_frame(sample: np.ndarray, embeddings: list[Array]) -> Frame:
    """Returns the frame for a gallery.

    Args:
      sample: rows of the gallery float32 [n, D], see `sample_rows`.
      embeddings: all that will be moved, float32 [N, D] each.
    """
    extents = jax.device_get([_extent(values) for values in embeddings])
    largest = max(float(largest) for largest, _ in extents)
    unit = min(int(unit) for _, unit in extents)
    # The lower median of each coordinate: the mean depends on a few far rows, and a mean of two
    # middle values might not be a multiple of the unit.
    middle = (len(sample) - 1) // 2
    origin = np.partition(sample, middle, axis=0)[middle]
    _, exponent = math.frexp(largest)
    scale = 2.0 ** min(max(_EXPONENT - exponent, -126), 126)
    return Frame(origin, scale, 0.0 if unit == _NO_UNIT else 2.0**unit)


def sample_rows(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of a gallery by which the frame is chosen."""
    return rows[np.linspace(0, len(rows) - 1, _NUM_SAMPLED).astype(int)]


@jax.jit
def _extent(x: Array) -> tuple[Array, Array]:
    """Returns the largest absolute value, and the exponent of the largest common unit."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & 0x7FFFFFFF
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    significand = fraction | 0x800000
    # The number of zeros below the lowest bit that is set.
    below = jax.lax.population_count((significand & -significand) - 1)
    # Subnormal numbers have no unit, since they may be flushed to 0.
    unit = jnp.where(exponent > 0, exponent - 150 + below, _NO_UNIT)
    unit = jnp.min(jnp.where(bits == 0, 127, unit))
    return jnp.max(jnp.abs(x)), unit


def move(x: Array, frame: Frame) -> Array:
    """Moves sharded embeddings [N, D] to a frame; each row stays on its device."""
    return _move(x, frame.origin, np.float32(frame.scale), mesh=sharded_rows.mesh_of(x))


@partial(jax.jit, static_argnames="mesh")
def _move(x: Array, origin: Array, scale: Array, *, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(x * scale - origin * scale, sharded_rows.sharding(mesh))


@jax.jit
def largest_square(x: Array, is_one: Array) -> Array:
    """Returns the largest squared norm of the rows [N, D] for which is_one, bool [N], is true."""
    return jnp.max(jnp.where(is_one, jnp.sum(jnp.square(x), axis=1), 0))


def bound(frame: Frame, largest_square: float) -> Bound:
    """Returns the bound for embeddings in a frame, given their largest squared norm."""
    dim = len(frame.origin)
    # Exact if all terms are multiples of unit^2, and all sums, at most 4 times the largest squared
    # norm, have at most 24 bits. The first condition keeps products of units from underflow.
    unit = frame.scale * frame.unit
    if unit >= 2**-60 and 4 * largest_square <= 2**24 * unit**2:
        return Bound(*np.zeros(3, np.float32))
    relative = (1.1 * dim + 16) * 2**-24
    underflow = math.sqrt(dim) * 2**-126 * (frame.scale + 2)
    surplus = max(2**-50, 2 * underflow / relative)
    return Bound(*map(np.float32, (relative, surplus, (dim + 16) * 2**-51)))
