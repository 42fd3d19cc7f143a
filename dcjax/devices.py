"""Where arrays live: the device mesh, placement and prefetch."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_MANY_ROWS = 1024


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays devices (default: all) out along ("cluster", "data"), sorted by process.

    One cluster batch at a time is spread over all of them, as in the papers' algorithm.
    """
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    grid = np.array(ordered).reshape(1, -1)
    return Mesh(grid, ("cluster", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the shardings of a training batch: images and labels [C, B, ...], clusters [C]."""
    whole = NamedSharding(mesh, PartitionSpec("cluster", "data"))
    return {
        "image": whole,
        "label": whole,
        "cluster": NamedSharding(mesh, PartitionSpec("cluster")),
    }


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of rows spread over all devices, as of a batch to embed [batch, ...]."""
    return NamedSharding(mesh, PartitionSpec(("cluster", "data")))


def table_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """Returns the sharding of an array of this shape that may have a row for each class.

    From 1,024 rows on that divide over the devices, each device holds its share of them.
    """
    is_large = len(shape) >= 2 and shape[0] >= _MANY_ROWS and shape[0] % mesh.size == 0
    return rows_sharding(mesh) if is_large else replicated(mesh)


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Checks that a batch splits evenly over the devices.

    Raises:
      ValueError: if it does not; names the nearest sizes that do.
    """
    lower = batch_size // mesh.size * mesh.size
    if batch_size < 1 or batch_size != lower:
        nearest = sorted({max(lower, mesh.size), lower + mesh.size})
        raise ValueError(
            f"{name} must be a multiple of the number of devices ({mesh.size}), got {batch_size}; "
            f"{' or '.join(map(str, nearest))} would do."
        )


def prefetch(batches: Iterable[Any], shardings: Any, size: int = 2) -> Iterator[Any]:
    """Yields batches already on the devices; `size` of them are under way at any time."""
    queue: collections.deque[Any] = collections.deque()
    for batch in batches:
        queue.append(jax.device_put(batch, shardings))
        if len(queue) > size:
            yield queue.popleft()
    yield from queue
