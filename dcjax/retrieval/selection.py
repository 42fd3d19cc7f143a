"""Finds the nearest rows in distances [gallery, queries], and counts those before a given one."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Rows of a run, whose counts are added up together.
_COUNTED_RUN = 64
# With shorter runs than this, top_k of all distances is as fast.
_MIN_RUN = 8


class Widths(NamedTuple):
    """The differences of upper and lower bounds of distances.

    They are square n^2 + slope n + offset, with n of the row, slope and offset of the query.

    Attributes:
      norms: n [gallery].
      square: scalar.
      slope: [queries].
      offset: [queries].
    """

    norms: Array
    square: Array
    slope: Array
    offset: Array

    def of(self, rows: Array | slice) -> Array:
        """Returns the widths of some rows, [n, queries].

        Args:
          rows: a slice, for all queries; or numbers of rows for each query, [n, queries].
        """
        norms = self.norms[rows]
        norms = norms if norms.ndim == 2 else norms[:, None]
        return norms * (self.square * norms + self.slope) + self.offset


class Intervals(NamedTuple):
    """Intervals that hold the distances ||q - g||^2 - ||q||^2, whose order is that of ||q - g||.

    Only products are stored: bounds are computed wherever they are needed, since to write and read
    them would take longer.

    Attributes:
      products: <q, g>, minus infinity for rows that a query leaves out, [gallery, queries].
      squared_norms: ||g||^2 [gallery].
      widths: of the intervals.
    """

    products: Array
    squared_norms: Array
    widths: Widths

    def lower(self, rows: Array | slice) -> Array:
        """Returns the lower bounds for some rows, [n, queries]; see `Widths.of`."""
        if isinstance(rows, slice):
            products, norms = self.products[rows], self.squared_norms[rows, None]
        else:
            products = self.products[rows, jnp.arange(rows.shape[1])]
            norms = self.squared_norms[rows]
        return norms - 2 * products - self.widths.of(rows) / 2


def num_before(
    intervals: Intervals, limits: tuple[Array, Array], row: Array
) -> tuple[Array, Array]:
    """Counts the rows that are certainly, and that are possibly, nearer than a limit.

    Args:
      intervals: of the distances.
      limits: the lower and the upper bounds of each query's limit, each [queries].
      row: the row that the limit is the distance of; of equal distances, earlier rows are nearer.

    Returns:
      The number of rows whose upper bound is below the limit's lower bound, and of those whose
      lower bound is below the limit's upper bound, both [queries]; equal ones count if the row is
      earlier.
    """
    num_rows, num_queries = intervals.products.shape

    def compare(part: slice) -> Array:
        earlier = jnp.arange(num_rows)[part, None] < row
        near = intervals.lower(part)
        far = near + intervals.widths.of(part)
        certain = (far < limits[0]) | ((far == limits[0]) & earlier)
        possible = (near < limits[1]) | ((near == limits[1]) & earlier)
        # Both flags in one int32: a run has fewer rows than its halves of 16 bits can count.
        return certain.astype(jnp.int32) + (possible.astype(jnp.int32) << 16)

    def unpack(counts: Array) -> Array:
        return jnp.stack([counts & 0xFFFF, counts >> 16]).sum(axis=1)

    whole_runs = num_rows - num_rows % _COUNTED_RUN
    counts = _fold(jnp.add, compare(slice(whole_runs)).reshape(-1, _COUNTED_RUN, num_queries), 1)
    certain, possible = unpack(counts[:, 0]) + unpack(compare(slice(whole_runs, None)))
    return certain, possible


def nearest(
    distances: Array, k: int, look_up: Callable[[Array], Array] | None = None
) -> tuple[Array, Array]:
    """Returns distances and rows of the k nearest images [B, k], nearest first, ties by index.

    The gallery is cut into runs of rows. All k nearest images lie in the k runs with the smallest
    minima: for an image of another run, each of these k runs has an image that comes before it.

    Args:
      distances: [gallery, queries].
      k: how many, at most as many as the gallery has.
      look_up: computes the distances of some rows for each query, both [n, queries], from what
        `distances` are computed from; XLA then need not store these. None: they are stored.
    """
    num_rows, num_queries = distances.shape
    # About as many runs as images in k runs.
    run = 1 << (math.isqrt(num_rows // k).bit_length() - 1)
    if run < _MIN_RUN:
        nearness, rows = jax.lax.top_k(-distances.T, k)
        return -nearness, rows
    whole_runs = num_rows - num_rows % run
    minima = _minima(distances[:whole_runs].reshape(-1, run, num_queries))
    _, runs = jax.lax.top_k(-minima.T, k)
    # The runs in the order of the gallery again; of equal distances, top_k takes the first.
    rows = jnp.sort(runs, axis=1)[:, :, None] * run + jnp.arange(run)
    rest = jnp.broadcast_to(jnp.arange(whole_runs, num_rows), (num_queries, num_rows - whole_runs))
    rows = jnp.concatenate([rows.reshape(num_queries, -1), rest], axis=1)
    if look_up is None:
        near = distances[rows, jnp.arange(num_queries)[:, None]]
    else:
        near = look_up(rows.T).T
    nearness, best = jax.lax.top_k(-near, k)
    return -nearness, jnp.take_along_axis(rows, best, axis=1)


def _minima(runs: Array) -> Array:
    """Returns the minima [runs, queries] of runs of rows, [runs, 2^n, queries]."""
    # The reduction of the last few rows keeps the transposition that follows out of the tree, which
    # XLA would not vectorise then. A tree of jnp.minimum it would compute twice.
    minima = _fold(lambda a, b: jnp.where(a < b, a, b), runs, 4)
    return minima.min(axis=1)


def _fold(combine: Callable[[Array, Array], Array], runs: Array, size: int) -> Array:
    """Combines the rows of each run, [runs, size 2^n, queries], to [runs, size, queries].

    A tree of vector operations: XLA on a CPU takes two to three times as long for a reduction.
    """
    while runs.shape[1] > size:
        runs = combine(runs[:, 0::2], runs[:, 1::2])
    return runs
