"""Arrays sharded by rows: each device holds an equal, contiguous part."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dcjax.core.errors import InputError

# Numbers of a block that is replicated on its way to a host: 16 MiB of float32.
_NUMBERS_PER_BLOCK = 2**22


class Rows(NamedTuple):
    """The embeddings of N images, sharded by rows over the devices of a mesh.

    Attributes:
      values: float32 [N', D], N' >= N and a multiple of the number of devices; the surplus is
        zeros, at the end.
      num: N.
    """

    values: Array
    num: int


def sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of rows over all devices of a mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def mesh_of(values: Array) -> Mesh:
    """Returns the mesh that rows are sharded over."""
    return cast(Mesh, cast(NamedSharding, values.sharding).mesh)


def place(rows: np.ndarray | Rows, mesh: Mesh) -> Rows:
    """Shards rows over the devices of a mesh; rows that are sharded so already stay.

    Args:
      rows: [N, D] on the host, the same on every process; or on devices.
      mesh: the devices.

    Raises:
      InputError: if rows on devices are fewer than said, or do not divide over those of the mesh.
    """
    if not isinstance(rows, Rows):
        return Rows(shard(rows, mesh), len(rows))
    size = len(rows.values)
    if size < rows.num or size % mesh.size:
        raise InputError(
            "Rows on devices must be as many as said, or more by zeros at the end, and a multiple "
            f"of the number of devices ({mesh.size}), got {size} for {rows.num}."
        )
    return Rows(jax.device_put(rows.values, sharding(mesh)), rows.num)


def shard(values: np.ndarray, mesh: Mesh) -> Array:
    """Shards rows [N, ...], padded with zeros; a process sends only the rows of its own devices."""
    size = math.ceil(len(values) / mesh.size)

    def padded_share(index: tuple[slice, ...] | None) -> np.ndarray:
        rows = values[index]
        return np.pad(rows, [(0, size - len(rows)), *((0, 0) for _ in rows.shape[1:])])

    shape = (size * mesh.size, *values.shape[1:])
    return jax.make_array_from_callback(shape, sharding(mesh), padded_share, dtype=values.dtype)


def concatenate(parts: Sequence[Rows]) -> tuple[Array, np.ndarray]:
    """Concatenates sharded rows without moving any of them to another device.

    Returns:
      The rows [N', D], and the position of each input row in it, int [N].
    """
    mesh = mesh_of(parts[0].values)
    sizes = [len(part.values) // mesh.size for part in parts]
    positions = []
    for part, size, first in zip(parts, sizes, np.cumsum([0, *sizes[:-1]]), strict=True):
        device, row = np.divmod(np.arange(part.num), size)
        positions.append(device * sum(sizes) + first + row)
    return _concatenate([part.values for part in parts], mesh=mesh), np.concatenate(positions)


@partial(jax.jit, static_argnames="mesh")
def _concatenate(parts: list[Array], *, mesh: Mesh) -> Array:
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(jnp.concatenate, mesh=mesh, in_specs=rows, out_specs=rows)(parts)


def shard_per_device(make: Callable[[int], np.ndarray], size: int, mesh: Mesh) -> Array:
    """Returns one row for each device, [n, size]; a process makes only those of its own devices."""
    where = sharding(mesh)
    local = [
        jax.device_put(make(index[0].start or 0)[None], device)
        for device, index in where.addressable_devices_indices_map((mesh.size, size)).items()
        if index is not None
    ]
    return jax.make_array_from_single_device_arrays((mesh.size, size), where, local)


def gather(values: Array, rows: np.ndarray) -> Array:
    """Returns rows [B] of sharded values, replicated, [B, D]; zeros for rows beyond the last."""
    return _gather(values, rows.astype(np.int32), mesh=mesh_of(values))


def fetch_rows(values: Array, rows: np.ndarray, size: int) -> np.ndarray:
    """Returns at most `size` rows of sharded values on the host, bit for bit, [B, D].

    All processes call it together. One compilation serves any number of rows.
    """
    gathered = gather(values, np.resize(rows, size) if len(rows) else np.zeros(size))
    return np.asarray(gathered.addressable_data(0))[: len(rows)]


@partial(jax.jit, static_argnames="mesh")
def _gather(values: Array, rows: Array, *, mesh: Mesh) -> Array:
    sharded, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()
    gather_on_device = jax.shard_map(
        partial(all_gather_rows, axes=mesh.axis_names),
        mesh=mesh,
        in_specs=(sharded, replicated),
        out_specs=replicated,
    )
    return gather_on_device(values, rows)


def first_row(share: Array, axes: tuple[str, ...]) -> Array:
    """Returns the number of the first of a device's rows, within `jax.shard_map` over axes."""
    return jax.lax.axis_index(axes) * len(share)


def all_gather_rows(share: Array, rows: Array, axes: tuple[str, ...]) -> Array:
    """Returns rows [B] of an array sharded by rows, the same on every device, [B, D].

    A collective, for use within `jax.shard_map` over axes.

    Args:
      share: the device's own part of the array.
      rows: numbers of the rows in the whole array.
      axes: of the mesh.
    """
    index = rows - first_row(share, axes)
    is_local = (index >= 0) & (index < len(share))
    local = jnp.where(is_local[:, None], share[jnp.where(is_local, index, 0)], 0)
    # Summed as integers: a sum of floats may flush subnormal numbers to 0.
    bits = jax.lax.bitcast_convert_type(local, f"uint{8 * local.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(jax.lax.psum(bits, axes), local.dtype)


def fetch(rows: Rows, *, is_receiver: bool = True) -> np.ndarray:
    """Returns all rows on the host, [N, D]; a device holds a block of the others' rows at most.

    All processes call it together.

    Args:
      rows: on the devices.
      is_receiver: whether this process gets them; if not, it gets [0, D], unless it runs alone.
    """
    values, num = rows
    if values.is_fully_addressable:
        return np.asarray(values)[:num]
    fetched = np.empty((num if is_receiver else 0, values.shape[1]), values.dtype)
    size = max(1, min(num, _NUMBERS_PER_BLOCK // values.shape[1]))
    for start in range(0, num, size):
        block = gather(values, np.arange(start, start + size))
        if is_receiver:
            fetched[start : start + size] = np.asarray(block.addressable_data(0))[: num - start]
    return fetched
