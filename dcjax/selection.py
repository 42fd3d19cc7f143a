"""Finds the nearest rows in distances [gallery, queries], and counts those before a given one."""

import math

import jax
import jax.numpy as jnp
from jax import Array

# Counts are added up in runs of this many rows.
_COUNTED_RUN = 64
# Shorter runs than this save too little: then all distances are searched.
_MIN_RUN = 6


def num_before(distances: Array, limit: Array, row: Array) -> Array:
    """Counts the rows nearer than the limits [B], or as near and before the given rows [B]."""
    num_rows, num_queries = distances.shape

    def before(part: slice) -> Array:
        index = jnp.arange(num_rows)[part, None]
        near = distances[part]
        return ((near < limit) | ((near == limit) & (index < row))).astype(jnp.int32)

    whole_runs = num_rows - num_rows % _COUNTED_RUN
    counts = before(slice(whole_runs)).reshape(-1, _COUNTED_RUN, num_queries)
    # Half onto half, in vectors: a sum over the rows takes XLA on a CPU two to three times as long.
    while counts.shape[1] > 1:
        counts = counts[:, 0::2] + counts[:, 1::2]
    return counts.sum(axis=(0, 1)) + before(slice(whole_runs, None)).sum(axis=0)


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
