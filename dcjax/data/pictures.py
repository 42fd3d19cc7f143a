"""Reads single pictures, from files or from memory, as the pipeline reads those of an image set."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data import augment, crops, decoding, headers
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.files import read_bytes
from dcjax.data.quiet_tensorflow import tf

Path = str | bytes | os.PathLike
Crops = npt.NDArray[np.uint8]

_REQUIRED = (
    "Give a list of pictures: paths, PIL images, or arrays of uint8 or uint16, [h, w] or "
    "[h, w, c] with c = 1, 3 or 4, in grey or RGB"
)
_FLOATS = "; of floats in 0..1, give (255 * x).round().astype('uint8')"
_ORIENTATION = 0x0112  # Exif tag
_UPRIGHT = 1


class _Pixels(NamedTuple):
    """A decoded picture: uint8 [h, w, 3], and the Exif orientation that it is to be turned by."""

    pixels: npt.NDArray[np.uint8]
    orientation: int


class CropReader:
    """Reads the centre crops of pictures, after the shorter side is resized.

    The functions of a picture are traced once, when they are first needed.
    """

    def __init__(
        self,
        *,
        resize: int,
        size: int,
        max_pixels: int = headers.MAX_PIXELS,
        num_threads: int | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
          resize: shorter side in pixels before the crop.
          size: side of the crop in pixels.
          max_pixels: limit on height times width beyond which a file is an error; 0: none.
          num_threads: pictures read at once; None: as many as Python's executors choose.
        """
        crops.Augmentation(resize=resize, size=size)  # checks that such crops can be made
        self._size = size
        self._max_pixels = max_pixels
        self._num_threads = num_threads
        one_crop = tf.TensorSpec((size, size, 3), tf.uint8)

        def crop(image: tf.Tensor) -> tf.Tensor:
            return augment.center_crop(augment.resize_shorter_side(image, resize), size)

        def crop_each(function: Callable[[Any], tf.Tensor], batch: Any) -> tf.Tensor:
            parallel = num_threads or os.cpu_count()
            return tf.map_fn(
                function, batch, fn_output_signature=one_crop, parallel_iterations=parallel
            )

        def crop_files(encoded: tf.Tensor) -> tf.Tensor:
            return crop_each(lambda x: crop(decoding.decode(x, max_pixels=max_pixels)), encoded)

        def crop_pixels(
            joined: tf.Tensor, starts: tf.Tensor, sizes: tf.Tensor, orientations: tf.Tensor
        ) -> tf.Tensor:
            def crop_one(picture: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
                start, size, orientation = picture
                shape = tf.concat([size, [3]], 0)
                pixels = tf.slice(joined, [start], [tf.reduce_prod(tf.cast(shape, tf.int64))])
                return crop(decoding.turn_upright(tf.reshape(pixels, shape), orientation))

            return crop_each(crop_one, (starts, sizes, orientations))

        # Signatures for any number of pictures of any size: tf.data, and functions without one,
        # would be traced in every call, which takes longer than to embed an image.
        self._crop_files = _compile(crop_files, ((None,), tf.string))
        self._crop_pixels = _compile(
            crop_pixels,
            ((None,), tf.uint8),
            ((None,), tf.int64),
            ((None, 2), tf.int32),
            ((None,), tf.int32),
        )

    def batches(self, pictures: Any, batch_size: int) -> Iterator[Crops]:
        """Yields the crops of pictures, uint8 [batch, size, size, 3], one batch ahead.

        Of an iterator, it takes the pictures of two batches at a time.

        Args:
          pictures: a list or another ordered iterable. Each is a path; or a PIL image; or an array,
            uint8 or uint16, in RGB or grey, whose alpha is left out.
          batch_size: pictures at a time; the last batch may have fewer.

        Raises:
          InputError: if they are of another kind, or a file cannot be read.
        """
        items = _parse(pictures)
        with (
            concurrent.futures.ThreadPoolExecutor(1) as worker,
            concurrent.futures.ThreadPoolExecutor(self._num_threads) as readers,
        ):

            def begin() -> concurrent.futures.Future[Crops] | None:
                batch = list(itertools.islice(items, batch_size))
                return worker.submit(self._crop, batch, readers) if batch else None

            upcoming = begin()
            while upcoming:
                batch, upcoming = upcoming, begin()
                yield batch.result()

    def _crop(self, items: Sequence[str | _Pixels], readers: concurrent.futures.Executor) -> Crops:
        crops = np.empty((len(items), self._size, self._size, 3), np.uint8)
        is_file = np.array([isinstance(item, str) for item in items])
        if is_file.any():
            crops[is_file] = self._read_files([x for x in items if isinstance(x, str)], readers)
        if not is_file.all():
            pixels, orientations = zip(*(x for x in items if not isinstance(x, str)), strict=True)
            starts = np.cumsum([0, *(image.size for image in pixels[:-1])])
            sizes = np.array([image.shape[:2] for image in pixels], np.int32)
            joined = np.concatenate([image.reshape(-1) for image in pixels])
            crops[~is_file] = self._crop_pixels(
                joined, starts, sizes, np.array(orientations, np.int32)
            ).numpy()
        return crops

    def _read_files(self, paths: Sequence[str], readers: concurrent.futures.Executor) -> Crops:
        images = ImageSet(np.array(paths, np.str_), np.zeros(len(paths), np.int32), ("",))
        try:
            return self._crop_files(list(readers.map(read_bytes, images.images))).numpy()
        except (tf.errors.OpError, OSError):
            for row, path in enumerate(paths):  # TensorFlow does not say which file it was
                if reason := decoding.unreadable_reason(images, row, max_pixels=self._max_pixels):
                    raise InputError(f"Cannot read image {naming.escape(path)}: {reason}") from None
            raise


def _compile(function: Callable[..., tf.Tensor], *arguments: tuple[Any, Any]) -> Any:
    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in arguments]
    return tf.function(function, input_signature=signature, autograph=False)


