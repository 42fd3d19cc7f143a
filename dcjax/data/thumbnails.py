"""Small pictures of images, for pages: decoded as the pipeline does, and encoded as WebP."""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image

from dcjax.data import decoding
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.files import read_bytes
from dcjax.data.quiet_tensorflow import tf

_QUALITY = 75  # of WebP, up to 100
_EFFORT = 4  # of its encoder, 0 to 6


def create(
    images: ImageSet,
    rows: Sequence[int] | npt.NDArray,
    *,
    size: int = 96,
    enlarges: bool = True,
    max_pixels: int = 0,
    num_threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[bytes | None]:
    """Returns a thumbnail of each of these images, encoded as WebP; None if it cannot be read now.

    Features in the place of images have none.

    The longer side has at most `size` pixels. Images of less than half of it are enlarged, if
    wanted, by a whole number, without smoothing, so that their pixels can be seen.

    Args:
      images: the images.
      rows: which of them.
      size: in pixels.
      enlarges: whether small images are enlarged.
      max_pixels: as of `decoding.decode`.
      num_threads: images read at once; None: as many as there are cores.
      advance: called after each image with 1.
    """
    decode = _decoder(max_pixels)

    def load(row: int) -> npt.NDArray[np.uint8] | None:
        if images.num_features:
            return None
        if images.in_memory:
            return images.images[row]
        try:
            return decode(tf.constant(read_bytes(images.images[row]))).numpy()
        except (tf.errors.OpError, OSError, ValueError):
            return None

    def make(row: int) -> bytes | None:
        pixels = load(int(row))
        return None if pixels is None else encode(pixels, size, enlarges=enlarges)

    with concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        made = []
        for picture in pool.map(make, rows):
            made.append(picture)
            advance(1)
        return made


@functools.cache
def _decoder(max_pixels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(
        lambda encoded: decoding.decode(encoded, max_pixels=max_pixels),
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
    )


def encode(pixels: npt.NDArray[np.uint8], size: int, *, enlarges: bool = True) -> bytes:
    """Returns pixels [h, w, 1 or 3] as WebP of at most `size` pixels a side, see `create`."""
    picture = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    longest = max(picture.size)
    if longest > size:
        # A whole-number reduction first: the rest is a fourth of the pixels or fewer.
        picture.thumbnail((size, size), PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
    elif enlarges and (factor := size // longest - 1):
        width, height = ((factor + 1) * side for side in picture.size)
        picture = picture.resize((width, height), PIL.Image.Resampling.NEAREST)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "WEBP", quality=_QUALITY, method=_EFFORT)
    return content.getvalue()
