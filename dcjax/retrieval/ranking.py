"""Ranks a gallery for many queries, exactly, as far as retrieval scores need it, on any devices.

The gallery is sharded over the devices: each searches its own share for the same block of
queries, and the results are merged. The distances [Q, G] are never sorted. The rank
of the nearest image of the query's class, which recall needs, is a count of the images before it;
the k nearest images are found in the runs of rows with the smallest minima (`selection`).

Devices compute in float32, with bounds of the rounding errors (`rounding`), and list the images
with the smallest lower bounds. Where the bounds leave the order open, the host computes in float64
(`near_ties`): most often for two or three images of a list, rarely for all images of a query.
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
from dcjax.retrieval.near_ties import Lists, Places
from dcjax.retrieval.rounding import Bound
from dcjax.retrieval.selection import Intervals, Widths

# Distances of a block, and numbers of its queries, unless a block size is given: 16 MiB of float32,
# which a processor's cache may hold. The number of queries is a multiple of this one, to fill
# vector registers and to reuse each row of the gallery that is read.
_NUMBERS_PER_BLOCK = 2**22
_BLOCK_MULTIPLE = 64
# Blocks of one compiled call, which reuse the same memory: fresh memory for each block costs page
# faults, up to a fifth of the time of the products.
_BLOCKS_PER_CALL = 16
# Images that are listed in excess of k, since rounding may hide their order.
_NUM_SPARE = 6
# Listed images that the host processes at a time.
_LISTED_AT_ONCE = 2**22


class _Queries(NamedTuple):
    """Blocks of queries, the same for all devices.

    Attributes:
      rows: which rows of the sharded embeddings they are, [..., B].
      classes: [..., B].
      self_row: the row of the gallery that is the query itself, negative if none is, [..., B].
    """

    rows: Any
    classes: Any
    self_row: Any


class Moved(NamedTuple):
    """Embeddings in the frame in which they are compared, see `rounding`.

    Attributes:
      queries: the rows that hold the queries, moved.
      gallery: the rows that hold the gallery, moved.
      bound: of the rounding errors of their distances.
      origin: of the frame, float32 [D].
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

    A device holds its share of the embeddings and a moved copy of it, another copy if the gallery
    is a part of them only, and of one block of queries their embeddings and their distances to its
    share.

    Args:
      queries: Q images.
      gallery: G images.
      exclude_self: whether query i is row i of the gallery, which is then left out for it.
      block: number of queries that are ranked at a time; None chooses one that fits memory.
      rows_per_device: if the gallery is a part of the embeddings, the share of a device is padded
        to this number of rows at least, so that one compiled program serves parts of several sizes.
      ks: of recall at k. The ranks below are then exact only as far as to tell whether they are
        less than each k; None: they are exact.
      moved: what `move` returns, for these images or for more of the same embeddings.

    Yields:
      The queries in order, a block at a time: which they are; the rank of the nearest row of the
      query's class, from 0 (see `ks`; if there is none, at least the number of rows that it can
      retrieve), [B]; and which of the k nearest rows are of its class, with k the largest number of
      rows of one class that a query can retrieve, [B, k]. All processes get the same.
    """
    mesh, num_queries = sharded_rows.mesh_of(gallery.embeddings), len(queries.rows)
    self_row = np.arange(num_queries) if exclude_self else np.full(num_queries, -1)
    moved = move(queries, gallery) if moved is None else moved
    blocks = _Queries(queries.rows, queries.classes, self_row.astype(np.int32))
    num_classes = 1 + int(max(queries.classes.max(), gallery.classes.max()))
    relevant = np.bincount(gallery.classes, minlength=num_classes)[queries.classes] - exclude_self
    searched, num_positives = galleries.create(
        gallery._replace(embeddings=moved.gallery), queries.classes, num_classes, rows_per_device
    )
    share = len(searched.classes) // mesh.size
    num_nearest = max(1, int(relevant.max()))
    num_listed = min(num_nearest + _NUM_SPARE, len(searched.classes))
    calls = _calls(
        num_queries, max(share, gallery.embeddings.shape[1]), block, mesh.size, num_listed
    )
    outputs = (
        _rank(
            _Queries(*(values[rows] for values in blocks)),
            moved.queries,
            searched,
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
        # The last call is padded with queries that have been ranked already.
        lists = Lists(*(values[: len(numbers)] for values in lists))
        some = queries.part(numbers)
        num_sure = near_ties.settle_lists(lists, some, gallery, relevant[numbers])
        # The rank is the place of the first sure hit of a list, or a count of the devices. A query
        # is ranked again if that count is not sure enough, or too few hits of its list are sure.
        sure_hits = lists.hits & (np.arange(num_listed) < num_sure[:, None])
        is_listed = sure_hits.any(axis=1)
        before = np.where(is_listed, sure_hits.argmax(axis=1), certain[: len(numbers)])
        hits = lists.hits[:, :num_nearest]
        is_open = ~is_listed & _differ(certain, possible, ks)[: len(numbers)]
        rest = np.flatnonzero(is_open | (num_sure < num_nearest))
        ranked_again = near_ties.rank(
            some.part(rest), gallery, self_row[numbers[rest]], moved.origin, num_nearest
        )
        for which, values, nearest in ranked_again:
            before[rest[which]], hits[rest[which]] = values, nearest
        for start in range(0, len(numbers), calls.shape[-1]):
            part = slice(start, start + calls.shape[-1])
            yield slice(first + start, first + part.stop), before[part], hits[part]
        first += len(numbers)


def rank_all(queries: Set, gallery: Set, *, exclude_self: bool) -> Iterator[tuple[slice, Places]]:
    """Ranks the whole gallery for each query, in the order of `rank`.

    A far image has many others within the rounding errors of float32, so that hosts rank in
    float64. They hold the distances of a block of queries to the gallery.

    Args:
      queries: Q images.
      gallery: G images; where both have cameras, images of a query's class and camera are left out
        for it.
      exclude_self: as in `rank`.

    Yields:
      The queries in order, a block at a time: which they are, and the places of all images of
      their classes in their rankings. All processes get the same.
    """
    self_row = np.arange(len(queries.rows)) if exclude_self else np.full(len(queries.rows), -1)
    origin = _choose_frame(queries, gallery).origin
    return near_ties.place_hits(queries, gallery, self_row, origin)


def move(queries: Set, gallery: Set) -> Moved:
    """Moves embeddings to a frame in which they can be compared; all processes call it together."""
    frame = _choose_frame(queries, gallery)
    is_same = queries.embeddings is gallery.embeddings
    moved_gallery = rounding.move(gallery.embeddings, frame)
    moved_queries = moved_gallery if is_same else rounding.move(queries.embeddings, frame)
    largest = max(
        _largest_square(moved_queries, queries.rows), _largest_square(moved_gallery, gallery.rows)
    )
    return Moved(moved_queries, moved_gallery, rounding.bound(frame, largest), frame.origin)


def _choose_frame(queries: Set, gallery: Set) -> rounding.Frame:
    sample = rounding.sample_rows(gallery.rows)
    sample = sharded_rows.fetch_rows(gallery.embeddings, sample, len(sample))
    is_same = queries.embeddings is gallery.embeddings
    others = [] if is_same else [queries.embeddings]
    return rounding.choose_frame(sample, [gallery.embeddings, *others])


def _largest_square(embeddings: Array, rows: np.ndarray) -> float:
    """Returns the largest squared norm of these rows."""
    is_one = np.zeros(len(embeddings), bool)
    is_one[rows] = True
    is_one_sharded = sharded_rows.shard(is_one, sharded_rows.mesh_of(embeddings))
    return float(jax.device_get(rounding.largest_square(embeddings, is_one_sharded)))


def _differ(certain: np.ndarray, possible: np.ndarray, ks: Sequence[int] | None) -> np.ndarray:
    """Returns for which queries [Q] the two counts differ in whether they are below any of ks."""
    if ks is None:
        return certain < possible
    limits = np.sort(ks)
    return np.searchsorted(limits, certain, "right") < np.searchsorted(limits, possible, "right")


def _concatenate(outputs: Iterator[Any], size: int) -> Iterator[Any]:
    """Yields the outputs of `size` calls at a time, blocks [N, B, ...] concatenated to [Q, ...]."""
    while some := list(itertools.islice(outputs, size)):
        yield jax.tree.map(
            lambda *parts: np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts]),
            *some,
        )


def _calls(
    num_queries: int, width: int, block: int | None, num_devices: int, num_listed: int = 1
) -> np.ndarray:
    """Returns the queries of each call, int [calls, blocks, B]; the last call repeats the first.

    All calls have one shape. A query takes up to `width` numbers of a device's memory. Each device
    merges the lists of an equal part of a block. A call returns `num_listed` rows for each query.
    """
    block = block or _BLOCK_MULTIPLE * max(1, _NUMBERS_PER_BLOCK // width // _BLOCK_MULTIPLE)
    # At least two: XLA for CPUs has another kernel for a matrix and a vector, in which equal rows
    # may get different distances.
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
    block_queries: _Queries,
    queries: Array,
    searched: Gallery,
    bound: Bound,
    *,
    mesh: Mesh,
    num_positives: int,
    num_listed: int,
) -> tuple[Array, Array, Lists]:
    """Ranks blocks of queries [N, B], one after the other, each on all devices.

    Returns:
      The numbers of rows that are certainly, and possibly, before the nearest positive, [N, B], and
      the nearest rows [N, B, num_listed], all replicated, so that every process can read them.
    """
    axes = mesh.axis_names

    def rank_share(
        block_queries: _Queries, queries: Array, searched: Gallery, bound: Bound
    ) -> tuple[Array, Array, Lists]:
        rank_block = partial(
            _rank_block,
            queries=queries,
            searched=searched._replace(starts=searched.starts[0], first=searched.first[0]),
            bound=bound,
            axes=axes,
            num_positives=num_positives,
            num_listed=num_listed,
        )
        return jax.lax.map(rank_block, block_queries)

    by_rows, replicated = PartitionSpec(axes), PartitionSpec()
    ranked = jax.shard_map(
        rank_share,
        mesh=mesh,
        in_specs=(replicated, by_rows, by_rows, replicated),
        out_specs=(replicated, replicated, PartitionSpec(None, axes)),
    )
    outputs = ranked(block_queries, queries, searched, bound)
    return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, replicated))


def _rank_block(
    block_queries: _Queries,
    *,
    queries: Array,
    searched: Gallery,
    bound: Bound,
    axes: tuple[str, ...],
    num_positives: int,
    num_listed: int,
) -> tuple[Array, Array, Lists]:
    """Computes one block of `_rank` within `jax.shard_map`.

    Returns:
      The numbers of rows that are certainly, and possibly, before the nearest positive of all
      queries [B], and the lists of this device's share of the queries [B / n, num_listed].
    """
    embeddings = sharded_rows.all_gather_rows(queries, block_queries.rows, axes)
    products = jnp.einsum(
        "gd,qd->gq", searched.embeddings, embeddings, precision=jax.lax.Precision.HIGHEST
    )
    num_rows, num_queries = products.shape
    # The query is excluded by index: an exact duplicate of it is another image.
    self_row = block_queries.self_row - searched.first
    self_row = jnp.where(self_row < 0, num_rows, self_row)
    products = products.at[self_row, jnp.arange(num_queries)].set(-jnp.inf, mode="drop")
    widths = _widths(embeddings, searched.squared_norms, bound)
    intervals = Intervals(products, searched.squared_norms, widths)
    lower = intervals.lower(slice(None))
    near, rows = selection.nearest(lower, min(num_listed, num_rows), intervals.lower)
    hits = (searched.classes[rows] == block_queries.classes[:, None]) & (near < jnp.inf)
    lists = Lists(near, near + widths.of(rows.T).T, searched.first + rows, hits)
    num_before = _num_before(intervals, searched, block_queries.classes, num_positives, axes)
    return *num_before, _merge(lists, num_listed, axes)


def _widths(queries: Array, squared_norms: Array, bound: Bound) -> Widths:
    """Returns the widths of the intervals of distances, twice the bounds of their errors."""
    of_queries = jnp.linalg.norm(queries, axis=1) + bound.surplus
    # Rows that are not searched have infinite norms.
    norms = jnp.sqrt(jnp.where(squared_norms < jnp.inf, squared_norms, 0)) + bound.surplus
    return Widths(
        norms,
        square=2 * bound.relative,
        slope=4 * bound.relative * of_queries,
        offset=2 * bound.reference * jnp.square(of_queries),
    )


def _num_before(
    intervals: Intervals,
    searched: Gallery,
    classes: Array,
    num_positives: int,
    axes: tuple[str, ...],
) -> tuple[Array, Array]:
    """Counts the rows certainly, and possibly, before the nearest image of each query's class, [B].

    If a query's class has no image, both counts are of all rows that are searched.
    """
    num_rows = len(intervals.products)
    place = searched.starts[classes][:, None] + jnp.arange(num_positives)
    exists = place < searched.starts[classes + 1][:, None]
    rows = searched.by_class[jnp.minimum(place, num_rows - 1)]
    # Bounds of the distances to all positives, [B, num_positives], and of the nearest, over
    # devices.
    positive_lower = jnp.where(exists, intervals.lower(rows.T).T, jnp.inf)
    positive_width = intervals.widths.of(rows.T).T
    limits = positive_lower.min(axis=1), (positive_lower + positive_width).min(axis=1)
    limits = jax.lax.pmin(limits, axes)
    is_nearest = (positive_lower == limits[0][:, None]) & (positive_lower < jnp.inf)
    row = jnp.where(is_nearest, searched.first + rows, jnp.iinfo(jnp.int32).max).min(axis=1)
    row = jnp.where(limits[0] < jnp.inf, jax.lax.pmin(row, axes), 0)
    certain, possible = selection.num_before(intervals, limits, row - searched.first)
    # Other positives do not count: none of them is before the nearest one. An eighth of the width
    # is more than lower bounds differ by if XLA rounds them otherwise in the count (`rounding`).
    possible -= jnp.sum(positive_lower + positive_width / 8 < limits[1][:, None], axis=1)
    return jax.lax.psum((certain, possible), axes)


def _merge(lists: Lists, num_listed: int, axes: tuple[str, ...]) -> Lists:
    """Merges the lists of all devices; each device does so for an equal part of the queries.

    Args:
      lists: the nearest on this device, in order, [B, k].
      num_listed: how many are wanted.
      axes: of the devices.
    """
    # The devices' rows come in the order of the gallery; of equal ones, top_k takes the first.
    lists = jax.lax.all_to_all(lists, axes, split_axis=0, concat_axis=1, tiled=True)
    _, best = jax.lax.top_k(-lists.lower, num_listed)
    return Lists(*(jnp.take_along_axis(values, best, axis=1) for values in lists))
