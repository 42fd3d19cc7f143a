"""Orders images in float64, on the host, where the bounds of float32 leave their order open.

Scores depend only on which of the nearest images are of the query's class (hits), so the order of
two hits, or of two misses, does not matter. Images sorted by their lower bounds fall into groups: a
new group begins where a lower bound is no smaller than all upper bounds before it, so that all
further images are farther. The order is open only within groups of hits and misses. Their images
are sorted by the sum of squared differences as NumPy computes it in float64, equal ones by index.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from dcjax.distributed import sharded_rows
from dcjax.retrieval.galleries import Set

# Distances, and coordinates, that the host holds at a time: 16 and 8 MiB of float64.
_DISTANCES_PER_BLOCK = 2**21
_NUMBERS_PER_BLOCK = 2**20


class Lists(NamedTuple):
    """The K nearest images to each query, in the order of their lower bounds and then indices.

    Attributes:
      lower: lower bounds of distances, infinite for padding, [Q, K].
      upper: upper bounds.
      rows: of the gallery.
      hits: whether they are of the query's class.
    """

    lower: Any
    upper: Any
    rows: Any
    hits: Any


class Places(NamedTuple):
    """Where the images of the queries' own classes (hits) stand in their rankings of a gallery.

    Attributes:
      queries: the number of each one's query, ascending, [n].
      places: its place in that ranking, from 0, ascending for each query, [n].
    """

    queries: np.ndarray
    places: np.ndarray


# From numbers of queries [n] and rows of the gallery [n] to their squared distances, float64 [n].
Distances = Callable[[np.ndarray, np.ndarray], np.ndarray]


def settle(lists: Lists, num_positives: np.ndarray, distances: Distances) -> np.ndarray:
    """Sorts the hits of lists, in place, as the exact distances are sorted.

    Args:
      lists: of Q queries.
      num_positives: in the gallery, of each query, [Q].
      distances: computes those of pairs.

    Returns:
      How many leading entries of `hits` are sure in each list, [Q]. Those of its last group are not
      if images that are not listed may belong to that group.
    """
    lower, upper, rows, hits = lists
    num_listed = lower.shape[1]
    farthest = np.maximum.accumulate(upper, axis=1)
    begins = np.ones(lower.shape, bool)
    begins[:, 1:] = lower[:, 1:] >= farthest[:, :-1]
    # Groups, by places in the flattened lists. Each list begins with a new group.
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=begins.size)
    num_hits = np.add.reduceat(hits.ravel(), starts, dtype=np.int64)
    is_mixed = (num_hits > 0) & (num_hits < sizes)
    is_open = np.flatnonzero(np.repeat(is_mixed, sizes))
    # Images are sorted within the places of their group.
    group = np.repeat(np.flatnonzero(is_mixed), sizes[is_mixed])
    index = rows.take(is_open)
    order = np.lexsort((index, distances(is_open // num_listed, index), group))
    hits.put(is_open, hits.take(is_open[order]))
    # The last group is closed if it ends before all images that are not listed, whose lower bounds
    # are no smaller than the last one of the list.
    last = np.append(np.flatnonzero(starts % num_listed == 0)[1:], len(starts)) - 1
    is_closed = farthest[:, -1] <= lower[:, -1]
    # It is also sure if it has no hit and all positives are listed: the rest are misses.
    is_closed |= (num_hits[last] == 0) & (hits.sum(axis=1) == num_positives)
    return np.where(is_closed, num_listed, starts[last] % num_listed)


def settle_lists(lists: Lists, queries: Set, gallery: Set, num_positives: np.ndarray) -> np.ndarray:
    """Applies `settle` to lists of the queries; all processes call it together."""
    size = _rows_per_block(gallery)

    def distances(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        squared = np.empty(len(rows))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            x = sharded_rows.fetch_rows(gallery.embeddings, gallery.rows[rows[part]], size)
            y = sharded_rows.fetch_rows(queries.embeddings, queries.rows[numbers[part]], size)
            squared[part] = squared_distances(x, y)
        return squared

    return settle(lists, num_positives, distances)


def rank(
    queries: Set, gallery: Set, self_row: np.ndarray, origin: np.ndarray, num_nearest: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Ranks the gallery for a few queries in float64, all of whose distances are sorted.

    All processes call this together. The gallery is read in blocks, twice for each block of
    queries: for bounds, as on devices, and for the distances whose order they leave open. Where
    both sets have cameras, images of a query's class and camera are left out for it.

    Args:
      queries: Q images.
      gallery: G images.
      self_row: the row of the gallery that is the query itself, negative if none is, [Q].
      origin: of the frame in which distances are bounded, float32 [D].
      num_nearest: k.

    Yields:
      The queries, a block at a time: which they are; the rank of the nearest row of the query's
      class, from 0, or G if there is none, [B]; and which of the k nearest are of its class, [B,
      k].
    """
    size = max(1, _DISTANCES_PER_BLOCK // len(gallery.rows))
    for start in range(0, len(queries.rows), size):
        block = queries.part(np.arange(start, min(start + size, len(queries.rows))))
        x = np.concatenate([part for _, part in _blocks(block)])
        rows = self_row[start : start + size]
        lists = _candidates(x, block, gallery, rows, origin, num_nearest)
        settle(lists, np.zeros(len(x)), partial(_distances, x, gallery))
        hits = lists.hits
        before = np.where(hits.any(axis=1), hits.argmax(axis=1), len(gallery.rows))
        yield slice(start, start + len(x)), before, hits[:, :num_nearest]


def place_hits(
    queries: Set, gallery: Set, self_row: np.ndarray, origin: np.ndarray
) -> Iterator[tuple[slice, Places]]:
    """Finds the places of all images of the queries' classes, each in the ranking of a gallery.

    A place is the number of images before: two searches in the sorted distances in float64 bound
    it. Where the bounds differ, as with equal images, the query is ranked by `rank`. All processes
    call this together. The arguments are those of `rank`.

    Yields:
      The queries, a block at a time: which they are, and the places, with the queries of the block
      counted from 0.
    """
    size = max(1, _DISTANCES_PER_BLOCK // len(gallery.rows))
    for start in range(0, len(queries.rows), size):
        numbers = np.arange(start, min(start + size, len(queries.rows)))
        block = queries.part(numbers)
        x = np.concatenate([part for _, part in _blocks(block)])
        distances, rounding, hits = _distances_and_hits(
            x, block, gallery, self_row[numbers], origin
        )
        width = 2 * rounding.max(axis=1)
        ordered = np.sort(distances, axis=1)
        places: list[np.ndarray] = []
        is_open = np.zeros(len(x), bool)
        for query, of_one in enumerate(ordered):
            found = np.sort(distances[query, hits[query]])
            before = np.searchsorted(of_one, found - width[query])
            is_open[query] = np.any(
                np.searchsorted(of_one, found + width[query], "right") > before + 1
            )
            places.append(before)
        if jax.process_count() > 1:  # which rank the others together
            is_open = np.asarray(multihost_utils.broadcast_one_to_all(is_open), bool)
        rest = np.flatnonzero(is_open)
        ranked = rank(block.part(rest), gallery, self_row[numbers[rest]], origin, len(gallery.rows))
        for which, _, sorted_hits in ranked:
            for query, of_one in zip(rest[which], sorted_hits, strict=True):
                places[query] = np.flatnonzero(of_one)
        counts = [len(found) for found in places]
        yield (
            slice(start, start + len(x)),
            Places(np.repeat(np.arange(len(x)), counts), np.concatenate(places)),
        )


def _candidates(
    x: np.ndarray,
    queries: Set,
    gallery: Set,
    self_row: np.ndarray,
    origin: np.ndarray,
    num_nearest: int,
) -> Lists:
    """Lists images that may be among the k nearest, or before the nearest of the query's class."""
    distances, rounding, hits = _distances_and_hits(x, queries, gallery, self_row, origin)
    lower, upper = distances - rounding, distances + rounding
    nearest_hit = np.min(upper, axis=1, where=hits, initial=np.inf)
    farthest = np.partition(upper, num_nearest - 1, axis=1)[:, num_nearest - 1]
    farthest = np.where(hits.any(axis=1), np.maximum(nearest_hit, farthest), farthest)
    num_listed = np.max(np.sum(lower <= farthest[:, None], axis=1))
    rows = np.argpartition(lower, num_listed - 1, axis=1)[:, :num_listed]
    # Images of equal bounds are sorted by index, as equal distances are.
    rows.sort(axis=1)
    order = np.argsort(np.take_along_axis(lower, rows, axis=1), axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    return Lists(
        np.take_along_axis(lower, rows, axis=1),
        np.take_along_axis(upper, rows, axis=1),
        rows,
        np.take_along_axis(hits, rows, axis=1),
    )


def _distances_and_hits(
    x: np.ndarray, queries: Set, gallery: Set, self_row: np.ndarray, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns distances ||q - g||^2 - ||q||^2 in float64, and which images are to be found.

    Args:
      x: the queries' embeddings [B, D].
      queries: of the block.
      gallery: G images.
      self_row: as in `rank`.
      origin: as in `rank`.

    Returns:
      The distances, infinite for images that are left out; bounds of their rounding errors; whether
      they are of the query's class and not left out; each [B, G].
    """
    x = x.astype(np.float64) - origin
    norms = np.linalg.norm(x, axis=1)
    # The bound of `rounding` with u = 2^-53, for the errors of these distances and of the reference
    # together, relative to (|q| + |g|)^2. No square of a float32 underflows in float64.
    relative = 2 * (1.1 * x.shape[1] + 16) * 2**-53
    distances, rounding = np.empty((2, len(x), len(gallery.rows)))
    for part, block in _blocks(gallery):
        y = block.astype(np.float64) - origin
        squares = np.einsum("gd,gd->g", y, y)
        distances[:, part] = squares - 2 * x @ y.T
        rounding[:, part] = relative * np.square(np.sqrt(squares) + norms[:, None])
    itself = np.flatnonzero(self_row >= 0)
    distances[itself, self_row[itself]] = np.inf
    hits = queries.classes[:, None] == gallery.classes
    if queries.cameras is not None and gallery.cameras is not None:
        distances[hits & (queries.cameras[:, None] == gallery.cameras)] = np.inf
    hits &= distances < np.inf
    return distances, rounding, hits


def _distances(x: np.ndarray, gallery: Set, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the squared distances [n] of queries x[numbers] and rows of the gallery [n].

    It always reads the whole gallery, so that all processes make the same transfers even if their
    bounds differ in a bit.
    """
    squared = np.empty(len(rows))
    order = np.argsort(rows, kind="stable")
    for part, block in _blocks(gallery):
        first, last = np.searchsorted(rows, (part.start, part.stop), sorter=order)
        for start in range(first, last, len(block)):
            pairs = order[start : min(start + len(block), last)]
            squared[pairs] = squared_distances(block[rows[pairs] - part.start], x[numbers[pairs]])
    return squared


def _blocks(images: Set) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the embeddings of images on the host, float32 [B, D], block by block."""
    size = _rows_per_block(images)
    for start in range(0, len(images.rows), size):
        block = sharded_rows.fetch_rows(images.embeddings, images.rows[start : start + size], size)
        yield slice(start, start + len(block)), block


def _rows_per_block(images: Set) -> int:
    return max(1, _NUMBERS_PER_BLOCK // images.embeddings.shape[1])


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the sums [n] of squared differences of rows float32 [n, D], in float64."""
    difference = x.astype(np.float64)
    difference -= y
    return np.sum(np.square(difference, out=difference), axis=1)
