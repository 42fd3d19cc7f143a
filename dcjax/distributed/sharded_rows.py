"""Embeddings whose rows are spread over devices: each holds as many as the others, in order."""

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

# Numbers that a device holds whole while rows go to a host: 16 MiB of float32.
_NUMBERS_PER_BLOCK = 2**22


class Rows(NamedTuple):
    """The embeddings of N images, each device of a mesh holding a share of their rows.

    Attributes:
      values: float32 [N', D], N' >= N and a multiple of the number of devices; the surplus is
        zeros, at the end.
      num: N.
    """

    values: Array
    num: int


def sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of rows that are spread over all devices of a mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def mesh_of(values: Array) -> Mesh:
    """Returns the devices that rows have been spread over."""
    return cast(Mesh, cast(NamedSharding, values.sharding).mesh)


def place(rows: np.ndarray | Rows, mesh: Mesh) -> Rows:
    """Spreads rows over the devices of a mesh; those that are spread so already stay.

    Args:
      rows: [N, D] on the host, the same on every process; or on devices.
      mesh: the devices.

    Raises:
      InputError: if rows on devices are fewer than said, or do not divide over those of the mesh.
    """
    if not isinstance(rows, Rows):
        return Rows(spread(rows, mesh), len(rows))
    size = len(rows.values)
    if size < rows.num or size % mesh.size:
        raise InputError(
            "Rows on devices must be as many as said, or more by zeros at the end, and a multiple "
            f"of the number of devices ({mesh.size}), got {size} for {rows.num}."
        )
    return Rows(jax.device_put(rows.values, sharding(mesh)), rows.num)


def spread(values: np.ndarray, mesh: Mesh) -> Array:
    """Spreads rows [N, ...], zeros after the last; a process sends its own devices' rows alone."""
    size = math.ceil(len(values) / mesh.size)

    def share(index: tuple[slice, ...] | None) -> np.ndarray:
        rows = values[index]
        return np.pad(rows, [(0, size - len(rows)), *((0, 0) for _ in rows.shape[1:])])

    shape = (size * mesh.size, *values.shape[1:])
    return jax.make_array_from_callback(shape, sharding(mesh), share, dtype=values.dtype)


def side_by_side(parts: Sequence[Rows]) -> tuple[Array, np.ndarray]:
    """Puts parts together; each row stays on its device.

    Returns:
      [N', D], and where in it the rows of the parts are, those of the first one first, int [N].
    """
    mesh = mesh_of(parts[0].values)
    sizes = [len(part.values) // mesh.size for part in parts]
    places = []
    for part, size, first in zip(parts, sizes, np.cumsum([0, *sizes[:-1]]), strict=True):
        device, place = np.divmod(np.arange(part.num), size)
        places.append(device * sum(sizes) + first + place)
    return _joined([part.values for part in parts], mesh=mesh), np.concatenate(places)


@partial(jax.jit, static_argnames="mesh")
def _joined(parts: list[Array], *, mesh: Mesh) -> Array:
    spread = PartitionSpec(mesh.axis_names)
    return jax.shard_map(jnp.concatenate, mesh=mesh, in_specs=spread, out_specs=spread)(parts)


def spread_each(make: Callable[[int], np.ndarray], size: int, mesh: Mesh) -> Array:
    """Spreads a row [size] for each device, [n, size]; a process makes its own devices' alone."""
    where = sharding(mesh)
    own = [
        jax.device_put(make(index[0].start or 0)[None], device)
        for device, index in where.addressable_devices_indices_map((mesh.size, size)).items()
        if index is not None
    ]
    return jax.make_array_from_single_device_arrays((mesh.size, size), where, own)


def take(values: Array, rows: np.ndarray) -> Array:
    """Returns rows [B] of what is spread, whole on every device, [B, D]; zeros beyond the last."""
    return _take(values, rows.astype(np.int32), mesh=mesh_of(values))


def fetch(values: Array, rows: np.ndarray, size: int) -> np.ndarray:
    """Returns at most `size` rows of what is spread on the host, bit for bit, [B, D].

    All processes call it together. One compilation serves any number of rows.
    """
    found = take(values, np.resize(rows, size) if len(rows) else np.zeros(size))
    return np.asarray(found.addressable_data(0))[: len(rows)]


@partial(jax.jit, static_argnames="mesh")
def _take(values: Array, rows: Array, *, mesh: Mesh) -> Array:
    spread, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    take = partial(taken, axes=mesh.axis_names)
    return jax.shard_map(take, mesh=mesh, in_specs=(spread, whole), out_specs=whole)(values, rows)


def first_row(share: Array, axes: tuple[str, ...]) -> Array:
    """Returns the number of the first of a device's rows, within `jax.shard_map` over axes."""
    return jax.lax.axis_index(axes) * len(share)


def taken(share: Array, rows: Array, axes: tuple[str, ...]) -> Array:
    """Returns rows [B] of what is spread over the devices, whole on each of them, [B, D].

    Called for each device, of which `share` is its own, within `jax.shard_map` over axes.
    """
    place = rows - first_row(share, axes)
    is_own = (place >= 0) & (place < len(share))
    own = jnp.where(is_own[:, None], share[jnp.where(is_own, place, 0)], 0)
    # As integers: a sum might take the smallest numbers for 0.
    bits = jax.lax.bitcast_convert_type(own, f"uint{8 * own.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(jax.lax.psum(bits, axes), own.dtype)


def whole(rows: Rows, *, is_asked: bool = True) -> np.ndarray:
    """Returns the rows on the host, [N, D]; no device ever holds more of them than a block.

    All processes call it together.

    Args:
      rows: on the devices.
      is_asked: whether this process gets them; else, if there are others, [0, D].
    """
    values, num = rows
    if values.is_fully_addressable:
        return np.asarray(values)[:num]
    found = np.empty((num if is_asked else 0, values.shape[1]), values.dtype)
    size = max(1, min(num, _NUMBERS_PER_BLOCK // values.shape[1]))
    for start in range(0, num, size):
        block = take(values, np.arange(start, start + size))
        if is_asked:
            found[start : start + size] = np.asarray(block.addressable_data(0))[: num - start]
    return found
