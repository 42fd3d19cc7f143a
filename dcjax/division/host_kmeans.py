"""K-means and the agreement of two labellings (Sanakoyeu et al., CVPR 2019, sections 3 and 4).

K-means is Lloyd's, exactly, but leaves out distances that cannot change a label. In NumPy: the
shapes differ from iteration to iteration, and each would have to be compiled.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from dcjax.core import streams
from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole

# Points and centroids whose distances one thread holds at a time: 8 MiB of float32.
_POINTS_PER_BLOCK, _CENTROIDS_PER_BLOCK = 1024, 2048
# Reading a point costs about as much as its distances to so many centroids.
_COST_OF_A_POINT = 32
# Rounding, relative to what is added: so much times the square root of how many there are.
_ROUNDING = 2e-7
# Exponents of numbers whose squares float32 holds, many of them added up and their last bits too.
_SQUARABLE = -32, 50
NUM_ITERATIONS = 100  # at most, as in the papers' code
_BLAS = threading.Lock()  # which is limited to one thread for the whole process


class _Centroids(NamedTuple):
    """Centroids c as distances need them: |x - c|^2 = |x - o|^2 + slope . (x - o) + offset.

    The origin o lies amid the points, so that far from zero the terms do not cancel one another.

    Attributes:
      slope: float32 [K, F], -2 (c - o).
      offset: float32 [K], |c - o|^2.
    """

    slope: np.ndarray
    offset: np.ndarray

    def pick(self, which: np.ndarray) -> "_Centroids":
        """Returns some of the centroids."""
        return _Centroids(self.slope[which], self.offset[which])


class _Nearest(NamedTuple):
    """The nearest of some centroids to each point [n], and bounds that rounding cannot break.

    Attributes:
      label: number of the nearest centroid, ties to the lower number.
      at_most: upper bound of its distance.
      at_least: lower bound of its distance, when it was looked for.
      others: lower bound of the distances of all other centroids.
    """

    label: np.ndarray
    at_most: np.ndarray
    at_least: np.ndarray
    others: np.ndarray


Search = Callable[[np.ndarray | None, _Centroids], _Nearest]


def kmeans(
    x: np.ndarray, k: int, *, seed: int | streams.Key, num_iterations: int = NUM_ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Divides points into k clusters by Lloyd's algorithm, started at k random points.

    The same input gives the same bits on every run on a machine, and the same input times a power
    of two the same labels. Memory is twice that of the points, which are moved to an origin amid
    them once; three times for points so small or large that their squares would underflow or
    overflow.

    Args:
      x: points [N, F], used as float32.
      k: number of clusters, at most N.
      seed: chooses the k points that the centroids start from: a whole number, or the key of a
        stream that is not that of K-means called by itself.
      num_iterations: largest number of iterations; fewer run only if no label changes any more.

    Returns:
      labels int32 [N] and centroids float32 [k, F].
    """
    with np.errstate(over="ignore"):  # said below
        x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2:
        raise InputError(f"x must be points of shape [N, F], got shape {x.shape}.")
    check_sizes(k, num_iterations, num_points=len(x))
    if not np.all(np.isfinite(x)):
        raise InputError("x must be finite as float32, got NaN or infinity.")
    start = streams.generator(*streams.kmeans_key(seed)).choice(len(x), k, replace=False)
    return lloyd(x, x[start], num_iterations=num_iterations)


def check_sizes(k: int, num_iterations: int, *, num_points: int) -> None:
    """Raises InputError unless so many points can be divided into k clusters."""
    require_whole("k", k, 1)
    if k > num_points:
        raise InputError(f"Require 1 <= k <= number of points, got k={k} and {num_points} points.")
    require_whole("num_iterations", num_iterations, 0)


