"""Finds the nearest rows in distances [gallery, queries], and counts those before a given one."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Rows of a run, whose counts are added up together.
_COUNTED_RUN = 64
# With shorter runs than this, top_k of all distances is as fast.
_MIN_RUN = 6


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


def num_before(
    lower: Array, widths: Widths, limits: tuple[Array, Array], row: Array
) -> tuple[Array, Array]:
    """Counts the rows that are certainly, and that are possibly, nearer than a limit.

    Args:
      lower: lower bounds of distances, [gallery, queries].
      widths: of the distances.
      limits: the lower and the upper bounds of each query's limit, each [queries].
      row: the row that the limit is the distance of; of equal distances, earlier rows are nearer.

    Returns:
      The number of rows whose upper bound is below the limit's lower bound, and of those whose
      lower bound is below the limit's upper bound, both [queries]; equal ones count if the row is
      earlier.
    """
    num_rows, num_queries = lower.shape

    def compare(part: slice) -> Array:
        earlier = jnp.arange(num_rows)[part, None] < row
        near = lower[part]
        far = near + widths.of(part)
        certain = (far < limits[0]) | ((far == limits[0]) & earlier)
        possible = (near < limits[1]) | ((near == limits[1]) & earlier)
        # Both flags in one int32: a run has fewer rows than its halves of 16 bits can count.
        return certain.astype(jnp.int32) + (possible.astype(jnp.int32) << 16)

    def unpack(counts: Array) -> Array:
        return jnp.stack([counts & 0xFFFF, counts >> 16]).sum(axis=1)

    whole_runs = num_rows - num_rows % _COUNTED_RUN
    counts = compare(slice(whole_runs)).reshape(-1, _COUNTED_RUN, num_queries)
    # A tree of vector sums: XLA on a CPU takes two to three times as long for a sum over rows.
    while counts.shape[1] > 1:
        counts = counts[:, 0::2] + counts[:, 1::2]
    certain, possible = unpack(counts[:, 0]) + unpack(compare(slice(whole_runs, None)))
    return certain, possible


def nearest(distances: Array, k: int) -> tuple[Array, Array]:
    """Returns distances and rows of the k nearest images [B, k], nearest first, ties by index.

    The gallery is cut into runs of rows. All k nearest images lie in the k runs with the smallest
    minima: for an image of another run, each of these k runs has an image that comes before it.
    """
    num_rows, num_queries = distances.shape
    run = math.isqrt(num_rows // k)  # about as many runs as images in k runs
    if run < _MIN_RUN:
        nearness, rows = jax.lax.top_k(-distances.T, k)
        return -nearness, rows
    whole_runs = num_rows - num_rows % run
    minima = distances[:whole_runs].reshape(-1, run, num_queries).min(axis=1)
    _, runs = jax.lax.top_k(-minima.T, k)
    # The runs in the order of the gallery again; of equal distances, top_k takes the first.
    rows = jnp.sort(runs, axis=1)[:, :, None] * run + jnp.arange(run)
    rest = jnp.broadcast_to(jnp.arange(whole_runs, num_rows), (num_queries, num_rows - whole_runs))
    rows = jnp.concatenate([rows.reshape(num_queries, -1), rest], axis=1)
    nearness, best = jax.lax.top_k(-distances[rows, jnp.arange(num_queries)[:, None]], k)
    return -nearness, jnp.take_along_axis(rows, best, axis=1)
