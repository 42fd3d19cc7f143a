"""Caches resized images in the devices' memory, from which crops are cut without reading files.

The shorter side of every resized image has `resize` pixels. An image is stored as lines of this
length, a wide image transposed, so that images of any shape fill one array uint8 [lines, resize *
3] without gaps. A crop is resized in two passes, as a separable filter: weighted means of lines, a
transposition, and weighted means of lines again.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding

from dcjax.core.errors import InputError
from dcjax.data import crops, pipeline, readers
from dcjax.distributed import devices
from dcjax.division.sampling import Block

_LINES_AT_ONCE = 8192  # lines of a transfer while the cache is filled: 6 MiB at 256 pixels


class Cache:
    """Reads an image set from the devices' memory; implements `readers.Reader`.

    The crops are those of `pipeline.Stream` from the resized images: equal if they are not resized
    again, and within one grey level if they are.
    """

    def __init__(self, stream: pipeline.Stream, sizes: npt.NDArray[np.int32], mesh: Mesh) -> None:
        """Reads all images, of these resized sizes [N, 2]."""
        self.images = stream.images
        self._stream = stream
        self._sizes = sizes
        self._is_wide = sizes[:, 1] > sizes[:, 0]
        num_lines = sizes.max(axis=1)
        self._first_line = np.cumsum(num_lines) - num_lines
        self.lines = _fill(stream, int(num_lines.sum()), devices.replicated(mesh))
        augmentation, size = stream.augmentation, stream.augmentation.size
        # A crop that is not resized copies lines; others average the lines under a triangle filter.
        longest = crops.longest_side(augmentation, sizes)
        num_taps = math.ceil(2 * max(longest / size, 1))
        copy = functools.partial(_cut, size=size, num_taps=1)
        resize = functools.partial(_cut, size=size, num_taps=num_taps)
        train = copy if augmentation.crop == "resize_then_random" else resize
        self._batch_sharding = devices.batch_shardings(mesh)["image"]
        self._crop_train = _jit(train, mesh, self._batch_sharding)
        self._rows_sharding = devices.rows_sharding(mesh)
        self._crop_eval = _jit(copy, mesh, self._rows_sharding)

    def train_batches(self, blocks: Iterable[Block], *, epoch: int) -> Iterator[readers.Batch]:
        """Returns the batches of these steps: images on the devices, the rest on the host."""
        share = self._stream.share
        return (
            {
                "image": self._crop_train(self.lines, devices.place(places, self._batch_sharding)),
                "label": self.images.labels[rows[share]],
                "cluster": clusters[share.clusters],
            }
            for block in blocks
            for places, rows, clusters in zip(
                self._crop_places(block, epoch), block.rows, block.clusters, strict=True
            )
        )

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[jax.Array]:
        """Returns the centre crops of the rows of all processes, on the devices."""
        boxes = crops.center_boxes(self._sizes[rows], self._stream.augmentation.size)
        places = self._places(rows, boxes, np.zeros(rows.shape, bool))
        sharding = self._rows_sharding
        batches = (jax.make_array_from_process_local_data(sharding, local) for local in places)
        return (self._crop_eval(self.lines, batch) for batch in batches)

    def _crop_places(self, block: Block, epoch: int) -> npt.NDArray[np.int32]:
        """Returns `_places` of the training crops of a block, [s, C, B, 6]."""
        augmentation, seed = self._stream.augmentation, self._stream.seed
        draws = crops.draw(augmentation, block.shape, seed=seed, epoch=epoch, block=block.number)
        kept = crops.Draws(*(x[block.skipped :] for x in draws))
        boxes = crops.boxes(augmentation, self._sizes[block.rows], kept)
        return self._places(block.rows, boxes, kept.flip)

    def _places(
        self, rows: npt.NDArray, boxes: npt.NDArray, flip: npt.NDArray
    ) -> npt.NDArray[np.int32]:
        """Returns where crops lie in the cache, for rows [...], boxes [..., 4] and flips [...].

        Returns:
          int32 [..., 6]: first line and column, numbers of lines and columns, whether the image is
          transposed, whether to mirror it.
        """
        is_wide = self._is_wide[rows]
        turned = np.where(is_wide[..., None], boxes[..., [1, 0, 3, 2]], boxes)
        line, *others = np.moveaxis(turned, -1, 0)
        fields = [self._first_line[rows] + line, *others, is_wide, flip]
        return np.stack(fields, axis=-1).astype(np.int32)


def create(streams: Sequence[pipeline.Stream], mesh: Mesh) -> list[Cache]:
    """Reads image sets into the devices' memory, replicated on each device.

    Raises:
      InputError: before an image is decoded, if they do not fit.
    """
    sizes = [stream.resized_sizes() for stream in streams]
    needed = sum(int(pipeline.num_bytes(size).sum()) for size in sizes)
    if needed > (free := free_bytes(mesh)):
        raise InputError(
            f"dataset.cache=device needs {needed / 2**20:,.0f} MiB of each device's memory for "
            f"{sum(map(len, sizes))} images at {streams[0].augmentation.resize} pixels, got "
            f"{free / 2**20:,.0f} MiB; set dataset.cache=none, or a smaller dataset.resize."
        )
    return [Cache(stream, size, mesh) for stream, size in zip(streams, sizes, strict=True)]


def free_bytes(mesh: Mesh) -> int:
    """Returns the free memory of the device that has least."""
    known = [device.memory_stats() for device in mesh.local_devices]
    if all(known):
        return min(memory["bytes_limit"] - memory["bytes_in_use"] for memory in known)
    # CPU devices have no statistics, and share the machine's memory.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // mesh.local_mesh.size


def _fill(stream: pipeline.Stream, num_lines: int, sharding: NamedSharding) -> jax.Array:
    """Returns the lines uint8 [num_lines or a few more, resize * 3], transferred block by block."""
    shape = (-(-num_lines // _LINES_AT_ONCE) * _LINES_AT_ONCE, stream.augmentation.resize * 3)
    lines = jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=sharding)()
    put = jax.jit(
        lambda lines, block, start: jax.lax.dynamic_update_slice(lines, block, (start, 0)),
        in_shardings=(sharding, sharding, sharding),
        out_shardings=sharding,
        donate_argnums=0,
    )
    for i, block in enumerate(_blocks(stream.resized_images(), shape[1])):
        lines = put(lines, block, np.int32(i * _LINES_AT_ONCE))
    return lines


def _blocks(images: Iterable[npt.NDArray], width: int) -> Iterator[npt.NDArray]:
    """Yields the images' lines in blocks [_LINES_AT_ONCE, width], the last padded with zeros."""
    block, filled = np.zeros((_LINES_AT_ONCE, width), np.uint8), 0
    for image in images:
        is_wide = image.shape[1] > image.shape[0]
        lines = (image.swapaxes(0, 1) if is_wide else image).reshape(-1, width)
        while len(lines):
            part = lines[: _LINES_AT_ONCE - filled]
            block[filled : filled + len(part)] = part
            lines, filled = lines[len(part) :], filled + len(part)
            if filled == _LINES_AT_ONCE:
                yield block
                block, filled = np.zeros_like(block), 0
    if filled:
        yield block


