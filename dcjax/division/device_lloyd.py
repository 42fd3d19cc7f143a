"""Lloyd's algorithm for points that are sharded by rows over the devices of a mesh.

All distances are computed, a block at a time: each device compares its own points with all
centroids, and only the sums of the clusters are exchanged.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcjax.distributed import sharded_rows

# Distances, or coordinates of points, of a block: 16 MiB of float32.
_NUMBERS_PER_BLOCK = 2**22

# Products as exact as float32: on accelerators they are not by default.
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

Axes = tuple[str, ...]
# Iterations done, labels [n], centroids less the origin [k, F], whether a label has changed.
_State = tuple[Array, Array, Array, Array]


class _Points(NamedTuple):
    """A device's share of the points.

    Attributes:
      x: [n, F].
      counts: whether each is clustered, bool [n].
      origin: float32 [F], the mean of the first centroids; with the origin 0, the terms of
        distances would cancel for points far from zero.
      axes: of the mesh.
    """

    x: Array
    counts: Array
    origin: Array
    axes: tuple[str, ...]


@partial(jax.jit, static_argnames="mesh")
def lloyd(
    x: Array, counts: Array, start: Array, num_iterations: Array, *, mesh: Mesh
) -> tuple[Array, Array]:
    """Moves centroids to the means of the points nearest to them until no label changes.

    A cluster that has lost all its points takes the point farthest from its own centroid.

    Args:
      x: points [N, F].
      counts: which of them are clustered, bool [N]; the others are padding or left out.
      start: the first centroids float32 [k, F], the same on every device.
      num_iterations: how often the centroids move at most.
      mesh: the devices.

    Returns:
      labels int32 [N], k for a point that is not clustered, and centroids [k, F], both replicated.
    """
    axes = mesh.axis_names

    def iterate(x: Array, counts: Array, start: Array) -> tuple[Array, Array]:
        points = _Points(x, counts, start.mean(axis=0), axes)

        def should_continue(state: _State) -> Array:
            step, _, _, changes = state
            return changes & (step < num_iterations)

        def move(state: _State) -> _State:
            step, labels, centroids, _ = state
            labels, centroids = _fill_empty(points, labels, centroids)
            centroids = _means(points, labels, centroids)
            new_labels = _nearest(points, centroids)
            changes = jax.lax.psum(jnp.any(new_labels != labels).astype(jnp.int32), axes) > 0
            return step + 1, new_labels, centroids, changes

        centroids = start - points.origin
        state = jnp.int32(0), _nearest(points, centroids), centroids, jnp.bool(True)
        _, labels, centroids, _ = jax.lax.while_loop(should_continue, move, state)
        return labels, centroids + points.origin

    rows, replicated = PartitionSpec(axes), PartitionSpec()
    outputs = jax.shard_map(
        iterate, mesh=mesh, in_specs=(rows, rows, replicated), out_specs=(rows, replicated)
    )(x, counts, start)
    return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, replicated))


def _nearest(points: _Points, centroids: Array) -> Array:
    """Returns the nearest of the centroids [k, F], less the origin, to each point [n].

    |x - c|^2 = |x|^2 - 2 x . c + |c|^2; the first term, the same for all centroids, is left out.
    """
    k = len(centroids)
    slope, offset = -2 * centroids.T, jnp.sum(jnp.square(centroids), axis=1)

    def label_block(first: Array, x: Array, is_new: Array, labels: Array) -> Array:
        del is_new
        nearest = jnp.argmin(_matmul(x, slope) + offset, axis=1).astype(jnp.int32)
        return jax.lax.dynamic_update_slice_in_dim(labels, nearest, first, axis=0)

    zeros = jnp.zeros(len(points.x), jnp.int32)
    return jnp.where(points.counts, _fold_blocks(points, k, label_block, zeros), k)


def _means(points: _Points, labels: Array, centroids: Array) -> Array:
    """Moves centroids [k, F] to the means of the points with these labels [n], if there are any.

    Differences from the centroids are summed, not coordinates: equal points leave a centroid
    exactly where it is, and long sums lose fewer digits. The sum is a matrix product, since a
    scatter-add may differ from run to run.
    """
    k = len(centroids)

    def add(
        first: Array, x: Array, is_new: Array, sums: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        label = jax.lax.dynamic_slice_in_dim(labels, first, len(x))
        members = jax.nn.one_hot(jnp.where(is_new, label, k), k)
        differences = _matmul(members.T, x - centroids.at[label].get(mode="clip"))
        return sums[0] + differences, sums[1] + members.sum(axis=0, dtype=jnp.int32)

    zeros = jnp.zeros(centroids.shape), jnp.zeros(k, jnp.int32)
    sums, sizes = jax.lax.psum(_fold_blocks(points, k, add, zeros), points.axes)
    return centroids + sums / jnp.maximum(sizes, 1)[:, None]


def _fill_empty(points: _Points, labels: Array, centroids: Array) -> tuple[Array, Array]:
    """Gives each empty cluster the point farthest from its centroid, if that distance is not 0.

    The cluster's centroid moves to that point at once, so that centroids of equal points are equal.
    """
    k, n = len(centroids), len(labels)
    sizes = jax.lax.psum(jnp.zeros(k, jnp.int32).at[labels].add(1, mode="drop"), points.axes)

    def measure_block(first: Array, x: Array, is_new: Array, squared: Array) -> Array:
        del is_new
        label = jax.lax.dynamic_slice_in_dim(labels, first, len(x))
        distances = jnp.sum(jnp.square(x - centroids.at[label].get(mode="clip")), axis=1)
        return jax.lax.dynamic_update_slice_in_dim(squared, distances, first, axis=0)

    def fill() -> tuple[Array, Array]:
        squared = _fold_blocks(points, k, measure_block, jnp.zeros(n))
        squared = jnp.where(points.counts, squared, 0)
        # The k farthest points of all devices are among the k farthest of each. Of equal ones,
        # top_k takes the first, and devices are gathered in the order of their rows.
        farthest, local_rows = jax.lax.top_k(squared, min(k, n))
        first_row = sharded_rows.first_row(labels, points.axes)
        farthest, rows = _all_gather((farthest, first_row + local_rows), points.axes)
        farthest, order = jax.lax.top_k(farthest, min(k, len(farthest)))
        rows = rows[order]
        empty = jnp.nonzero(sizes == 0, size=len(order), fill_value=k)[0].astype(jnp.int32)
        empty = jnp.where(farthest > 0, empty, k)
        local_rows = rows - first_row
        is_local = (empty < k) & (local_rows >= 0) & (local_rows < n)
        moved = sharded_rows.all_gather_rows(points.x, rows, points.axes).astype(jnp.float32)
        return (
            labels.at[jnp.where(is_local, local_rows, n)].set(empty, mode="drop"),
            centroids.at[empty].set(moved - points.origin, mode="drop"),
        )

    return jax.lax.cond(jnp.any(sizes == 0), fill, lambda: (labels, centroids))


def _fold_blocks(points: _Points, k: int, step: Callable[..., Any], initial: Any) -> Any:
    """Folds `step` over blocks of a device's points, all of one size; the last two may overlap.

    Args:
      points: of the device.
      k: number of centroids that each is compared with.
      step: function (number of the block's first point, its points less the origin [b, F], which
        of them were in no block before [b], state) -> state.
      initial: the state before the first block.
    """
    n, dim = points.x.shape
    size = min(n, max(1, _NUMBERS_PER_BLOCK // max(k, dim)))

    def apply(block: Array, state: Any) -> Any:
        first = jnp.minimum(block * size, n - size)
        x = jax.lax.dynamic_slice_in_dim(points.x, first, size).astype(jnp.float32)
        counts = jax.lax.dynamic_slice_in_dim(points.counts, first, size)
        x = jnp.where(counts[:, None], x - points.origin, 0)
        return step(first, x, first + jnp.arange(size) >= block * size, state)

    initial = _mark_varying(initial, points.axes)
    return jax.lax.fori_loop(0, math.ceil(n / size), apply, initial)


def _all_gather(parts: Any, axes: Axes) -> Any:
    """Concatenates the arrays of all devices, in the order of the devices, on each of them."""
    return jax.tree.map(
        lambda part: jax.lax.all_gather(part, axes, tiled=True, to="invarying"), parts
    )


def _mark_varying(state: Any, axes: Axes) -> Any:
    """Marks replicated arrays as varying over devices, as the carry of a loop has to be."""
    return jax.tree.map(lambda array: jax.lax.pcast(array, axes, to="varying"), state)
