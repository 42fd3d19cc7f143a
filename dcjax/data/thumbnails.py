"""Small pictures of images for pages, encoded as WebP."""

import io

import numpy as np
import numpy.typing as npt
import PIL.Image

from dcjax.data import decoding
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.files import read_bytes
from dcjax.data.quiet_tensorflow import tf

_QUALITY = 80
_EXACT = 64  # pixels of the longer side, below which nothing is lost


def encode(images: ImageSet, row: int, *, side: int, max_pixels: int = 0) -> bytes | None:
    """Returns an image as WebP, decoded as the pipeline decodes it, None if it cannot be read.

    Args:
      images: the image set.
      row: of the image.
      side: of the picture in pixels, at most; a smaller image keeps its size.
      max_pixels: limit on height times width beyond which a file is not read; 0: none.
    """
    try:
        pixels = _read(images, row, max_pixels)
    except (OSError, ValueError, tf.errors.OpError):
        return None
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    # Pictures of a few pixels, as digits, stay exact.
    picture.save(encoded, "WEBP", quality=_QUALITY, lossless=max(picture.size) < _EXACT)
    return encoded.getvalue()


def _read(images: ImageSet, row: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    if images.in_memory:
        pixels = images.images[row]
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    encoded = tf.constant(read_bytes(images.images[row]), tf.string)
    return decoding.decode(encoded, max_pixels=max_pixels).numpy()
