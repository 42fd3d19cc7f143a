"""Lloyd's algorithm for points that are sharded by rows over the devices of a mesh.

All distances are made, but a block at a time: each device compares its own points with all
centroids, and only the sums of the clusters travel.
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

# Distances, or coordinates of points, that a device makes at a time: 16 MiB of float32.
_NUMBERS_PER_BLOCK = 2**22

# Products as exact as float32: on accelerators they are not by default.
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

Axes = tuple[str, ...]
# Iterations done, labels [n], centroids from the origin [k, F], whether a label has changed.
_State = tuple[Array, Array, Array, Array]


class _Points(NamedTuple):
    """A device's share of the points.

    Attributes:
      x: [n, F].
      counts: whether each is clustered, bool [n].
      origin: float32 [F], amid the points, so that far from zero distances do not cancel.
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
      counts: which of them there are, bool [N].
      start: the first centroids float32 [k, F], the same on every device.
      num_iterations: how often the centroids move at most.
      mesh: the devices.

    Returns:
      labels int32 [N], k for a point that is not there, and centroids [k, F], both replicated.
    """
    axes = mesh.axis_names

    def iterate(x: Array, counts: Array, start: Array) -> tuple[Array, Array]:
        points = _Points(x, counts, start.mean(axis=0), axes)

        def goes_on(state: _State) -> Array:
            step, _, _, changes = state
            return changes & (step < num_iterations)

        def move(state: _State) -> _State:
            step, labels, centroids, _ = state
            labels, centroids = _fill_empty(points, labels, centroids)
            centroids = _means(points, labels, centroids)
            found = _nearest(points, centroids)
            changes = jax.lax.psum(jnp.any(found != labels).astype(jnp.int32), axes) > 0
            return step + 1, found, centroids, changes

        centroids = start - points.origin
        state = jnp.int32(0), _nearest(points, centroids), centroids, jnp.bool(True)
        _, labels, centroids, _ = jax.lax.while_loop(goes_on, move, state)
        return labels, centroids + points.origin

    rows, replicated = PartitionSpec(axes), PartitionSpec()
    outputs = jax.shard_map(
        iterate, mesh=mesh, in_specs=(rows, rows, replicated), out_specs=(rows, replicated)
    )(x, counts, start)
    return jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, replicated))


def _nearest(points: _Points, centroids: Array) -> Array:
    """Returns the nearest of the centroids [k, F], from the origin, to each point [n].

    |x - c|^2 = |x|^2 - 2 x . c + |c|^2, of which the first is the same for all centroids.
    """
    k = len(centroids)
    slope, offset = -2 * centroids.T, jnp.sum(jnp.square(centroids), axis=1)

    def look(first: Array, x: Array, is_new: Array, labels: Array) -> Array:
        del is_new
        here = jnp.argmin(_matmul(x, slope) + offset, axis=1).astype(jnp.int32)
        return jax.lax.dynamic_update_slice_in_dim(labels, here, first, axis=0)

    nothing = jnp.zeros(len(points.x), jnp.int32)
    return jnp.where(points.counts, _through(points, k, look, nothing), k)


def _means(points: _Points, labels: Array, centroids: Array) -> Array:
    """Moves centroids [k, F] to the means of the points with these labels [n], if there are any.

    What is added up are differences from the centroids: points in one place move nothing, and no
    coordinate drowns in a long sum. As a product, since it is then the same on every run.
    """
    k = len(centroids)

    def add(
        first: Array, x: Array, is_new: Array, sums: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        own = jax.lax.dynamic_slice_in_dim(labels, first, len(x))
        members = jax.nn.one_hot(jnp.where(is_new, own, k), k)
        away = _matmul(members.T, x - centroids.at[own].get(mode="clip"))
        return sums[0] + away, sums[1] + members.sum(axis=0, dtype=jnp.int32)

    nothing = jnp.zeros(centroids.shape), jnp.zeros(k, jnp.int32)
    sums, sizes = jax.lax.psum(_through(points, k, add, nothing), points.axes)
    return centroids + sums / jnp.maximum(sizes, 1)[:, None]


def _fill_empty(points: _Points, labels: Array, centroids: Array) -> tuple[Array, Array]:
    """Gives each empty cluster the point farthest from its centroid, if any is off its own.

    The cluster's centroid goes there at once: of two in one place both are then exactly the same.
    """
    k, n = len(centroids), len(labels)
    sizes = jax.lax.psum(jnp.zeros(k, jnp.int32).at[labels].add(1, mode="drop"), points.axes)

    def look(first: Array, x: Array, is_new: Array, squared: Array) -> Array:
        del is_new
        own = jax.lax.dynamic_slice_in_dim(labels, first, len(x))
        here = jnp.sum(jnp.square(x - centroids.at[own].get(mode="clip")), axis=1)
        return jax.lax.dynamic_update_slice_in_dim(squared, here, first, axis=0)

    def fill() -> tuple[Array, Array]:
        squared = jnp.where(points.counts, _through(points, k, look, jnp.zeros(n)), 0)
        # The farthest of all are among the farthest of each device. Of equals, top_k takes the
        # first, and devices are in the order of their rows.
        farthest, here = jax.lax.top_k(squared, min(k, n))
        own = sharded_rows.first_row(labels, points.axes)
        farthest, numbers = _gather((farthest, own + here), points.axes)
        farthest, order = jax.lax.top_k(farthest, min(k, len(farthest)))
        numbers = numbers[order]
        empty = jnp.nonzero(sizes == 0, size=len(order), fill_value=k)[0].astype(jnp.int32)
        empty = jnp.where(farthest > 0, empty, k)
        here = numbers - own
        is_here = (empty < k) & (here >= 0) & (here < n)
        filled = (
            sharded_rows.all_gather_rows(points.x, numbers, points.axes).astype(jnp.float32)
            - points.origin
        )
        return (
            labels.at[jnp.where(is_here, here, n)].set(empty, mode="drop"),
            centroids.at[empty].set(filled, mode="drop"),
        )

    return jax.lax.cond(jnp.any(sizes == 0), fill, lambda: (labels, centroids))


def _through(points: _Points, k: int, step: Callable[..., Any], state: Any) -> Any:
    """Goes through a device's points in blocks of one size; the last two may share points.

    Args:
      points: to go through.
      k: number of centroids that each is compared with.
      step: function (number of the block's first point, its points from the origin [b, F], which
        of them were in no block before [b], state) -> state.
      state: before the first block.
    """
    n, dim = points.x.shape
    size = min(n, max(1, _NUMBERS_PER_BLOCK // max(k, dim)))

    def do(block: Array, state: Any) -> Any:
        first = jnp.minimum(block * size, n - size)
        x = jax.lax.dynamic_slice_in_dim(points.x, first, size).astype(jnp.float32)
        counts = jax.lax.dynamic_slice_in_dim(points.counts, first, size)
        x = jnp.where(counts[:, None], x - points.origin, 0)
        return step(first, x, first + jnp.arange(size) >= block * size, state)

    return jax.lax.fori_loop(0, math.ceil(n / size), do, _varying(state, points.axes))


def _gather(parts: Any, axes: Axes) -> Any:
    """Joins arrays that each device has, in the order of the devices."""
    return jax.tree.map(
        lambda part: jax.lax.all_gather(part, axes, tiled=True, to="invarying"), parts
    )


def _varying(state: Any, axes: Axes) -> Any:
    """Marks what is the same on every device as something that each will change by itself."""
    return jax.tree.map(lambda array: jax.lax.pcast(array, axes, to="varying"), state)