def lloyd(
    x: np.ndarray, start: np.ndarray, *, num_iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moves centroids to the means of the points nearest to them until no label changes.

    A cluster that has lost all its points takes the point farthest from its own centroid.

    Args:
      x: points float32 [N, F].
      start: the first centroids float32 [k, F].
      num_iterations: how often the centroids move at most.

    Returns:
      labels int32 [N], the nearest centroids, and centroids float32 [k, F].
    """
    largest = max(x.max(), -x.min(), start.max(), -start.min())
    exponent = scale_exponent(float(largest))
    if exponent:
        points = (np.ldexp(values, exponent) for values in (x, start))
        labels, centroids = lloyd(*points, num_iterations=num_iterations)
        return labels, np.ldexp(centroids, -exponent)
    # Every thread works on points of its own: the bits do not depend on how many there are or on
    # which is first, as they might if BLAS split one product among several.
    one_thread = partial(threadpool_limits, limits=1, user_api="blas")
    with _BLAS, one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        origin = start.mean(axis=0)
        search = _searcher(x, origin, pool.map)
        centroids, at = start.copy(), _prepare(start, origin)
        known = search(None, at)
        counted = np.full(len(x), -1)
        sums, steps = np.zeros(start.shape), np.zeros(len(start))
        for _ in range(num_iterations):
            _fill_empty(x, known, centroids)
            changed = _add(sums, x, counted, known.label)
            counted = known.label.copy()
            sizes = np.bincount(counted, minlength=len(start))
            changed = changed[sizes[changed] > 0]
            means = (sums[changed] / sizes[changed, None]).astype(np.float32)
            steps[:] = 0
            steps[changed] = np.linalg.norm(means - centroids[changed], axis=1)
            centroids[changed] = means
            at.slope[changed], at.offset[changed] = _prepare(means, origin)
            _assign(search, at, steps, known)
            if np.array_equal(known.label, counted):
                break
    return known.label.astype(np.int32), centroids


def scale_exponent(largest: float) -> int:
    """Returns which power of two brings points near 1, 0 if they can be squared as they are.

    Args:
      largest: absolute value of their coordinates.
    """
    _, exponent = math.frexp(largest)
    low, high = _SQUARABLE
    return 0 if largest == 0 or low <= exponent <= high else min(max(-exponent, -126), 126)


def nmi(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Returns the normalised mutual information 2 I(Y; C) / (H(Y) + H(C)) of two labellings [N]."""
    from sklearn.metrics import normalized_mutual_info_score  # takes seconds, as configs need not

    labels = require_integers("labels", labels)
    clusters = require_integers("clusters", clusters, len(labels))
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))


def _assign(search: Search, at: _Centroids, steps: np.ndarray, known: _Nearest) -> None:
    """Corrects what is known of all points [N] after the k centroids have moved by steps [k].

    Either of two ways leaves few points to be compared with all centroids. The first costs nothing
    before that, and is good when all centroids move a little (few clusters): a point's bounds give
    way by what its own and the farthest other centroid moved, and still part. The second compares
    all points with the centroids that moved, and is good when most stand still (many clusters):
    what stood still is no nearer than it was.
    """
    moved = np.flatnonzero(steps)
    drop = _largest_other(steps)[known.label]
    own_moved = steps[known.label] > 0
    known.at_most[:] = (known.at_most + steps[known.label]) * (1 + _ROUNDING)
    others = (known.others - drop) * (1 - _ROUNDING)
    rest = np.flatnonzero(known.at_most >= others)
    cost = len(rest) * (len(steps) + _COST_OF_A_POINT)
    if cost <= len(drop) * (len(moved) + _COST_OF_A_POINT):
        known.others[:] = others
    else:
        found = search(None, at.pick(moved))
        stays = ~own_moved & (found.at_least > known.at_most)
        # The point's own is among those it was compared with: the nearest of them is the nearest
        # of all if no other was nearer before.
        goes = own_moved & (found.at_most < known.others)
        known.label[goes] = moved[found.label[goes]]
        known.at_most[goes] = found.at_most[goes]
        nearest_other = np.where(goes, found.others, found.at_least)
        np.minimum(known.others, nearest_other, out=known.others)
        rest = np.flatnonzero(~stays & ~goes)
    found = search(rest, at)
    for column, values in zip(known, found, strict=True):
        column[rest] = values


