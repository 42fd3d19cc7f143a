"""Embeddings whose rows are spread over devices: each holds as many as the others, in order."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
      ValueError: if rows on devices are fewer than said, or do not divide over those of the mesh.
    """
    if not isinstance(rows, Rows):
        return Rows(spread(_filled_up(rows, mesh.size), mesh), len(rows))
    size = len(rows.values)
    if size < rows.num or size % mesh.size:
        raise ValueError(
            "Rows on devices must be as many as said, or more by zeros at the end, and a multiple "
            f"of the number of devices ({mesh.size}), got {size} for {rows.num}."
        )
    return Rows(jax.device_put(rows.values, sharding(mesh)), rows.num)


def spread(values: np.ndarray, mesh: Mesh) -> Array:
    """Spreads rows that divide over the devices; a process sends its own devices' rows alone."""
    return jax.make_array_from_callback(
        values.shape, sharding(mesh), values.__getitem__, dtype=values.dtype
    )


def spread_each(make: Callable[[int], np.ndarray], size: int, mesh: Mesh) -> Array:
    """Spreads a row [size] for each device, [n, size]; a process makes its own devices' alone."""
    where = sharding(mesh)
    own = [
        jax.device_put(make(index[0].start or 0)[None], device)
        for device, index in where.addressable_devices_indices_map((mesh.size, size)).items()
        if index is not None
    ]
    return jax.make_array_from_single_device_arrays((mesh.size, size), where, own)


def taken(share: Array, rows: Array, axes: tuple[str, ...]) -> Array:
    """Returns rows [B] of what is spread over the devices, whole on each of them, [B, D].

    Called for each device, of which `share` is its own, within `jax.shard_map` over axes.
    """
    place = rows - jax.lax.axis_index(axes) * len(share)
    is_own = (place >= 0) & (place < len(share))
    own = jnp.where(is_own[:, None], share[jnp.where(is_own, place, 0)], 0)
    return jax.lax.psum(own, axes)


def whole(rows: Rows, *, everywhere: bool = True) -> np.ndarray:
    """Returns the rows on the host, [N, D]; no device ever holds more of them than a block.

    All processes call it together.

    Args:
      rows: on the devices.
      everywhere: whether all processes get them; else the first one does, and others [0, D].
    """
    values, num = rows
    if values.is_fully_addressable:
        return np.asarray(values)[:num]
    size = max(1, min(num, _NUMBERS_PER_BLOCK // values.shape[1]))
    is_asked = everywhere or jax.process_index() == 0
    blocks = [np.zeros((0, values.shape[1]), values.dtype)]
    for start in range(0, num, size):
        block = _block(values, start, size=size, mesh=mesh_of(values))
        if is_asked:
            blocks.append(np.asarray(block.addressable_data(0))[: num - start])
    return np.concatenate(blocks)


@partial(jax.jit, static_argnames=("size", "mesh"))
def _block(values: Array, start: Array, *, size: int, mesh: Mesh) -> Array:
    """Returns rows start .. start + size - 1, whole on every device; zeros beyond the last."""
    axes, nowhere = mesh.axis_names, PartitionSpec()
    take = partial(taken, axes=axes)
    shared = jax.shard_map(
        take, mesh=mesh, in_specs=(PartitionSpec(axes), nowhere), out_specs=nowhere
    )
    return shared(values, start + jnp.arange(size))


def _filled_up(values: np.ndarray, multiple: int) -> np.ndarray:
    surplus = -len(values) % multiple
    return np.pad(values, ((0, surplus), (0, 0))) if surplus else values
