"""Inspects every image of a set: whether it decodes, size, channels, fingerprint of its pixels."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.data import decoding, headers
from dcjax.data.datasets import ImageSet
from dcjax.data.quiet_tensorflow import tf

_FORMATS = ("", *dict.fromkeys(headers.FORMATS.values()))
_AT_ONCE = 32  # images that come back from TensorFlow together


class Inspection(NamedTuple):
    """Properties of N images; zero or empty for those that cannot be read.

    Attributes:
      reasons: why an image cannot be read, by its row.
      sizes: int32 [N, 2], height and width, upright.
      formats: str [N], one of `headers.FORMATS`, "" for pixels in memory.
      channels: int32 [N], as stored; 0 where it is not known.
      bits: int32 [N], of one channel; 0 where it is not known.
      fingerprints: uint64 [N], equal for equal pixels and hardly ever for others.
    """

    reasons: dict[int, str]
    sizes: npt.NDArray[np.int32]
    formats: npt.NDArray[np.str_]
    channels: npt.NDArray[np.int32]
    bits: npt.NDArray[np.int32]
    fingerprints: npt.NDArray[np.uint64]

    @property
    def is_read(self) -> npt.NDArray[np.bool_]:
        """Whether an image can be read, [N]."""
        return self.sizes[:, 0] > 0


def inspect(images: ImageSet, move: Callable[[int], None], *, max_pixels: int = 0) -> Inspection:
    """Decodes every image of a set.

    Args:
      images: The set.
      move: Called with the number of further images that are done.
      max_pixels: The limit on height times width beyond which an image cannot be read; 0: none.
    """
    look = _look_at_pixels(images) if images.in_memory else _look_at_files(images, max_pixels)
    rows = tf.data.Dataset.range(len(images), output_type=tf.int32)
    seen = rows.map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).ignore_errors()
    facts = np.zeros((len(images), 5), np.int32)  # height, width, format, channels, bits
    fingerprints = np.zeros(len(images), np.uint64)
    is_read = np.zeros(len(images), bool)
    for row, fact, fingerprint in seen.batch(_AT_ONCE).as_numpy_iterator():
        facts[row], fingerprints[row], is_read[row] = fact, fingerprint, True
        move(len(row))
    reasons = {}
    for row in np.flatnonzero(~is_read).tolist():
        reason = decoding.unreadable_reason(images, row, max_pixels=max_pixels)
        reasons[row] = reason or "It cannot be decoded."
        move(1)
    formats = np.array(_FORMATS)[facts[:, 2]]
    return Inspection(reasons, facts[:, :2], formats, facts[:, 3], facts[:, 4], fingerprints)


def pixels(images: ImageSet, row: int) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image that can be read, [h, w, channels]."""
    if images.in_memory:
        return images.images[row]
    one = images.select([row])
    return decoding.decode(decoding.contents(one)(tf.constant(0))).numpy()


def _look_at_files(
    images: ImageSet, max_pixels: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    contents = decoding.contents(images)

    def read_header(encoded: bytes) -> npt.NDArray[np.int32]:
        header = headers.read(encoded)
        return np.array([_FORMATS.index(header.format), header.channels, header.bits], np.int32)

    def look(row: tf.Tensor) -> tuple[tf.Tensor, ...]:
        encoded = contents(row)
        image = decoding.decode(encoded, max_pixels=max_pixels)
        header = tf.ensure_shape(tf.numpy_function(read_header, [encoded], tf.int32), [3])
        return row, tf.concat([tf.shape(image)[:2], header], 0), _fingerprint(image)

    return look


def _look_at_pixels(images: ImageSet) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    pixels = tf.constant(images.images)
    height, width, channels = images.images.shape[1:]
    facts = tf.constant([height, width, 0, channels, 8])
    return lambda row: (row, facts, _fingerprint(pixels[row]))


def _fingerprint(image: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tf.fingerprint(tf.reshape(image, [1, -1]))[0], tf.uint64)
