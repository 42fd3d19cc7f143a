"""Finds the nearest rows in distances [gallery, queries], and counts those before a given one."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Counts are added up in runs of this many rows.
_COUNTED_RUN = 64
# Shorter runs than this save too little: then all distances are searched.
_MIN_RUN = 6


class Widths(NamedTuple):
    """How far the upper bounds of distances lie above the lower ones.

    That is square n^2 + slope n + offset, with n of the row and the last two of the query.

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
          rows: the same ones for all queries, a slice; or a column of numbers for each query,
            [n, queries].
        """
        norms = self.norms[rows]
        norms = norms if norms.ndim == 2 else norms[:, None]
        return norms * (self.square * norms + self.slope) + self.offset


def num_before(
    lower: Array, widths: Widths, limits: tuple[Array, Array], row: Array
) -> tuple[Array, Array]:
    """Counts the rows that are certainly, and those that are possibly, nearer than limits.

    Args:
      lower: lower bounds of distances, [gallery, queries].
      widths: of the distances.
      limits: the lower and the upper bounds of the limits, each [queries].
      row: where the limits are from; of equal distances, those of earlier rows are nearer.

    Returns:
      Rows whose upper bound is below the lower one of the limit, and rows whose lower bound is
      below its upper one, both [queries]; equal ones where the row is earlier.
    """
    num_rows, num_queries = lower.shape

    def before(part: slice) -> Array:
        earlier = jnp.arange(num_rows)[part, None] < row
        near = lower[part]
        far = near + widths.of(part)
        certain = (far < limits[0]) | ((far == limits[0]) & earlier)
        possible = (near < limits[1]) | ((near == limits[1]) & earlier)
        # Both in one number, as a run has fewer rows than half of it can count.
        return certain.astype(jnp.int32) + (possible.astype(jnp.int32) << 16)

    def counted(counts: Array) -> Array:
        return jnp.stack([counts & 0xFFFF, counts >> 16]).sum(axis=1)

    whole_runs = num_rows - num_rows % _COUNTED_RUN
    counts = before(slice(whole_runs)).reshape(-1, _COUNTED_RUN, num_queries)
    # Half onto half, in vectors: a sum over the rows takes XLA on a CPU two to three times as long.
    while counts.shape[1] > 1:
        counts = counts[:, 0::2] + counts[:, 1::2]
    certain, possible = counted(counts[:, 0]) + counted(before(slice(whole_runs, None)))
    return certain, possible


def nearest(distances: Array, k: int) -> tuple[Array, Array]:
    """Returns distances and rows of the k nearest images [B, k], nearest first, ties by index.

    The gallery is cut into runs of rows. An image among the k nearest lies in one of the k runs
    that begin the order of their own nearest images: else each of the k has one that comes first.
    """
    num_rows, num_queries = distances.shape
    run = math.isqrt(num_rows // k)  # about as many runs as images in k runs
    if run < _MIN_RUN:
        nearness, rows = jax.lax.top_k(-distances.T, k)
        return -nearness, rows
    whole_runs = num_rows - num_rows % run
    minima = distances[:whole_runs].reshape(-1, run, num_queries).min(axis=1)
    _, runs = jax.lax.top_k(-minima.T, k)
    # Back in the order of the gallery: of equals, top_k takes the first.
    rows = jnp.sort(runs, axis=1)[:, :, None] * run + jnp.arange(run)
    rest = jnp.broadcast_to(jnp.arange(whole_runs, num_rows), (num_queries, num_rows - whole_runs))
    rows = jnp.concatenate([rows.reshape(num_queries, -1), rest], axis=1)
    nearness, best = jax.lax.top_k(-distances[rows, jnp.arange(num_queries)[:, None]], k)
    return -nearness, jnp.take_along_axis(rows, best, axis=1)