def _parse(pictures: Any) -> Iterator[str | _Pixels]:
    # Neither a single path or picture, nor sets and dicts, whose order is undefined.
    if isinstance(pictures, Path | Set | Mapping) or not isinstance(pictures, Iterable):
        raise InputError(f"{_REQUIRED}; got {pictures!r:.80}.")
    if hasattr(pictures, "__array__"):
        pictures = np.asarray(pictures)
        # One picture [h, w, 3] would be read as h grey ones.
        if pictures.ndim not in (1, 4):
            raise InputError(f"{_REQUIRED}; got an array of {_describe(pictures)}.")
    return (_parse_one(picture, place) for place, picture in enumerate(pictures))


def _parse_one(picture: Any, place: int) -> str | _Pixels:
    """Returns the path of a file, or the pixels of an array or a PIL image."""
    if isinstance(picture, Path):
        return os.fsdecode(picture)
    orientation = _UPRIGHT
    if hasattr(picture, "getexif"):  # a PIL image
        orientation = _pil_orientation(picture)
        if picture.mode != "F" and not picture.mode.startswith("I"):  # else 8 bits are too few
            picture = picture.convert("RGB")
    try:
        array = np.asarray(picture)
    except (TypeError, ValueError):  # as of a list of lists
        raise InputError(f"{_REQUIRED}; got {picture!r:.80} in place {place}.") from None
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype.kind != "u" or array.itemsize > 2 or not is_picture or not array.size:
        floats = _FLOATS if array.dtype.kind == "f" else ""
        raise InputError(f"{_REQUIRED}{floats}; got {_describe(array)} in place {place}.")
    if array.itemsize == 2:
        array = array >> 8  # as PNG files of 16 bits are decoded
    pixels = array.astype(np.uint8, copy=False).reshape(*array.shape[:2], -1)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return _Pixels(pixels, orientation)


def _pil_orientation(picture: Any) -> int:
    value = picture.getexif().get(_ORIENTATION, _UPRIGHT)
    return int(value) if value in range(1, 9) else _UPRIGHT


def _describe(array: npt.NDArray) -> str:
    return f"{array.dtype} {list(array.shape)}"
