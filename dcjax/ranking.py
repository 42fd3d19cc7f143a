"""Ranks a gallery for many queries as far as retrieval scores ask, exactly, on any devices.

The gallery is spread over the devices: each searches its own share for the same block of
queries, and what they find is merged. No row of all distances is sorted. The place of the nearest
image of the query's class, which recall needs, is a count of the images before it; the few nearest
images lie in few runs of the gallery.
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

from dcjax import galleries, selection, shares
from dcjax.galleries import Gallery, Set

# Distances that a device holds unless a block size is given, and numbers of the queries: 16 MiB of
# float32, what a processor's cache may hold; but queries in a multiple of this number, which fill
# its vectors and are worth reading a large gallery for.
_NUMBERS_PER_BLOCK = 2**22
_BLOCK_MULTIPLE = 64
# Blocks that the devices take in one call. They share one piece of memory: with fresh memory for
# each block, its first use costs the operating system up to a fifth of the time of the products.
_BLOCKS_PER_CALL = 16


class _Queries(NamedTuple):
    """Blocks of queries, the same for all devices.

    Attributes:
      rows: which rows of what is spread they are, [..., B].
      classes: [..., B].
      own: the row of the gallery that is the query itself, negative if none is, [..., B].
    """

    rows: Any
    classes: Any
    own: Any


def rank(
    queries: Set,
    gallery: Set,
    *,
    exclude_self: bool,
    block: int | None = None,
    rows_per_device: int = 0,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Ranks the gallery by Euclidean distance to each query, ties by index.

    A device holds its shares of the embeddings and of the gallery, which are the same unless the
    gallery is a part of them; and, of one block of queries, their embeddings and their distances
    to its share.

    Args:
      queries: Q images.
      gallery: G images.
      exclude_self: whether query i is row i of the gallery, which is its last for it.
      block: number of queries that are ranked at a time; None chooses one that fits memory.
      rows_per_device: rows, at least, that a device's share of a part of the embeddings is filled
        up to, for parts of several sizes to be searched by one compiled program.

    Yields:
      The queries in order, a block at a time: which they are; how many rows come before the nearest
      one of the query's class, no fewer than it can retrieve if there is none, [B]; and which of
      the k nearest rows are of its class, with k the most rows that any query finds there, [B, k].
      All processes get the same.
    """
    mesh, num_queries = shares.mesh_of(gallery.embeddings), len(queries.rows)
    own = np.arange(num_queries) if exclude_self else np.full(num_queries, -1)
    asking = _Queries(queries.rows, queries.classes, own.astype(np.int32))
    num_classes = 1 + int(max(queries.classes.max(), gallery.classes.max()))
    relevant = np.bincount(gallery.classes, minlength=num_classes)[queries.classes]
    asked, num_positives = galleries.create(gallery, queries.classes, num_classes, rows_per_device)
    share = len(asked.classes) // mesh.size
    calls = _calls(num_queries, max(share, gallery.embeddings.shape[1]), block, mesh.size)
    outputs = (
        _rank(
            _Queries(*(values[rows] for values in asking)),
            queries.embeddings,
            asked,
            mesh=mesh,
            num_positives=max(1, num_positives),
            num_nearest=max(1, int(relevant.max()) - exclude_self),
        )
        for rows in calls
    )
    size = calls.shape[-1]
    blocks = (block for output in fetched(outputs) for block in zip(*output, strict=True))
    for start, (num_before, hits) in zip(range(0, num_queries, size), blocks, strict=False):
        num_left = num_queries - start  # less than a block in the end: the others fill it up
        yield slice(start, start + size), num_before[:num_left], hits[:num_left]


