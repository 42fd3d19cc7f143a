"""A gallery sharded over devices, each with an index of its share by class."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from dcjax.distributed import sharded_rows


class Set(NamedTuple):
    """Images that are queries or a gallery.

    Attributes:
      embeddings: float32 [N', D], finite, sharded as by `sharded_rows.place`.
      rows: int32 [N], which of these rows the images are, ascending.
      classes: int32 [N], from 0 on.
      cameras: int32 [N], the number of the camera that took each; None: no matter.
    """

    embeddings: Array
    rows: np.ndarray
    classes: np.ndarray
    cameras: np.ndarray | None = None

    def part(self, places: np.ndarray) -> "Set":
        """Returns the images at these ascending places."""
        return self._replace(
            rows=self.rows[places],
            classes=self.classes[places],
            cameras=None if self.cameras is None else self.cameras[places],
        )


class Gallery(NamedTuple):
    """The S rows that each of n devices searches, and an index of them by class; all sharded.

    Attributes:
      embeddings: [n S, D].
      squared_norms: [n S], infinite for padding.
      classes: [n S].
      by_class: of each device, its rows in the order of their classes and, in a class, of their
        indices, [n S].
      starts: of each device, the start of each class in its by_class and the end of the last one,
        [n, C + 1].
      first: of each device, the number of its first row in the gallery, [n].
    """

    embeddings: Any
    squared_norms: Any
    classes: Any
    by_class: Any
    starts: Any
    first: Any


def count_per_device(rows: np.ndarray, embeddings: Array) -> np.ndarray:
    """Returns how many of these rows each device holds, [n]."""
    num_devices = sharded_rows.mesh_of(embeddings).size
    return np.bincount(rows // (len(embeddings) // num_devices), minlength=num_devices)


def create(
    gallery: Set, query_classes: np.ndarray, num_classes: int, rows_per_device: int
) -> tuple[Gallery, int]:
    """Creates the sharded gallery: each device searches those of its own rows that are part of it.

    Args:
      gallery: the images.
      query_classes: int32 [Q].
      num_classes: C.
      rows_per_device: rows, at least, to which shares of a part of the embeddings are padded.

    Returns:
      The sharded gallery, and the largest number of positives that a query has on one device.
    """
    embeddings, rows, classes, _ = gallery
    mesh = sharded_rows.mesh_of(embeddings)
    counts = count_per_device(rows, embeddings)
    first = np.cumsum(counts) - counts
    device = np.repeat(np.arange(mesh.size), counts)
    is_prefix = np.array_equal(rows, np.arange(len(rows)))
    held = len(embeddings) // mesh.size
    size = held if is_prefix else max(int(counts.max()), rows_per_device)
    order = np.lexsort((classes, device))

    def shard_padded(values: np.ndarray) -> Array:
        padded = np.zeros((mesh.size, size), np.int32)
        padded[device, np.arange(len(rows)) - first[device]] = values
        return sharded_rows.shard(padded.reshape(-1), mesh)

    def starts(device: int) -> np.ndarray:
        local_classes = classes[order[first[device] : first[device] + counts[device]]]
        return np.searchsorted(local_classes, np.arange(num_classes + 1)).astype(np.int32)

    if not is_prefix:
        embeddings = _part(embeddings, shard_padded(rows - held * device), mesh=mesh)
    keys, num_same = np.unique(device * num_classes + classes, return_counts=True)
    is_asked = np.isin(keys % num_classes, query_classes)
    return Gallery(
        embeddings,
        _squared_norms(embeddings, sharded_rows.shard(counts.astype(np.int32), mesh), mesh=mesh),
        classes=shard_padded(classes),
        by_class=shard_padded(order - first[device]),
        starts=sharded_rows.shard_per_device(starts, num_classes + 1, mesh),
        first=sharded_rows.shard(first.astype(np.int32), mesh),
    ), int(num_same[is_asked].max(initial=0))


@partial(jax.jit, static_argnames="mesh")
def _part(embeddings: Array, places: Array, *, mesh: Mesh) -> Array:
    """Returns the rows at these places of each device's share; nothing moves between devices."""
    by_rows = PartitionSpec(mesh.axis_names)
    part = jax.shard_map(
        lambda share, place: share[place], mesh=mesh, in_specs=by_rows, out_specs=by_rows
    )
    return part(embeddings, places)


@partial(jax.jit, static_argnames="mesh")
def _squared_norms(embeddings: Array, counts: Array, *, mesh: Mesh) -> Array:
    """Returns the squared norms of the first rows of each share, counts[n]; infinity for others."""
    by_rows = PartitionSpec(mesh.axis_names)
    norms = jax.shard_map(
        lambda share, count: jnp.where(
            jnp.arange(len(share)) < count, jnp.sum(share * share, axis=1), jnp.inf
        ),
        mesh=mesh,
        in_specs=by_rows,
        out_specs=by_rows,
    )
    return norms(embeddings, counts)
