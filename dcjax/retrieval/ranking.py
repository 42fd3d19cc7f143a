"""Ranks a gallery for many queries as far as retrieval scores ask, exactly, on any devices.

The gallery is sharded over the devices: each searches its own share for the same block of
queries, and the results are merged. No row of all distances is sorted. The place of the nearest
image of the query's class, which recall needs, is a count of the images before it; the few nearest
images lie in few runs of the gallery.

Devices compute in float32 and find bounds of the distances (`rounding`), from the lowest of which
on they list the nearest images. What the bounds leave open, the host settles in float64
(`near_ties`): most often the order of two or three images in a list, else a query anew.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcjax.distributed import sharded_rows
from dcjax.retrieval import galleries, near_ties, rounding, selection
from dcjax.retrieval.galleries import Gallery, Set
from dcjax.retrieval.near_ties import Lists
from dcjax.retrieval.rounding import Bound
from dcjax.retrieval.selection import Widths

# Distances that a device holds unless a block size is given, and numbers of the queries: 16 MiB of
# float32, what a processor's cache may hold; but queries in a multiple of this number, which fill
# its vectors and are worth reading a large gallery for.
_NUMBERS_PER_BLOCK = 2**22
_BLOCK_MULTIPLE = 64
# Blocks that the devices take in one call. They share one piece of memory: with fresh memory for
# each block, its first use costs the operating system up to a fifth of the time of the products.
_BLOCKS_PER_CALL = 16
# Images that are listed beyond those that are asked for, since rounding may hide their order.
_NUM_SPARE = 6
# Listed images that the host settles at a time.
_LISTED_AT_ONCE = 2**22


class _Queries(NamedTuple):
    """Blocks of queries, the same for all devices.

    Attributes:
      rows: which rows of the sharded embeddings they are, [..., B].
      classes: [..., B].
      own: the row of the gallery that is the query itself, negative if none is, [..., B].
    """

    rows: Any
    classes: Any
    own: Any


class Moved(NamedTuple):
    """Embeddings where they are compared, see `rounding`.

    Attributes:
      queries: the rows that hold the queries, moved.
      gallery: the rows that hold the gallery, moved.
      bound: of the rounding of their distances.
      origin: where they have been moved to, float32 [D].
    """

    queries: Array
    gallery: Array
    bound: Bound
    origin: np.ndarray


def rank(
    queries: Set,
    gallery: Set,
    *,
    exclude_self: bool,
    block: int | None = None,
    rows_per_device: int = 0,
    ks: Sequence[int] | None = None,
    moved: Moved | None = None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Ranks the gallery by Euclidean distance to each query, ties by index.

    The result is that of a stable sort of the squared distances that NumPy computes in float64,
    `np.sum((gallery.astype(np.float64) - query) ** 2, axis=1)`, wherever the embeddings lie and on
    any devices.

    A device holds its shares of the embeddings and of the gallery, which are the same unless the
    gallery is a part of them, a moved copy of them; and, of one block of queries, their embeddings
    and their distances to its share.

    Args:
      queries: Q images.
      gallery: G images.
      exclude_self: whether query i is row i of the gallery, which is its last for it.
      block: number of queries that are ranked at a time; None chooses one that fits memory.
      rows_per_device: rows, at least, that a device's share of a part of the embeddings is filled
        up to, for parts of several sizes to be searched by one compiled program.
      ks: of recall at k: how many rows come before the nearest one of the query's class need only
        be known well enough to say whether it is less than each k; None: it is exact.
      moved: what `move` returns, for these images or for more of the same embeddings.

    Yields:
      The queries in order, a block at a time: which they are; how many rows come before the nearest
      one of the query's class (see `ks`; if there is none, no fewer than it can retrieve), [B]; and
      which of the k nearest rows are of its class, with k the most rows of that class that any
      query can retrieve, [B, k]. All processes get the same.
    """
    mesh, num_queries = sharded_rows.mesh_of(gallery.embeddings), len(queries.rows)
    own = np.arange(num_queries) if exclude_self else np.full(num_queries, -1)
    moved = move(queries, gallery) if moved is None else moved
    asking = _Queries(queries.rows, queries.classes, own.astype(np.int32))
    num_classes = 1 + int(max(queries.classes.max(), gallery.classes.max()))
    relevant = np.bincount(gallery.classes, minlength=num_classes)[queries.classes] - exclude_self
    asked, num_positives = galleries.create(
        gallery._replace(embeddings=moved.gallery), queries.classes, num_classes, rows_per_device
    )
    share = len(asked.classes) // mesh.size
    num_nearest = max(1, int(relevant.max()))
    num_listed = min(num_nearest + _NUM_SPARE, len(asked.classes))
    calls = _calls(
        num_queries, max(share, gallery.embeddings.shape[1]), block, mesh.size, num_listed
    )
    outputs = (
        _rank(
            _Queries(*(values[rows] for values in asking)),
            moved.queries,
            asked,
            moved.bound,
            mesh=mesh,
            num_positives=max(1, num_positives),
            num_listed=num_listed,
        )
        for rows in calls
    )
    calls_at_once = max(1, _LISTED_AT_ONCE // (calls[0].size * num_listed))
    first = 0
    for certain, possible, lists in _concatenate(fetch(outputs), calls_at_once):
        numbers = np.arange(first, min(first + len(certain), num_queries))
        # Fewer than there are in the end: others fill up the last call.
        lists = Lists(*(values[: len(numbers)] for values in lists))
        some = queries.part(numbers)
        settled = near_ties.settle_lists(lists, some, gallery, relevant[numbers])
        listed = lists.hits & (np.arange(num_listed) < settled[:, None])
        is_listed = listed.any(axis=1)
        before = np.where(is_listed, listed.argmax(axis=1), certain[: len(numbers)])
        hits = lists.hits[:, :num_nearest]
        is_open = ~is_listed & _differ(certain, possible, ks)[: len(numbers)]
        rest = np.flatnonzero(is_open | (settled < num_nearest))
        anew = near_ties.rank(
            some.part(rest), gallery, own[numbers[rest]], moved.origin, num_nearest
        )
        for which, values, nearest in anew:
            before[rest[which]], hits[rest[which]] = values, nearest
        for start in range(0, len(numbers), calls.shape[-1]):
            part = slice(start, start + calls.shape[-1])
            yield slice(first + start, first + part.stop), before[part], hits[part]
        first += len(numbers)


def move(queries: Set, gallery: Set) -> Moved:
    """Moves embeddings to where they can be compared; all processes call it together."""
    sample = rounding.sampled(gallery.rows)
    sample = sharded_rows.fetch_rows(gallery.embeddings, sample, len(sample))
    is_same = queries.embeddings is gallery.embeddings
    others = [] if is_same else [queries.embeddings]
    frame = rounding.choose_frame(sample, [gallery.embeddings, *others])
    there = rounding.move(gallery.embeddings, frame)
    here = there if is_same else rounding.move(queries.embeddings, frame)
    largest = max(_largest_square(here, queries.rows), _largest_square(there, gallery.rows))
    return Moved(here, there, rounding.bound(frame, largest), frame.origin)


def _largest_square(embeddings: Array, rows: np.ndarray) -> float:
    """Returns the largest squared norm of these rows."""
    is_one = np.zeros(len(embeddings), bool)
    is_one[rows] = True
    is_one_sharded = sharded_rows.shard(is_one, sharded_rows.mesh_of(embeddings))
    return float(jax.device_get(rounding.largest_square(embeddings, is_one_sharded)))


def _differ(certain: np.ndarray, possible: np.ndarray, ks: Sequence[int] | None) -> np.ndarray:
    """Returns for which numbers [Q] it matters, for any of ks, which of the two it is."""
    if ks is None:
        return certain < possible
    limits = np.sort(ks)
    return np.searchsorted(limits, certain, "right") < np.searchsorted(limits, possible, "right")


def _concatenate(outputs: Iterator[Any], size: int) -> Iterator[Any]:
    """Yields the outputs of so many calls at a time, their blocks [N, B, ...] as one, [Q, ...]."""
    while some := list(itertools.islice(outputs, size)):
        yield jax.tree.map(
            lambda *parts: np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]),
            *some,
        )