def _jit(
    cut: Callable[[jax.Array, jax.Array], jax.Array], mesh: Mesh, sharding: NamedSharding
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns a function in which each device cuts its share of a batch from its own lines."""
    replicated = devices.replicated(mesh)
    specs = (replicated.spec, sharding.spec)
    share = jax.shard_map(cut, mesh=mesh, in_specs=specs, out_specs=sharding.spec)
    first = jax.jit(share, in_shardings=(replicated, sharding), out_shardings=sharding)
    # Two programs: in one, XLA for CPUs would fuse them and compute every pixel twice, with strided
    # access to memory, which took 15 times as long.
    second = jax.jit(_turn_upright, in_shardings=(sharding, sharding), out_shardings=sharding)

    def crop(lines: jax.Array, places: jax.Array) -> jax.Array:
        return second(first(lines, places), places)

    return crop


def _cut(lines: jax.Array, places: jax.Array, *, size: int, num_taps: int) -> jax.Array:
    """Cuts boxes, resizes them to size x size and mirrors them where asked.

    Args:
      lines: uint8 [L, resize * 3].
      places: int32 [..., 6], see `Cache._places`.
      size: side of the output.
      num_taps: largest number of lines that one line of the output is the mean of.

    Returns:
      uint8 [..., size, size, 3], indexed by column and then by line.
    """
    line, column, num_lines, num_columns, turned, flip = jnp.moveaxis(places.reshape(-1, 6), 1, 0)
    turned, flip = turned.astype(bool), flip.astype(bool)
    # First pass, over lines: [n, size, resize, 3]; then columns become lines.
    half = _means(lines, line, *_taps(num_lines, flip & turned, size, num_taps))
    half = half.reshape(len(line), size, -1, 3).swapaxes(1, 2)
    # Second pass, over the columns of all n crops, as lines of one array [n resize, size 3].
    column += half.shape[1] * jnp.arange(len(line))
    half = half.reshape(-1, size * 3)
    means = _means(half, column, *_taps(num_columns, flip & ~turned, size, num_taps))
    return jnp.round(means).astype(jnp.uint8).reshape(*places.shape[:-1], size, size, 3)


def _turn_upright(pixels: jax.Array, places: jax.Array) -> jax.Array:
    """Returns the output of `_cut` indexed by line and column, as transposed images are already."""
    turned = places[..., 4].astype(bool)[..., None, None, None]
    return jnp.where(turned, pixels, pixels.swapaxes(-3, -2))


def _taps(
    sides: jax.Array, flip: jax.Array, size: int, num_taps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the lines of a box that each line of the output is a mean of, and their weights.

    The weights are a triangle filter: bilinear interpolation with antialias. Its radius is a line
    of the output, or of the box if that is larger; it is cut off at the edges of the box.

    Returns:
      Numbers of lines within the box, int32, and weights, float32, which sum to 1, both
      [n, size, num_taps].
    """
    scale = (sides / size)[:, None]
    radius = jnp.maximum(scale, 1)
    output = jnp.arange(size)
    center = (jnp.where(flip[:, None], output[::-1], output) + 0.5) * scale
    first = jnp.floor(center - radius + 0.5).astype(jnp.int32)
    index = first[..., None] + jnp.arange(num_taps)
    distance = jnp.abs(index + 0.5 - center[..., None]) / radius[..., None]
    inside = (index >= 0) & (index < sides[:, None, None])
    weight = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return jnp.where(inside, index, 0), weight / weight.sum(axis=-1, keepdims=True)


def _means(lines: jax.Array, start: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns the weighted means [n, size, width] of lines[L, width] numbers start + index."""
    rows = start[:, None, None] + index
    taps = [
        lines[rows[..., tap]].astype(jnp.float32) * weight[..., tap, None]
        for tap in range(index.shape[-1])
    ]
    return functools.reduce(jnp.add, taps)
