"""Ranks a gallery for many queries as far as retrieval scores ask, exactly, on any devices.

No row of all distances is sorted. The place of the nearest image of the query's class, which recall
needs, is a count of the images before it; the few nearest images lie in few runs of the gallery.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Distances that a device holds unless a block size is given: 16 MiB of float32, what a processor's
# cache may hold; but queries in a multiple of this number, which fill its vectors and are worth
# reading a large gallery for.
_DISTANCES_PER_BLOCK = 2**22
_BLOCK_MULTIPLE = 64
# Blocks that a device takes in one call. They share one piece of memory: with fresh memory for each
# block, its first use costs the operating system up to a fifth of the time of the products.
_BLOCKS_PER_CALL = 16
# Counts are added up in runs of this many rows.
_COUNTED_RUN = 64
# Shorter runs than this save too little: then all distances are searched.
_MIN_RUN = 6


class _Queries(NamedTuple):
    """Queries on the host or on the devices.

    Attributes:
      embeddings: [..., B, D].
      classes: [..., B].
      own: the row of the gallery that is the query itself, G if none is, [..., B].
    """

    embeddings: Any
    classes: Any
    own: Any


class _Gallery(NamedTuple):
    """What is searched, on the host or on the devices, and where to find the rows of a class.

    Attributes:
      embeddings: [G, D].
      squared_norms: [G].
      classes: [G].
      by_class: the rows in the order of their classes and, in a class, of their indices, [G].
      starts: where in by_class each class starts and, last, where the last one ends.
    """

    embeddings: Any
    squared_norms: Any
    classes: Any
    by_class: Any
    starts: Any


def rank(
    queries: np.ndarray,
    query_classes: np.ndarray,
    gallery: np.ndarray,
    gallery_classes: np.ndarray,
    *,
    exclude_self: bool,
    block: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Ranks the gallery by Euclidean distance to each query, ties by index.

    Args:
      queries: float32 [Q, D].
      query_classes: int32 [Q], from 0 on.
      gallery: float32 [G, D].
      gallery_classes: int32 [G], from 0 on.
      exclude_self: whether query i is row i of the gallery, which is its last for it.
      block: number of queries that a device ranks at a time; None chooses one that fits memory.
      mesh: devices that share the queries; None: the first one alone.

    Yields:
      The queries in order, a block at a time: which they are; how many rows come before the nearest
      one of the query's class, no fewer than it can retrieve if there is none, [B]; and which of
      the k nearest rows are of its class, with k the most rows that any query finds there, [B, k].
    """
    devices = np.array(jax.local_devices()[:1]) if mesh is None else mesh.devices.flatten()
    mesh = Mesh(devices, ("device",))
    whole, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in [(), ("device",)])
    own = np.arange(len(queries)) if exclude_self else np.full(len(queries), len(gallery))
    asking = _Queries(queries, query_classes, own.astype(np.int32))
    asked = _by_class(gallery, gallery_classes, 1 + max(query_classes.max(), gallery_classes.max()))
    num_positives = int(np.diff(asked.starts)[query_classes].max())
    asked = jax.device_put(asked, whole)
    calls = _calls(len(queries), len(gallery), block, mesh.size)
    outputs = (
        _rank(
            jax.device_put(_Queries(*(values[rows] for values in asking)), spread),
            asked,
            mesh=mesh,
            num_positives=max(1, num_positives),
            num_nearest=max(1, num_positives - exclude_self),
        )
        for rows in calls
    )
    size = calls.shape[-1]
    blocks = (block for output in fetched(outputs) for block in zip(*output, strict=True))
    for start, (num_before, hits) in zip(range(0, len(queries), size), blocks, strict=False):
        num_left = len(queries) - start  # less than a block in the end: the others fill it up
        yield slice(start, start + size), num_before[:num_left], hits[:num_left]


def _by_class(gallery: np.ndarray, classes: np.ndarray, num_classes: int) -> _Gallery:
    sizes = np.bincount(classes, minlength=num_classes)
    return _Gallery(
        embeddings=gallery,
        squared_norms=np.einsum("gd,gd->g", gallery, gallery),
        classes=classes,
        by_class=np.argsort(classes, kind="stable").astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
    )


