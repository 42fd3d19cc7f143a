"""Caches resized images on the host, in memory or in a memory-mapped file.

An image is decoded into memory when it is first read, so that a run begins at once; the file is
written once for all runs, and read when it is complete.
"""

import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.core.errors import InputError, file_errors
from dcjax.data import cache_folders, pipeline
from dcjax.data.datasets import ImageSet
from dcjax.data.quiet_tensorflow import tf
from dcjax.distributed import processes

_FORMAT = 2  # of the file; to be increased when decoding changes
_PIXELS, _SIZES = "pixels", "sizes.npy"


class Decoded(NamedTuple):
    """Images, concatenated.

    Attributes:
      pixels: uint8 [bytes].
      first: int64 [N], first byte of each image.
      sizes: int32 [N, 2], height and width.
    """

    pixels: npt.NDArray[np.uint8]
    first: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]

    def image(self, row: int) -> npt.NDArray[np.uint8]:
        """Returns one image, uint8 [h, w, 3]."""
        (height, width), start = self.sizes[row], self.first[row]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)


def create_source(decoded: Decoded) -> pipeline.Source:
    """Returns the source of the images for a stream."""

    def read(row: np.int32) -> npt.NDArray[np.uint8]:
        # A copy, since TensorFlow may change it in place.
        return decoded.image(int(row)).copy()

    return lambda row: tf.ensure_shape(tf.numpy_function(read, [row], tf.uint8), [None, None, 3])


def create(streams: Sequence[pipeline.Stream], folder: str | None) -> list[pipeline.Source]:
    """Returns sources of the resized images of some streams, which decode each image once.

    Args:
      streams: of the image sets; each set and resize size has a file.
      folder: holds the files of all sets, which are written here where they are missing; "":
        dcjax/images in the user's cache folder; None: the images are kept in memory, each from its
        first reading on.

    Raises:
      InputError: before an image is decoded, if they do not fit.
    """
    if folder is not None:
        return [create_source(_map_file(stream, folder)) for stream in streams]
    sizes = [stream.resized_sizes() for stream in streams]
    sharing = processes.num_on_this_host()
    needed = sharing * sum(map(_total_bytes, sizes))
    if needed > (available := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        each = f" in each of {sharing} processes" if sharing > 1 else ""
        raise InputError(
            f"dataset.cache=memory needs {needed / 2**20:,.0f} MiB for {sum(map(len, sizes))} "
            f"images at {streams[0].augmentation.resize} pixels{each}, and this machine has "
            f"{available / 2**20:,.0f} MiB; set dataset.cache=disk or none, or a smaller "
            "dataset.resize."
        )
    cache_folders.say(f"keeps {sum(map(len, sizes)):,} images in memory, from their first reading")
    return [_keep_in_memory(stream, size) for stream, size in zip(streams, sizes, strict=True)]


def _keep_in_memory(stream: pipeline.Stream, sizes: npt.NDArray[np.int32]) -> pipeline.Source:
    """Returns a source that decodes an image when it is first read, and has it from then on."""
    decoded = _arrange(np.empty(_total_bytes(sizes), np.uint8), sizes)
    is_kept = np.zeros(len(sizes), bool)

    def find(row: np.int32) -> npt.NDArray[np.uint8]:
        """Returns the image, or one without pixels if it has not been read before."""
        return decoded.image(int(row)).copy() if is_kept[row] else np.empty((0, 0, 3), np.uint8)

    def keep(row: np.int32, image: npt.NDArray[np.uint8]) -> np.bool_:
        # Two threads that decode the same image write the same pixels.
        decoded.image(int(row))[...] = image
        is_kept[row] = True
        return np.bool_(True)

    def read(row: tf.Tensor) -> tf.Tensor:
        found = tf.ensure_shape(tf.numpy_function(find, [row], tf.uint8), [None, None, 3])

        def decode() -> tf.Tensor:
            image = stream.load_resized(row)
            with tf.control_dependencies([tf.numpy_function(keep, [row, image], tf.bool)]):
                return tf.identity(image)

        return tf.cond(tf.size(found) > 0, lambda: found, decode)

    return read


def _map_file(stream: pipeline.Stream, folder: str) -> Decoded:
    """Maps the file of all images of a stream, after writing it if it does not exist."""
    caches = cache_folders.root(folder, "images")
    place = caches / key(stream.images, stream.augmentation.resize)
    advice = "make room, or set dataset.cache_dir to another folder, or dataset.cache=none"
    with file_errors(f"dataset.cache=disk cannot be kept in {caches}", advice=advice):
        data = cache_folders.find_or_write(place, functools.partial(_write, stream, place))
        return _arrange(np.memmap(data / _PIXELS, np.uint8, "r"), np.load(data / _SIZES))


def _write(stream: pipeline.Stream, place: pathlib.Path, data: pathlib.Path) -> None:
    """Writes the files of the cache at a place into a folder."""
    sizes = stream.resized_sizes()
    needed, free = _total_bytes(sizes), shutil.disk_usage(data).free
    if needed > free:
        raise InputError(
            f"dataset.cache=disk needs {needed / 2**20:,.0f} MiB in {place.parent} for "
            f"{len(sizes)} images at {stream.augmentation.resize} pixels, and there are "
            f"{free / 2**20:,.0f} MiB; set dataset.cache_dir to another disk, or a smaller "
            "dataset.resize."
        )
    np.save(data / _SIZES, sizes)
    with open(data / _PIXELS, "wb") as file:
        for image in _decode_images(stream, place):
            file.write(image.tobytes())


def _decode_images(stream: pipeline.Stream, where: pathlib.Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields all resized images, with a line and a progress bar on the terminal."""
    total = len(stream.images)
    console = cache_folders.say(f"decodes {total:,} images into {where}")
    with console.progress("decoding", total=total, done=0) as move:
        for image in stream.resized_images():
            yield image
            move("images")


def _arrange(pixels: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int32]) -> Decoded:
    lengths = pipeline.num_bytes(sizes)
    return Decoded(pixels, np.cumsum(lengths) - lengths, sizes)


def _total_bytes(sizes: npt.NDArray[np.int32]) -> int:
    return int(pipeline.num_bytes(sizes).sum())


def key(images: ImageSet, resize: int) -> str:
    """Returns a name that identifies these images, in their current state, at this size.

    A file is identified by its path, size, mtime and ctime. Programs may set mtime (tar, rsync and
    cp -p give a copy that of the original), but none can set ctime.
    """
    stored = images.images
    digest = hashlib.sha256(f"{_FORMAT} {resize} {stored.shape}".encode())
    if not images.in_memory:
        is_part = stored.dtype.names is not None
        paths, which = np.unique(stored["file"] if is_part else stored, return_inverse=True)
        digest.update(repr([_state(path) for path in paths]).encode())
        stored = np.stack([which, stored["offset"], stored["length"]]) if is_part else which
    digest.update(np.ascontiguousarray(stored).data)
    return digest.hexdigest()[:32]


def _state(path: str) -> tuple[str, int, int, int]:
    with file_errors("Cannot read an image"):
        status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns
