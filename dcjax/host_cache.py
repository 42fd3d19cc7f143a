"""Decoded images on the host, at the resize size: in its memory, or in a file that is mapped.

No image is decoded twice: the memory is filled at the start of a run, the file once for all runs.
"""

import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import filelock
import numpy as np
import numpy.typing as npt

from dcjax import naming, pipeline, processes
from dcjax.datasets import ImageSet
from dcjax.errors import InputError
from dcjax.quiet_tensorflow import tf
from dcjax.writers import Console

_FORMAT = 1  # of the file; to be counted up when other pixels come out of the same files
_PIXELS, _SIZES = "pixels", "sizes.npy"


class Decoded(NamedTuple):
    """Images one behind the other.

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


def source(decoded: Decoded) -> pipeline.Source:
    """Returns the source of the images for a stream."""

    def read(row: np.int32) -> npt.NDArray[np.uint8]:
        # TensorFlow may work in place on what it is given, so it is given a copy.
        return decoded.image(int(row)).copy()

    return lambda row: tf.ensure_shape(tf.numpy_function(read, [row], tf.uint8), [None, None, 3])


def create(streams: Sequence[pipeline.Stream], folder: str | None) -> list[Decoded]:
    """Decodes all images of some streams, or finds them decoded.

    Args:
      streams: their images and resize size; other ones make another file.
      folder: holds the files of all sets; "": dcjax/images in the user's cache folder; None: the
        images are kept in memory.

    Raises:
      InputError: before an image is decoded, if they do not fit.
    """
    if folder is not None:
        return [_on_disk(stream, folder) for stream in streams]
    sizes = [stream.resized_sizes() for stream in streams]
    sharing = processes.on_this_host()
    needed = sharing * sum(map(_total, sizes))
    if needed > (available := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        each = f" in each of {sharing} processes" if sharing > 1 else ""
        raise InputError(
            f"dataset.cache=memory needs {needed / 2**20:,.0f} MiB for {sum(map(len, sizes))} "
            f"images at {streams[0].augmentation.resize} pixels{each}, and this machine has "
            f"{available / 2**20:,.0f} MiB; set dataset.cache=disk or none, or a smaller "
            "dataset.resize."
        )
    return [_in_memory(stream, size) for stream, size in zip(streams, sizes, strict=True)]


def _on_disk(stream: pipeline.Stream, folder: str) -> Decoded:
    """Maps the file of all images of a stream, and writes it if there is none yet.

    It is written under another name, so that an interrupted run leaves none that looks whole.
    """
    caches = pathlib.Path(naming.expand(folder or _default_folder()))
    place = caches / _key(stream.images, stream.augmentation.resize)
    if not _is_whole(place, len(stream.images)):
        caches.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{place}.lock"):  # a run beside this one waits for the file
            if not _is_whole(place, len(stream.images)):
                _write(stream, place)
    return _arranged(np.memmap(place / _PIXELS, np.uint8, "r"), np.load(place / _SIZES))


def _is_whole(place: pathlib.Path, num_images: int) -> bool:
    try:
        sizes = np.load(place / _SIZES)
        length = os.stat(place / _PIXELS).st_size
    except (OSError, ValueError, EOFError):
        return False
    return sizes.shape == (num_images, 2) and _total(sizes) == length


def _write(stream: pipeline.Stream, place: pathlib.Path) -> None:
    sizes = stream.resized_sizes()
    unfinished = place.with_name(f"{place.name}.unfinished")
    for leftover in (unfinished, place):  # of a run that was killed, or damaged since
        shutil.rmtree(leftover, ignore_errors=True)
    needed, free = _total(sizes), shutil.disk_usage(place.parent).free
    if needed > free:
        raise InputError(
            f"dataset.cache=disk needs {needed / 2**20:,.0f} MiB in {place.parent} for "
            f"{len(sizes)} images at {stream.augmentation.resize} pixels, and there are "
            f"{free / 2**20:,.0f} MiB; set dataset.cache_dir to another disk, or a smaller "
            "dataset.resize."
        )
    unfinished.mkdir()
    np.save(unfinished / _SIZES, sizes)
    with open(unfinished / _PIXELS, "wb") as file:
        for image in _told(stream, str(place)):
            file.write(image.tobytes())
    unfinished.rename(place)


def _in_memory(stream: pipeline.Stream, sizes: npt.NDArray[np.int32]) -> Decoded:
    decoded = _arranged(np.empty(_total(sizes), np.uint8), sizes)
    for row, image in enumerate(_told(stream, "memory")):
        decoded.image(row)[...] = image
    return decoded


def _told(stream: pipeline.Stream, where: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields all resized images, and tells of it."""
    console, total = Console(quiet=not processes.is_first()), len(stream.images)
    console.line(f"cache     decodes {total:,} images into {where}")
    with console.progress("decoding", total=total, done=0) as move:
        for image in stream.resized_images():
            yield image
            move("images")


def _arranged(pixels: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int32]) -> Decoded:
    lengths = pipeline.num_bytes(sizes)
    return Decoded(pixels, np.cumsum(lengths) - lengths, sizes)


def _total(sizes: npt.NDArray[np.int32]) -> int:
    return int(pipeline.num_bytes(sizes).sum())


def _default_folder() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dcjax", "images")


def _key(images: ImageSet, resize: int) -> str:
    """Returns a name that tells these images, as they are now, at this size from all others."""
    told = images.images
    digest = hashlib.sha256(f"{_FORMAT} {resize} {told.shape}".encode())
    if not images.in_memory:
        is_part = told.dtype.names is not None
        paths, which = np.unique(told["file"] if is_part else told, return_inverse=True)
        found = [os.stat(path) for path in paths]
        states = [
            (os.path.abspath(path), state.st_size, state.st_mtime_ns)
            for path, state in zip(paths, found, strict=True)
        ]
        digest.update(repr(states).encode())
        told = np.stack([which, told["offset"]]) if is_part else which
    digest.update(np.ascontiguousarray(told).data)
    return digest.hexdigest()[:32]