def _calls(num_queries: int, num_rows: int, block: int | None, num_devices: int) -> np.ndarray:
    """Returns the queries of each call as [calls, blocks, B], from the first again at the end.

    All calls have one shape, and each device gets as many blocks of a call as the others.
    """
    block = block or _BLOCK_MULTIPLE * max(1, _DISTANCES_PER_BLOCK // num_rows // _BLOCK_MULTIPLE)
    # Never a single one: XLA for CPUs multiplies a matrix and a vector in another way, in which
    # equal rows may get different distances.
    block = max(2, min(block, math.ceil(num_queries / num_devices)))
    num_calls = math.ceil(num_queries / (block * num_devices * _BLOCKS_PER_CALL))
    num_blocks = math.ceil(num_queries / (block * num_devices * num_calls)) * num_devices
    return np.resize(np.arange(num_queries), (num_calls, num_blocks, block))


def fetched(outputs: Iterator[Any]) -> Iterator[Any]:
    """Yields trees of arrays on the host, each after the next one has been dispatched."""
    waiting = next(outputs)
    for output in outputs:
        yield jax.device_get(waiting)
        waiting = output
    yield jax.device_get(waiting)


@partial(jax.jit, static_argnames=("mesh", "num_positives", "num_nearest"))
def _rank(
    asking: _Queries, asked: _Gallery, *, mesh: Mesh, num_positives: int, num_nearest: int
) -> tuple[Array, Array]:
    """Ranks blocks of queries [N, B, ...], a device's share of them one after the other.

    Returns:
      Rows before the nearest positive [N, B], and which of the nearest are positives
      [N, B, num_nearest], whole on every device, so that every process can read them.
    """

    def rank_share(asking: _Queries, asked: _Gallery) -> tuple[Array, Array]:
        rank_block = partial(
            _rank_block, asked=asked, num_positives=num_positives, num_nearest=num_nearest
        )
        return jax.lax.map(rank_block, asking)

    whole, spread = PartitionSpec(), PartitionSpec("device")
    ranked = jax.shard_map(rank_share, mesh=mesh, in_specs=(spread, whole), out_specs=spread)
    return jax.lax.with_sharding_constraint(ranked(asking, asked), NamedSharding(mesh, whole))


def _rank_block(
    asking: _Queries, *, asked: _Gallery, num_positives: int, num_nearest: int
) -> tuple[Array, Array]:
    """Does what `_rank` does for one block of queries: returns [B] and [B, num_nearest]."""
    products = jnp.einsum(
        "gd,qd->gq", asked.embeddings, asking.embeddings, precision=jax.lax.Precision.HIGHEST
    )
    # ||q - g||^2 without the query's own norm, which is the same for its whole gallery.
    distances: Array = asked.squared_norms[:, None] - 2 * products
    # By index: an exact duplicate of the query is another image and stays.
    distances = distances.at[asking.own, jnp.arange(len(asking.own))].set(jnp.inf, mode="drop")
    nearest = _nearest(distances, num_nearest)
    positive = _nearest_positive(distances, asked, asking.classes, num_positives)
    hits = asked.classes[nearest] == asking.classes[:, None]
    return _num_before(distances, *positive), hits


def _nearest_positive(
    distances: Array, asked: _Gallery, classes: Array, num_positives: int
) -> tuple[Array, Array]:
    """Returns the distance and the row of the nearest image of each query's class, both [B].

    The distance is infinite if there is none.
    """
    num_rows, num_queries = distances.shape
    place = asked.starts[classes][:, None] + jnp.arange(num_positives)
    exists = place < asked.starts[classes + 1][:, None]
    rows = asked.by_class[jnp.minimum(place, num_rows - 1)]
    found = jnp.where(exists, distances[rows, jnp.arange(num_queries)[:, None]], jnp.inf)
    first = jnp.arange(num_queries), jnp.argmin(found, axis=1)
    return found[first], rows[first]


def _num_before(distances: Array, limit: Array, row: Array) -> Array:
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


def _nearest(distances: Array, k: int) -> Array:
    """Returns the rows of the k nearest images [B, k], nearest first, ties by index.

    The gallery is cut into runs of rows. An image among the k nearest lies in one of the k runs
    that begin the order of their own nearest images: else each of the k has one that comes first.
    """
    num_rows, num_queries = distances.shape
    run = math.isqrt(num_rows // k)  # about as many runs as images in k runs
    if run < _MIN_RUN:
        return jax.lax.top_k(-distances.T, k)[1]
    whole_runs = num_rows - num_rows % run
    minima = distances[:whole_runs].reshape(-1, run, num_queries).min(axis=1)
    _, runs = jax.lax.top_k(-minima.T, k)
    # Back in the order of the gallery: of equals, top_k takes the first.
    rows = jnp.sort(runs, axis=1)[:, :, None] * run + jnp.arange(run)
    rest = jnp.broadcast_to(jnp.arange(whole_runs, num_rows), (num_queries, num_rows - whole_runs))
    rows = jnp.concatenate([rows.reshape(num_queries, -1), rest], axis=1)
    _, best = jax.lax.top_k(-distances[rows, jnp.arange(num_queries)[:, None]], k)
    return jnp.take_along_axis(rows, best, axis=1)
