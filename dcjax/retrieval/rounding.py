"""How far float32 can be trusted to say which of two embeddings is nearer to a third.

Squared distances are computed as |g|^2 - 2 <q, g>, in one matrix product. Its terms cancel where
the embeddings are far from the origin or close to each other, and underflow or overflow where they
are tiny or huge. So embeddings are moved and scaled first,

  x' = s x - s o    with a power of two s, and an origin o amid the gallery,

which leaves |x'| of about the distances that matter; and what float32 makes of them comes with a
bound of its error, by Higham, Accuracy and Stability of Numerical Algorithms, sections 2 and 3.
With u = 2^-24, the unit roundoff, and y = s (x - o), exactly:

* Moving rounds once: x' = y (1 + d), |d| <= u; s x is exact. It may underflow: by at most
  2^-126 (s + 2) in each coordinate, as numbers below 2^-126 may be taken for 0 where they are read
  and where they are made. Over all coordinates this is a length of a = sqrt(D) 2^-126 (s + 2).
* A sum of D products, in whatever order, with or without fused operations, is off by at most
  D u / (1 - D u) |q'| |g'|, and by 2 D 2^-126 where products or sums underflow.
* The few operations that put terms and bounds together add less than 8 u (|g'|^2 + 2 |q'| |g'|).

Together, as long as D u < 1 / 50,

  | |g'|^2 - 2 <q', g'> - (|y_q - y_g|^2 - |y_q|^2) |  <=  e n_g (n_g + 2 n_q)

with e = (1.1 D + 16) u and norms n = |x'| + t that are enlarged by what underflows can hide:
t >= 2 a / e and 3 e t^2 > 6 D 2^-126, of which the second holds for t >= 2^-50.

What is compared in the end are the numbers that float64 gives for |q - g|^2, themselves rounded by
at most (D + 2) 2^-53 |q - g|^2 <= 2 (D + 2) 2^-53 (|q|^2 + |g|^2); the part of |g|^2 is in the
bound above already. So that what float32 says holds for them too, the bound is widened by
e64 n_q^2 with e64 = (D + 16) 2^-51.

Where all coordinates are multiples of one number, and few enough, nothing is rounded at all: the
bound is 0. So it is for codes of bits and small integers, and for rows that are all the same.
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

# Rows of the gallery whose median is the origin: a few, since it need not be exact.
_NUM_SAMPLED = 256
# Embeddings are scaled to this exponent: as large as their squares allow, so that small numbers
# among large ones do not underflow when they are squared.
_EXPONENT = 50
# An exponent that no float32 has: of rows that are multiples of no number that helps.
_NO_UNIT = -1000


class Frame(NamedTuple):
    """Where embeddings are moved to be compared.

    Attributes:
      origin: o, float32 [D].
      scale: s, a power of two.
      unit: the largest power of two that all coordinates before the move are multiples of.
    """

    origin: np.ndarray
    scale: float
    unit: float


class Bound(NamedTuple):
    """Bounds the error of |g'|^2 - 2 <q', g'>; all 0 where it has none.

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
      sample: rows of the gallery float32 [n, D], see `sampled`.
      embeddings: all that will be moved, float32 [N, D] each.
    """
    extents = jax.device_get([_extent(values) for values in embeddings])
    largest = max(float(largest) for largest, _ in extents)
    unit = min(int(unit) for _, unit in extents)
    # A middle value of each coordinate, not the mean, which a few far rows would move away from all
    # others; and not the mean of two middle ones, which might not be a multiple of the unit.
    middle = (len(sample) - 1) // 2
    origin = np.partition(sample, middle, axis=0)[middle]
    _, exponent = math.frexp(largest)
    scale = 2.0 ** min(max(_EXPONENT - exponent, -126), 126)
    return Frame(origin, scale, 0.0 if unit == _NO_UNIT else 2.0**unit)


def sampled(rows: np.ndarray) -> np.ndarray:
    """Returns those of the rows of a gallery that the frame is chosen by."""
    return rows[np.linspace(0, len(rows) - 1, _NUM_SAMPLED).astype(int)]


@jax.jit
def _extent(x: Array) -> tuple[Array, Array]:
    """Returns the largest absolute value, and the exponent of the largest common unit."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32) & 0x7FFFFFFF
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    significand = fraction | 0x800000
    # Of the lowest bit that is set, those below it are counted.
    below = jax.lax.population_count((significand & -significand) - 1)
    # Numbers below 2^-126 may be taken for 0 by what follows.
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
    """Returns the largest squared norm of those of the rows [N, D] that are ones, bool [N]."""
    return jnp.max(jnp.where(is_one, jnp.sum(jnp.square(x), axis=1), 0))


def bound(frame: Frame, largest_square: float) -> Bound:
    """Returns the bound for embeddings that have been moved, whose squared norms are given."""
    dim = len(frame.origin)
    # All terms are multiples of unit^2, and all sums of them at most 4 times the largest squared
    # norm. The unit is not so small that a product of two might underflow.
    unit = frame.scale * frame.unit
    if unit >= 2**-60 and 4 * largest_square <= 2**24 * unit**2:
        return Bound(*np.zeros(3, np.float32))
    relative = (1.1 * dim + 16) * 2**-24
    underflow = math.sqrt(dim) * 2**-126 * (frame.scale + 2)
    surplus = max(2**-50, 2 * underflow / relative)
    return Bound(*map(np.float32, (relative, surplus, (dim + 16) * 2**-51)))
