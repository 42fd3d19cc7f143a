"""The device mesh, shardings of arrays, and transfers to the devices."""

import collections
import contextlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dcjax.core.errors import SettingError

_MANY_ROWS = 1024


class Share(NamedTuple):
    """The part of a step's images [C, B] that lies on this process's devices."""

    clusters: slice
    images: slice


WHOLE = Share(slice(None), slice(None))


def create_mesh(devices: Sequence[jax.Device] | None = None, *, cluster_parallel: int = 1) -> Mesh:
    """Lays devices out along ("cluster", "data"), sorted by process.

    Args:
      devices: all of them if None.
      cluster_parallel: how many of a step's cluster batches lie side by side. With 1 every batch is
        sharded over all devices; with as many as there are devices, each has batches of its own.

    Raises:
      SettingError: if the devices, or those of one process, do not divide into so many parts.
    """
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    # The devices of a process must be a part of one row of the mesh, or complete rows.
    per_process = len(ordered) // len({device.process_index for device in ordered})

    def fits(parallel: int) -> bool:
        width, rest = divmod(len(ordered), parallel)
        return not rest and (width % per_process == 0 or per_process % width == 0)

    if not fits(cluster_parallel):
        known = filter(fits, range(1, len(ordered) + 1))
        raise SettingError(
            "devices.cluster_parallel must divide the number of devices "
            f"({len(ordered)}, {per_process} a process), got {cluster_parallel}; "
            f"{', '.join(map(str, known))} would do."
        )
    grid = np.array(ordered).reshape(cluster_parallel, -1)
    return Mesh(grid, ("cluster", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the shardings of a training batch: images and labels [C, B, ...], clusters [C]."""
    images = NamedSharding(mesh, PartitionSpec("cluster", "data"))
    return {
        "image": images,
        "label": images,
        "cluster": NamedSharding(mesh, PartitionSpec("cluster")),
    }


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of rows over all devices, as of a batch to embed [batch, ...]."""
    return NamedSharding(mesh, PartitionSpec(("cluster", "data")))


def round_up(batch_size: int, num_devices: int) -> int:
    """Returns the smallest multiple of the number of devices that holds a batch."""
    return -(-batch_size // num_devices) * num_devices


def table_sharding(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """Returns the sharding of an array of this shape that may have a row for each class.

    It is sharded by rows if it has at least 1,024 rows and they divide over the devices.
    """
    is_large = len(shape) >= 2 and shape[0] >= _MANY_ROWS and shape[0] % mesh.size == 0
    return rows_sharding(mesh) if is_large else replicated(mesh)


def share_of_batch(
    mesh: Mesh, num_batches: int, batch_size: int, local: Collection[jax.Device] | None = None
) -> Share:
    """Returns which of a step's images [C, B] lie on the local devices; None: this process's."""
    shape = (num_batches, batch_size)
    local = mesh.local_devices if local is None else local
    indices = batch_shardings(mesh)["image"].devices_indices_map(shape)
    parts = [index for device, index in indices.items() if device in local]

    def extent(axis: int) -> slice:
        bounds = [part[axis].indices(shape[axis]) for part in parts]
        return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))

    return Share(extent(0), extent(1))


def check_divides(name: str, number: int, parts: int, what: str, *, also: int = 1) -> None:
    """Checks that a number of images, or of batches, splits evenly.

    Args:
      name: of the setting.
      number: its value.
      parts: the number of parts.
      what: the parts, in the message.
      also: another divisor of the numbers that the message offers.

    Raises:
      SettingError: if it does not; names the nearest numbers that do.
    """
    if number < 1 or number % parts:
        step = math.lcm(parts, also)
        lower = number // step * step
        nearest = sorted({max(lower, step), lower + step})
        raise SettingError(
            f"{name} must be a multiple of the number of {what} ({parts}), got {number}; "
            f"{' or '.join(map(str, nearest))} would do."
        )


def place(tree: Any, shardings: Any) -> Any:
    """Transfers host arrays, which are the same on every process, to the devices.

    Args:
      tree: the arrays.
      shardings: a tree of shardings, or one for all arrays.
    """

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        x = np.asarray(x)
        with _allow_transfers():
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: put(x, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def prefetch(batches: Iterable[Any], shardings: Any, size: int = 2) -> Iterator[Any]:
    """Yields batches on the devices, transferring `size` of them ahead.

    Each process gives its share of a batch (`share_of_batch`), or an array on the devices.
    """

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array):
            return x
        if sharding.is_fully_addressable:  # equivalent, in half the time
            return jax.device_put(x, sharding)
        with _allow_transfers():
            return jax.make_array_from_process_local_data(sharding, x)

    queue: collections.deque[Any] = collections.deque()
    for batch in batches:
        queue.append(jax.tree.map(put, batch, shardings))
        if len(queue) > size:
            yield queue.popleft()
    yield from queue


def _allow_transfers() -> contextlib.AbstractContextManager[None]:
    """Allows explicit transfers, which a transfer guard allows by itself in `device_put` only."""
    return jax.transfer_guard_host_to_device("allow")