def _calls(
    num_queries: int, width: int, block: int | None, num_devices: int, num_listed: int = 1
) -> np.ndarray:
    """Returns the queries of each call as [calls, blocks, B], from the first again at the end.

    All calls have one shape. A query takes up to `width` numbers of a device's memory; as many
    queries of a block are merged by each device. A call returns `num_listed` rows for each query.
    """
    block = block or _BLOCK_MULTIPLE * max(1, _NUMBERS_PER_BLOCK // width // _BLOCK_MULTIPLE)
    # Never a single one: XLA for CPUs multiplies a matrix and a vector in another way, in which
    # equal rows may get different distances.
    block = max(2, min(block, num_queries))
    block = math.ceil(block / num_devices) * num_devices
    blocks_per_call = min(_BLOCKS_PER_CALL, max(1, _NUMBERS_PER_BLOCK // (block * num_listed)))
    num_calls = math.ceil(num_queries / (block * blocks_per_call))
    num_blocks = math.ceil(num_queries / (block * num_calls))
    return np.resize(np.arange(num_queries), (num_calls, num_blocks, block))


def fetch(outputs: Iterator[Any]) -> Iterator[Any]:
    """Yields trees of arrays on the host, each after the next one has been dispatched."""
    waiting = next(outputs)
    for output in outputs:
        yield jax.device_get(waiting)
        waiting = output
    yield jax.device_get(waiting)


@partial(jax.jit, static_argnames=("mesh", "num_positives", "num_listed"))
def _rank(
    asking: _Queries,
    queries: Array,
    asked: Gallery,
    bound: Bound,
    *,
    mesh: Mesh,
    num_positives: int,
    num_listed: int,
) -> tuple[Array, Array, Lists]:
    """Ranks blocks of queries [N, B], one after the other, on all devices at once.

    Returns:
      Rows that are certainly, and that are possibly, before the nearest positive, both [N, B], and
      the nearest rows [N, B, num_listed], all replicated, so that every process can read them.
    """
    axes = mesh.axis_names

    def rank_share(
        asking: _Queries, queries: Array, asked: Gallery, bound: Bound
    ) -> tuple[Array, Array, Lists]:
        rank_block = partial(
            _rank_block,
            queries=queries,
            asked=asked._replace(starts=asked.starts[0], first=asked.first[0]),
            bound=bound,
            axes=axes,
            num_positives=num_positives,
            num_listed=num_listed,
        )
        return jax.lax.map(rank_block, asking)

    by_rows, replicated = PartitionSpec(axes), PartitionSpec()
    ranked = jax.shard_map(
        rank_share,
        mesh=mesh,
        in_specs=(replicated, by_rows, by_rows, replicated),
        out_specs=(replicated, replicated, PartitionSpec(None, axes)),
    )
    outputs = ranked(asking, queries, asked, bound)
    return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, replicated))


def _rank_block(
    asking: _Queries,
    *,
    queries: Array,
    asked: Gallery,
    bound: Bound,
    axes: tuple[str, ...],
    num_positives: int,
    num_listed: int,
) -> tuple[Array, Array, Lists]:
    """Does a device's part of `_rank` for one block of queries.

    Returns:
      The rows before the nearest positive, certainly and possibly, of all queries [B], and the
      lists of this device's share of them [B / n, num_listed].
    """
    embeddings = sharded_rows.all_gather_rows(queries, asking.rows, axes)
    products = jnp.einsum(
        "gd,qd->gq", asked.embeddings, embeddings, precision=jax.lax.Precision.HIGHEST
    )
    widths = _widths(embeddings, asked.squared_norms, bound)
    # ||q - g||^2 without the query's own norm, which is the same for its whole gallery.
    lower: Array = asked.squared_norms[:, None] - 2 * products - widths.of(slice(None)) / 2
    num_rows, num_queries = lower.shape
    # By index: an exact duplicate of the query is another image and stays.
    own = asking.own - asked.first
    own = jnp.where(own < 0, num_rows, own)
    lower = lower.at[own, jnp.arange(num_queries)].set(jnp.inf, mode="drop")
    near, rows = selection.nearest(lower, min(num_listed, num_rows))
    hits = (asked.classes[rows] == asking.classes[:, None]) & (near < jnp.inf)
    lists = Lists(near, near + widths.of(rows.T).T, asked.first + rows, hits)
    num_before = _num_before(lower, widths, asked, asking.classes, num_positives, axes)
    return *num_before, _merge(lists, num_listed, axes)


def _widths(queries: Array, squared_norms: Array, bound: Bound) -> Widths:
    """Returns the widths of the bounds of distances, twice those of their errors (`rounding`)."""
    of_queries = jnp.linalg.norm(queries, axis=1) + bound.surplus
    # Of rows that are not searched there is nothing to bound.
    norms = jnp.sqrt(jnp.where(squared_norms < jnp.inf, squared_norms, 0)) + bound.surplus
    return Widths(
        norms,
        square=2 * bound.relative,
        slope=4 * bound.relative * of_queries,
        offset=2 * bound.reference * jnp.square(of_queries),
    )


def _num_before(
    lower: Array,
    widths: Widths,
    asked: Gallery,
    classes: Array,
    num_positives: int,
    axes: tuple[str, ...],
) -> tuple[Array, Array]:
    """Counts the rows before the nearest image of each query's class, certainly and possibly, [B].

    If there is none, its distance is infinite, and no row comes before that one.
    """
    num_rows, num_queries = lower.shape
    place = asked.starts[classes][:, None] + jnp.arange(num_positives)
    exists = place < asked.starts[classes + 1][:, None]
    rows = asked.by_class[jnp.minimum(place, num_rows - 1)]
    found = jnp.where(exists, lower[rows, jnp.arange(num_queries)[:, None]], jnp.inf)
    best = jnp.arange(num_queries), jnp.argmin(found, axis=1)
    upper = found + widths.of(rows.T).T
    limits = jax.lax.pmin((found[best], upper.min(axis=1)), axes)
    is_nearest = (found[best] == limits[0]) & (limits[0] < jnp.inf)
    row = jnp.where(is_nearest, asked.first + rows[best], jnp.iinfo(jnp.int32).max)
    row = jnp.where(limits[0] < jnp.inf, jax.lax.pmin(row, axes), 0)
    certain, possible = selection.num_before(lower, widths, limits, row - asked.first)
    # Other images of the class are not before the nearest one, whichever that is.
    possible -= jnp.sum(found < limits[1][:, None], axis=1)
    return jax.lax.psum((certain, possible), axes)


def _merge(lists: Lists, num_listed: int, axes: tuple[str, ...]) -> Lists:
    """Returns the nearest rows of all devices, for an equal part of the queries each.

    Args:
      lists: the nearest on this device, in order, [B, k].
      num_listed: how many are wanted.
      axes: of the devices.
    """
    # The devices' rows in the order of the gallery: of equals, top_k takes the first.
    lists = jax.lax.all_to_all(lists, axes, split_axis=0, concat_axis=1, tiled=True)
    _, best = jax.lax.top_k(-lists.lower, num_listed)
    return Lists(*(jnp.take_along_axis(values, best, axis=1) for values in lists))
