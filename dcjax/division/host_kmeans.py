"""K-means and the agreement of two labellings (Sanakoyeu et al., CVPR 2019, sections 3 and 4).

K-means is Lloyd's algorithm, exactly, with the bounds of Hamerly (Making k-means even faster, SDM
2010): distances that cannot change a label are not computed. It is in NumPy because the shapes
differ from iteration to iteration; JAX would compile each of them.
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
from dcjax.division import counting

# Sides of a block of distances, of which a thread holds one at a time: 8 MiB of float32.
_POINTS_PER_BLOCK, _CENTROIDS_PER_BLOCK = 1024, 2048
# The cost of reading a point, in distances of it to a centroid.
_COST_OF_A_POINT = 32
# Relative rounding error of a float32 sum, divided by the square root of its number of terms.
_ROUNDING = 2e-7
# Range of exponents of numbers whose sums of squares neither overflow nor underflow in float32.
_SQUARABLE = -32, 50
NUM_ITERATIONS = 100  # at most, as in the papers' code
_BLAS = threading.Lock()  # its number of threads is a setting of the whole process


class _Centroids(NamedTuple):
    """Centroids c in a form for distances: |x - c|^2 = |x - o|^2 + slope . (x - o) + offset.

    The origin o is the mean of the first centroids: with o = 0, the terms would cancel for points
    far from zero.

    Attributes:
      slope: float32 [K, F], -2 (c - o).
      offset: float32 [K], |c - o|^2.
    """

    slope: np.ndarray
    offset: np.ndarray

    def pick(self, which: np.ndarray) -> "_Centroids":
        """Returns some of the centroids."""
        return _Centroids(self.slope[which], self.offset[which])


class _Bounds(NamedTuple):
    """The nearest centroid of each point [n], with Hamerly's bounds, widened by rounding errors.

    Attributes:
      label: number of the nearest centroid, ties to the lower number.
      upper: upper bound of the distance to it (Hamerly's u).
      nearest_lower: lower bound of the distance to it, as of the last search.
      lower: lower bound of the distances to all other centroids (Hamerly's l).
    """

    label: np.ndarray
    upper: np.ndarray
    nearest_lower: np.ndarray
    lower: np.ndarray


# From rows (None: all) and centroids to the bounds of these rows.
Search = Callable[[np.ndarray | None, _Centroids], _Bounds]


def kmeans(
    x: np.ndarray,
    k: int,
    *,
    seed: int | streams.Key,
    num_iterations: int = NUM_ITERATIONS,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divides points into k clusters by Lloyd's algorithm.

    The result is bit for bit the same on every run on a machine, and the labels are the same for
    points that are multiplied by a power of two. Memory is twice that of the points, for a shifted
    copy; three times if they are so small or large that their squares would underflow or overflow.

    Args:
      x: points [N, F], used as float32.
      k: number of clusters, at most N.
      seed: chooses the k points that the centroids start from: a whole number, or the key of a
        stream that is not that of K-means called by itself.
      num_iterations: largest number of iterations; fewer run only if no label changes any more.
      start: the first centroids [k, F]; None: k random points.

    Returns:
      labels int32 [N] and centroids float32 [k, F].
    """
    with np.errstate(over="ignore"):  # an overflow is reported below
        x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2:
        raise InputError(f"x must be points of shape [N, F], got shape {x.shape}.")
    check_sizes(k, num_iterations, num_points=len(x))
    if not np.all(np.isfinite(x)):
        raise InputError("x must be finite as float32, got NaN or infinity.")
    if start is None:
        start = x[streams.generator(*streams.kmeans_key(seed)).choice(len(x), k, replace=False)]
    return lloyd(x, np.asarray(start, np.float32), num_iterations=num_iterations)


def means(x: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Returns the means float32 [k, F] of the points [N, F] of each cluster; -1 is in none."""
    members = counting.groups(labels, k)
    return np.stack([x[rows].mean(axis=0, dtype=np.float64) for rows in members], dtype=np.float32)


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
    # BLAS runs in one thread, and each thread of the pool has blocks of points of its own. So the
    # result does not depend on the number of threads, as it might if BLAS split one product.
    one_thread = partial(threadpool_limits, limits=1, user_api="blas")
    with _BLAS, one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        origin = start.mean(axis=0)
        search = _create_search(x, origin, pool.map)
        centroids, shifted = start.copy(), _shift(start, origin)
        bounds = search(None, shifted)
        # The label by which each point is part of `sums`, the float64 sums of the clusters [k, F].
        counted = np.full(len(x), -1)
        sums, steps = np.zeros(start.shape), np.zeros(len(start))
        for _ in range(num_iterations):
            _fill_empty(x, bounds, centroids)
            changed = _update_sums(sums, x, counted, bounds.label)
            counted = bounds.label.copy()
            sizes = np.bincount(counted, minlength=len(start))
            changed = changed[sizes[changed] > 0]
            means = (sums[changed] / sizes[changed, None]).astype(np.float32)
            steps[:] = 0
            steps[changed] = np.linalg.norm(means - centroids[changed], axis=1)
            centroids[changed] = means
            shifted.slope[changed], shifted.offset[changed] = _shift(means, origin)
            _assign(search, shifted, steps, bounds)
            if np.array_equal(bounds.label, counted):
                break
    return bounds.label.astype(np.int32), centroids


def scale_exponent(largest: float) -> int:
    """Returns the exponent of the power of two that scales points to about 1.

    It is 0 if they can be squared as they are.

    Args:
      largest: the largest absolute value of their coordinates.
    """
    _, exponent = math.frexp(largest)
    low, high = _SQUARABLE
    return 0 if largest == 0 or low <= exponent <= high else min(max(-exponent, -126), 126)


def nmi(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Returns the normalised mutual information 2 I(Y; C) / (H(Y) + H(C)) of two labellings [N]."""
    from sklearn.metrics import normalized_mutual_info_score  # its import takes seconds

    labels = require_integers("labels", labels)
    clusters = require_integers("clusters", clusters, len(labels))
    return float(normalized_mutual_info_score(labels, clusters, average_method="arithmetic"))


def _assign(search: Search, centroids: _Centroids, steps: np.ndarray, bounds: _Bounds) -> None:
    """Updates, in place, the bounds of all points [N] after the k centroids moved by steps [k].

    A point can keep its label without a search while its upper bound is below its lower bound. Of
    two ways to tell, the cheaper one by the number of distances is taken:

    * Hamerly's update, which computes no distance: `upper` grows by the step of the point's own
      centroid, `lower` shrinks by the largest step of another one. It leaves few points if all
      centroids move a little, as they do if there are few.
    * A search among the centroids that moved. All others are as far away as before. It leaves few
      points if most centroids stand still, as they do if there are many.

    The points that are left are compared with all centroids.
    """
    moved = np.flatnonzero(steps)
    own_step = steps[bounds.label]
    bounds.upper[:] = (bounds.upper + own_step) * (1 + _ROUNDING)
    lower = (bounds.lower - _largest_other(steps)[bounds.label]) * (1 - _ROUNDING)
    rest = np.flatnonzero(bounds.upper >= lower)
    num_points = len(own_step)
    cost = len(rest) * (len(steps) + _COST_OF_A_POINT)
    if cost <= num_points * (len(moved) + _COST_OF_A_POINT):
        bounds.lower[:] = lower
    else:
        among_moved = search(None, centroids.pick(moved))
        own_moved = own_step > 0
        # The point's centroid stood still, and all that moved are farther.
        stays = ~own_moved & (among_moved.nearest_lower > bounds.upper)
        # The point's centroid moved, so it was searched too. The nearest of those that moved is the
        # nearest of all, since those that stood still are at least `lower` away.
        goes = own_moved & (among_moved.upper < bounds.lower)
        bounds.label[goes] = moved[among_moved.label[goes]]
        bounds.upper[goes] = among_moved.upper[goes]
        nearest_other = np.where(goes, among_moved.lower, among_moved.nearest_lower)
        np.minimum(bounds.lower, nearest_other, out=bounds.lower)
        rest = np.flatnonzero(~stays & ~goes)
    searched = search(rest, centroids)
    for column, values in zip(bounds, searched, strict=True):
        column[rest] = values


def _largest_other(steps: np.ndarray) -> np.ndarray:
    """Returns for each centroid the largest step [k] among all others."""
    farthest = np.argmax(steps)
    rest = np.delete(steps, farthest)
    return np.where(np.arange(len(steps)) == farthest, rest.max(initial=0), steps[farthest])


def _shift(centroids: np.ndarray, origin: np.ndarray) -> _Centroids:
    shifted = centroids - origin
    return _Centroids(-2 * shifted, np.einsum("kf,kf->k", shifted, shifted))


def _create_search(
    x: np.ndarray, origin: np.ndarray, map_blocks: Callable[..., Iterable[_Bounds]]
) -> Search:
    """Returns a function that searches the nearest centroids of points x[rows]; None: of all."""
    shifted, relative = x - origin, _ROUNDING * math.sqrt(x.shape[1])
    squares = np.einsum("nf,nf->n", shifted, shifted)
    norms = np.sqrt(squares)

    def search(rows: np.ndarray | None, centroids: _Centroids) -> _Bounds:
        count = len(x) if rows is None else len(rows)
        farthest = math.sqrt(np.max(centroids.offset, initial=0))

        def search_block(start: int) -> _Bounds:
            block: slice | np.ndarray = slice(start, start + _POINTS_PER_BLOCK)
            block = block if rows is None else rows[block]
            rounding = relative * (norms[block] + farthest) ** 2
            return _search_block(shifted[block], squares[block], rounding, centroids)

        parts = list(map_blocks(search_block, range(0, max(count, 1), _POINTS_PER_BLOCK)))
        return _Bounds(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    return search


def _search_block(
    x: np.ndarray, squares: np.ndarray, rounding: np.ndarray, centroids: _Centroids
) -> _Bounds:
    """Compares a block of points with the centroids [K], a part of them at a time.

    `first` and `second` are the two smallest |x - c|^2 - |x|^2 so far, [n].

    Args:
      x: points less the origin [n, F].
      squares: |x|^2 [n].
      rounding: bounds of the rounding error of a squared distance [n].
      centroids: to compare with.
    """
    every = np.arange(len(x))
    label = np.zeros(len(x), np.int64)
    first, second = np.full((2, len(x)), np.inf, np.float32)
    for start in range(0, len(centroids.offset), _CENTROIDS_PER_BLOCK):
        part = slice(start, start + _CENTROIDS_PER_BLOCK)
        distances = x @ centroids.slope[part].T
        distances += centroids.offset[part]
        here = np.argmin(distances, axis=1)
        first_here = distances[every, here]
        distances[every, here] = np.inf
        second_here = np.min(distances, axis=1)
        second = np.minimum(np.maximum(first, first_here), np.minimum(second, second_here))
        label = np.where(first_here < first, here + start, label)
        first = np.minimum(first, first_here)
    bounds = (first + rounding, first - rounding, second - rounding)
    return _Bounds(label, *(np.sqrt(np.maximum(squares + bound, 0)) for bound in bounds))


def _update_sums(
    sums: np.ndarray, x: np.ndarray, before: np.ndarray, now: np.ndarray
) -> np.ndarray:
    """Moves points x [N, F] between the sums of clusters [k, F], in place.

    Args:
      sums: float64 [k, F].
      x: points float32 [N, F].
      before: clusters of the points that the sums are of [N]; -1: in none.
      now: clusters that the sums will be of [N].

    Returns:
      The numbers of the clusters whose sum changed.
    """
    changed = np.flatnonzero(before != now)
    for sign, cluster in ((-1, before[changed]), (1, now[changed])):
        order = np.argsort(cluster, kind="stable")
        names, first = np.unique(cluster[order], return_index=True)
        for name, rows in zip(names, np.split(changed[order], first[1:]), strict=False):
            if name >= 0:
                sums[name] += sign * np.sum(x[rows], axis=0, dtype=np.float64)
    names = np.unique([before[changed], now[changed]])
    return names[names >= 0]


def _fill_empty(x: np.ndarray, bounds: _Bounds, centroids: np.ndarray) -> None:
    """Gives each empty cluster the point farthest from its centroid, if that distance is not 0."""
    empty = np.flatnonzero(np.bincount(bounds.label, minlength=len(centroids)) == 0)
    if not empty.size:
        return
    parts = np.array_split(np.arange(len(x)), -(-len(x) // _POINTS_PER_BLOCK))
    away = [np.linalg.norm(x[rows] - centroids[bounds.label[rows]], axis=1) for rows in parts]
    distances = np.concatenate(away)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    bounds.label[farthest] = empty[: len(farthest)]
    # Bounds that force a search for these points.
    bounds.upper[farthest], bounds.lower[farthest] = np.inf, 0
