"""K-means of points that are sharded over devices, for sets too large for one host."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcjax.core import streams
from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.distributed import sharded_rows
from dcjax.division import device_lloyd, host_kmeans
from dcjax.division.host_kmeans import check_sizes


def kmeans(
    x: np.ndarray | Array,
    k: int,
    *,
    seed: int | streams.Key,
    num_iterations: int = host_kmeans.NUM_ITERATIONS,
    start: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divides points into k clusters by Lloyd's algorithm, on all devices of a mesh.

    It is the algorithm of `host_kmeans.kmeans`: the same seed starts at the same random points, a
    cluster that has lost all its points takes the point farthest from its centroid, and of equal
    distances the first counts. Sums are float32, of each device and then of all, so their last
    digits depend on the number of devices, as do labels of points about as near to two centroids.

    Labels are the same for points that are multiplied by a power of two, but numbers below 2^-126
    may be flushed to 0. A device holds its share of the points, twice if their squares would
    underflow or overflow, and blocks of 16 MiB, never all distances. One compilation serves all
    calls with points of one shape and one k, whatever rows are clustered. All processes must call
    this together, with the same arguments; each gets the complete result.

    Args:
      x: points [N, F], used as float32: on the host, or sharded by rows over the devices of a mesh,
        as by `shard`.
      k: number of clusters, at most that of the rows.
      seed: chooses the points that the centroids start from, as that of `host_kmeans.kmeans`.
      num_iterations: largest number of iterations; fewer run only if no label changes any more.
      start: row numbers [k], or centroids [k, F]; None: random points.
      rows: ascending numbers of the rows that are clustered [n]; the others are ignored and may
        hold anything. None: all.
      mesh: devices that points of the host are sharded over; None: the first device.

    Returns:
      labels int32 [n] and centroids float32 [k, F].
    """
    if x.ndim != 2:
        raise InputError(f"x must be points of shape [N, F], got shape {x.shape}.")
    rows = np.arange(len(x)) if rows is None else require_integers("rows", rows)
    check_sizes(k, num_iterations, num_points=len(rows))
    if rows[0] < 0 or rows[-1] >= len(x) or np.any(np.diff(rows) <= 0):
        raise InputError(f"rows must ascend within 0 to {len(x) - 1}, got {rows}.")
    x = shard(x, mesh)
    is_counted = np.zeros(len(x), bool)
    is_counted[rows] = True
    mesh = sharded_rows.mesh_of(x)
    counts = sharded_rows.shard(is_counted, mesh)
    largest = float(_largest(x, counts))
    if not math.isfinite(largest):
        raise InputError("x must be finite as float32, got NaN or infinity.")
    exponent = host_kmeans.scale_exponent(largest)
    if exponent:
        start = np.ldexp(start, exponent) if start is not None and start.ndim == 2 else start
        labels, centroids = kmeans(
            _scale(x, 2.0**exponent, mesh=mesh),
            k,
            seed=seed,
            num_iterations=num_iterations,
            start=start,
            rows=rows,
        )
        return labels, np.ldexp(centroids, -exponent)
    first = _first_centroids(x, k, streams.kmeans_key(seed), start, rows)
    labels, centroids = device_lloyd.lloyd(x, counts, first, np.int32(num_iterations), mesh=mesh)
    return np.asarray(labels)[rows], np.asarray(centroids)


def shard(x: np.ndarray | Array, mesh: Mesh | None = None) -> Array:
    """Shards points [N, F] of the host over the devices of a mesh; None: places them on the first.

    The last rows are padded with zeros. Points that are on a mesh already stay as they are; they
    must be sharded by rows over all of its axes.
    """
    if isinstance(x, Array) and isinstance(x.sharding, NamedSharding):
        current = sharded_rows.mesh_of(x)
        if not x.sharding.is_equivalent_to(sharded_rows.sharding(current), x.ndim):
            raise InputError(
                "The rows of x must be sharded over all axes of its mesh, PartitionSpec("
                f"{current.axis_names}), got {x.sharding.spec}."
            )
        return x
    if mesh is None:
        mesh = Mesh(np.array(jax.local_devices()[:1]), ("device",))
    return sharded_rows.shard(np.asarray(x, np.float32), mesh)


def means(x: Array, labels: np.ndarray, k: int) -> np.ndarray:
    """Returns the means float32 [k, F] of the points of each cluster.

    All processes must call this together.

    Args:
      x: points [N', F], as `shard` places them.
      labels: the clusters of the first N of them [N]; -1 is in none.
      k: number of clusters.
    """
    mesh = sharded_rows.mesh_of(x)
    padded = np.pad(labels, (0, len(x) - len(labels)), constant_values=-1)
    sharded = sharded_rows.shard(padded, mesh)
    return np.asarray(_means(x, sharded, k=k, mesh=mesh))


def _first_centroids(
    x: Array, k: int, key: streams.Key, start: np.ndarray | None, rows: np.ndarray
) -> np.ndarray | Array:
    """Returns the centroids [k, F] to start from."""
    generator = streams.generator(*key)  # checks the key, too
    if start is None:
        numbers = rows[generator.choice(len(rows), k, replace=False)]
    else:
        numbers = np.asarray(start)
        if numbers.shape == (k, x.shape[1]):
            return numbers.astype(np.float32)
        if numbers.shape != (k,) or not np.isin(numbers, rows).all():
            raise InputError(
                f"start must be {k} of the row numbers or centroids of shape {(k, x.shape[1])}, "
                f"got {numbers.dtype} of shape {numbers.shape}."
            )
    return sharded_rows.gather(x, numbers).astype(jnp.float32)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _means(x: Array, labels: Array, *, k: int, mesh: Mesh) -> Array:
    # Rows that are in no cluster may hold anything.
    points = jnp.where(labels[:, None] >= 0, x.astype(jnp.float32), 0)
    is_in = (labels[:, None] == jnp.arange(k)).astype(jnp.float32)
    sums = jnp.matmul(is_in.T, points, precision=jax.lax.Precision.HIGHEST)
    centroids = sums / jnp.sum(is_in, axis=0)[:, None]
    return jax.lax.with_sharding_constraint(centroids, NamedSharding(mesh, PartitionSpec()))


@jax.jit
def _largest(x: Array, counts: Array) -> Array:
    """Returns the largest absolute coordinate of the points that are counted, NaN if one is NaN."""
    return jnp.max(jnp.where(counts[:, None], jnp.abs(x.astype(jnp.float32)), 0))


@partial(jax.jit, static_argnames="mesh")
def _scale(x: Array, scale: Array, *, mesh: Mesh) -> Array:
    product = x * jnp.asarray(scale, x.dtype)
    return jax.lax.with_sharding_constraint(product, sharded_rows.sharding(mesh))