def _largest_other(steps: np.ndarray) -> np.ndarray:
    """Returns for each centroid the largest step [k] among all others."""
    farthest = np.argmax(steps)
    rest = np.delete(steps, farthest)
    return np.where(np.arange(len(steps)) == farthest, rest.max(initial=0), steps[farthest])


def _prepare(centroids: np.ndarray, origin: np.ndarray) -> _Centroids:
    shifted = centroids - origin
    return _Centroids(-2 * shifted, np.einsum("kf,kf->k", shifted, shifted))


def _searcher(
    x: np.ndarray, origin: np.ndarray, in_turn: Callable[..., Iterable[_Nearest]]
) -> Search:
    """Returns a function that finds the nearest centroids of points x[rows], or of all (None)."""
    shifted, relative = x - origin, _ROUNDING * math.sqrt(x.shape[1])
    squares = np.einsum("nf,nf->n", shifted, shifted)
    norms = np.sqrt(squares)

    def search(rows: np.ndarray | None, at: _Centroids) -> _Nearest:
        count = len(x) if rows is None else len(rows)
        farthest = math.sqrt(np.max(at.offset, initial=0))

        def look(start: int) -> _Nearest:
            block: slice | np.ndarray = slice(start, start + _POINTS_PER_BLOCK)
            block = block if rows is None else rows[block]
            rounding = relative * (norms[block] + farthest) ** 2
            return _look(shifted[block], squares[block], rounding, at)

        parts = list(in_turn(look, range(0, max(count, 1), _POINTS_PER_BLOCK)))
        return _Nearest(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    return search


def _look(x: np.ndarray, squares: np.ndarray, rounding: np.ndarray, at: _Centroids) -> _Nearest:
    """Compares a block of points [n, F], from the origin, with parts of the centroids [K].

    With the points come their squared norms, and the rounding of a squared distance.
    """
    every = np.arange(len(x))
    label = np.zeros(len(x), np.int64)
    first, second = np.full((2, len(x)), np.inf, np.float32)
    for start in range(0, len(at.offset), _CENTROIDS_PER_BLOCK):
        part = slice(start, start + _CENTROIDS_PER_BLOCK)
        distances = x @ at.slope[part].T
        distances += at.offset[part]
        here = np.argmin(distances, axis=1)
        first_here = distances[every, here]
        distances[every, here] = np.inf
        second_here = np.min(distances, axis=1)
        second = np.minimum(np.maximum(first, first_here), np.minimum(second, second_here))
        label = np.where(first_here < first, here + start, label)
        first = np.minimum(first, first_here)
    bounds = (first + rounding, first - rounding, second - rounding)
    return _Nearest(label, *(np.sqrt(np.maximum(squares + bound, 0)) for bound in bounds))


def _add(sums: np.ndarray, x: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Moves points x [N, F] between sums [k, F]; returns the numbers of the sums that changed."""
    changed = np.flatnonzero(before != now)
    for sign, cluster in ((-1, before[changed]), (1, now[changed])):
        order = np.argsort(cluster, kind="stable")
        names, first = np.unique(cluster[order], return_index=True)
        for name, rows in zip(names, np.split(changed[order], first[1:]), strict=False):
            if name >= 0:  # -1: not counted anywhere yet
                sums[name] += sign * np.sum(x[rows], axis=0, dtype=np.float64)
    names = np.unique([before[changed], now[changed]])
    return names[names >= 0]


def _fill_empty(x: np.ndarray, known: _Nearest, centroids: np.ndarray) -> None:
    """Gives each empty cluster the point farthest from its centroid, if any is off its own."""
    empty = np.flatnonzero(np.bincount(known.label, minlength=len(centroids)) == 0)
    if not empty.size:
        return
    parts = np.array_split(np.arange(len(x)), -(-len(x) // _POINTS_PER_BLOCK))
    away = [np.linalg.norm(x[rows] - centroids[known.label[rows]], axis=1) for rows in parts]
    distances = np.concatenate(away)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    known.label[farthest] = empty[: len(farthest)]
    # Nothing is known of these points until they are looked at again.
    known.at_most[farthest], known.others[farthest] = np.inf, 0