def _calls(num_queries: int, width: int, block: int | None, num_devices: int) -> np.ndarray:
    """Returns the queries of each call as [calls, blocks, B], from the first again at the end.

    All calls have one shape. A query takes up to `width` numbers of a device's memory; as many
    queries of a block are merged by each device.
    """
    block = block or _BLOCK_MULTIPLE * max(1, _NUMBERS_PER_BLOCK // width // _BLOCK_MULTIPLE)
    # Never a single one: XLA for CPUs multiplies a matrix and a vector in another way, in which
    # equal rows may get different distances.
    block = max(2, min(block, num_queries))
    block = math.ceil(block / num_devices) * num_devices
    num_calls = math.ceil(num_queries / (block * _BLOCKS_PER_CALL))
    num_blocks = math.ceil(num_queries / (block * num_calls))
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
    asking: _Queries,
    queries: Array,
    asked: Gallery,
    *,
    mesh: Mesh,
    num_positives: int,
    num_nearest: int,
) -> tuple[Array, Array]:
    """Ranks blocks of queries [N, B], one after the other, on all devices at once.

    Returns:
      Rows before the nearest positive [N, B], and which of the nearest are positives
      [N, B, num_nearest], whole on every device, so that every process can read them.
    """
    axes = mesh.axis_names

    def rank_share(asking: _Queries, queries: Array, asked: Gallery) -> tuple[Array, Array]:
        rank_block = partial(
            _rank_block,
            queries=queries,
            asked=asked._replace(starts=asked.starts[0], first=asked.first[0]),
            axes=axes,
            num_positives=num_positives,
            num_nearest=num_nearest,
        )
        return jax.lax.map(rank_block, asking)

    whole, spread = PartitionSpec(), PartitionSpec(axes)
    ranked = jax.shard_map(
        rank_share,
        mesh=mesh,
        in_specs=(whole, spread, spread),
        out_specs=(whole, PartitionSpec(None, axes)),
    )
    outputs = ranked(asking, queries, asked)
    return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, whole))


def _rank_block(
    asking: _Queries,
    *,
    queries: Array,
    asked: Gallery,
    axes: tuple[str, ...],
    num_positives: int,
    num_nearest: int,
) -> tuple[Array, Array]:
    """Does a device's part of `_rank` for one block of queries.

    Returns:
      The rows before the nearest positive, of all queries [B], and the hits of this device's share
      of them [B / n, num_nearest].
    """
    embeddings = shares.taken(queries, asking.rows, axes)
    products = jnp.einsum(
        "gd,qd->gq", asked.embeddings, embeddings, precision=jax.lax.Precision.HIGHEST
    )
    # ||q - g||^2 without the query's own norm, which is the same for its whole gallery.
    distances: Array = asked.squared_norms[:, None] - 2 * products
    num_rows, num_queries = distances.shape
    # By index: an exact duplicate of the query is another image and stays.
    own = asking.own - asked.first
    own = jnp.where(own < 0, num_rows, own)
    distances = distances.at[own, jnp.arange(num_queries)].set(jnp.inf, mode="drop")
    near, rows = selection.nearest(distances, min(num_nearest, num_rows))
    hits = asked.classes[rows] == asking.classes[:, None]
    limit, row = _nearest_positive(distances, asked, asking.classes, num_positives, axes)
    num_before = jax.lax.psum(selection.num_before(distances, limit, row), axes)
    return num_before, _merged(near, hits, num_nearest, axes)


def _nearest_positive(
    distances: Array, asked: Gallery, classes: Array, num_positives: int, axes: tuple[str, ...]
) -> tuple[Array, Array]:
    """Returns the distance and the row of the nearest image of each query's class, both [B].

    The row is counted from this device's first. If there is none, the distance is infinite, and no
    row comes before that one.
    """
    num_rows, num_queries = distances.shape
    place = asked.starts[classes][:, None] + jnp.arange(num_positives)
    exists = place < asked.starts[classes + 1][:, None]
    rows = asked.by_class[jnp.minimum(place, num_rows - 1)]
    found = jnp.where(exists, distances[rows, jnp.arange(num_queries)[:, None]], jnp.inf)
    best = jnp.arange(num_queries), jnp.argmin(found, axis=1)
    limit = jax.lax.pmin(found[best], axes)
    is_nearest = (found[best] == limit) & (limit < jnp.inf)
    row = jnp.where(is_nearest, asked.first + rows[best], jnp.iinfo(jnp.int32).max)
    row = jnp.where(limit < jnp.inf, jax.lax.pmin(row, axes), 0)
    return limit, row - asked.first


def _merged(near: Array, hits: Array, num_nearest: int, axes: tuple[str, ...]) -> Array:
    """Returns which of the nearest of all devices are hits, of an equal part of the queries each.

    Args:
      near: the distances of the nearest on this device, in order, [B, k].
      hits: whether they are of the query's class, [B, k].
      num_nearest: how many are wanted.
      axes: of the devices.
    """
    # The devices' rows in the order of the gallery: of equals, top_k takes the first.
    near, hits = (
        jax.lax.all_to_all(values, axes, split_axis=0, concat_axis=1, tiled=True)
        for values in (near, hits)
    )
    _, best = jax.lax.top_k(-near, num_nearest)
    return jnp.take_along_axis(hits, best, axis=1)
