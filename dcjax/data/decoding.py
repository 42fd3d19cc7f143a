"""Reads and decodes encoded images, and finds those that cannot be decoded."""

import concurrent.futures
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data import augment, bitmaps, gifs, headers
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.files import read_bytes
from dcjax.data.quiet_tensorflow import tf

_SHOWN = 5  # bad files named in an error
# TensorFlow's default is a faster, less accurate transform than that of other libraries, with which
# published weights were trained: recall@1 on bird crops changed by 0.003.
_DCT_METHOD = "INTEGER_ACCURATE"
_MARGIN = 16  # pixels decoded around a box; colours, stored at half the size, reach 2 pixels far
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 24  # bytes up to its width and height, which are the last of them
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEAD = 1 << 16  # bytes of a file that a quick check reads
# Keys of Exif tags and XMP, one of which is in a JPEG or PNG that has an orientation.
_JPEG_KEYS = (r"Exif\x00\x00", "tiff:Orientation")
_PNG_KEYS = ("eXIf", "exif", r"XML:com\.adobe\.xmp")
_ON_ITS_SIDE = 5  # Exif orientations from here on swap rows and columns
_MIRRORED = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], bool)  # of 1 to 4, and 5 to 8


def contents(images: ImageSet) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from a row int32[] of encoded images to its bytes, string[].

    Only regular files are read; anything else is an error.
    """

    def read(row: int) -> bytes:
        return read_bytes(images.images[row])

    # TensorFlow has no operation that reads a part of a file, or that detects a pipe.
    in_python = functools.partial(_call_python, read, kind=tf.string)
    if images.images.dtype.names is not None:
        return in_python
    # As bytes: TensorFlow would encode text as UTF-8, and names may have other bytes.
    paths = tf.constant([os.fsencode(path) for path in images.images.tolist()], tf.string)
    if not images.is_no_file.any():
        return lambda row: tf.io.read_file(paths[row])
    is_no_file = tf.constant(images.is_no_file)
    return lambda row: tf.cond(
        is_no_file[row], lambda: in_python(row), lambda: tf.io.read_file(paths[row])
    )


def decode(encoded: tf.Tensor, *, max_pixels: int = 0) -> tf.Tensor:
    """Decodes bytes of any format TensorFlow knows, grey and CMYK too, into uint8[h, w, 3].

    Pictures are turned upright by their Exif orientation; alpha is left out; of several frames,
    the first is taken.

    Args:
      encoded: The bytes, string[].
      max_pixels: The limit on height times width, by the header, before pixels are decoded; 0:
        none.
    """
    orientation = _check_and_read_orientation(encoded, max_pixels)
    with tf.control_dependencies([orientation]):
        return _decode_checked(encoded, orientation)


def decode_box(encoded: tf.Tensor, find_box: augment.FindBox, *, max_pixels: int = 0) -> tf.Tensor:
    """Decodes one box of an image; the pixels are those of the same box cut out after `decode`.

    Of an upright JPEG, the pixels around the box are not computed, and what is stored below it is
    not read: damage there is no error.

    Args:
      encoded: The bytes, string[].
      find_box: Returns the box, from the image's size.
      max_pixels: As of `decode`.
    """
    orientation = _check_and_read_orientation(encoded, max_pixels)

    def decode_jpeg_box() -> tf.Tensor:
        return _decode_jpeg_box(encoded, find_box)

    def decode_and_cut() -> tf.Tensor:
        image = _decode_checked(encoded, orientation)
        return augment.cut(image, *find_box(tf.shape(image)[:2]))

    with tf.control_dependencies([orientation]):
        is_upright_jpeg = tf.io.is_jpeg(encoded) & (orientation == 1)
        return tf.cond(is_upright_jpeg, decode_jpeg_box, decode_and_cut)


def size(encoded: tf.Tensor, *, max_pixels: int = 0) -> tf.Tensor:
    """Returns height and width of an image as decoded, int32[2]; of JPEG from the header alone."""

    def jpeg_size() -> tf.Tensor:
        stored = tf.io.extract_jpeg_shape(encoded)[:2]
        on_its_side = _check_and_read_orientation(encoded, max_pixels) >= _ON_ITS_SIDE
        return tf.where(on_its_side, stored[::-1], stored)

    def other_size() -> tf.Tensor:
        return tf.shape(decode(encoded, max_pixels=max_pixels))[:2]

    return tf.cond(tf.io.is_jpeg(encoded), jpeg_size, other_size)


def _check_and_read_orientation(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns the Exif orientation, int32[]; raises an error for files that must not be decoded."""

    def look(content: bytes) -> np.int32:
        if reason := headers.refusal(content, max_pixels=max_pixels):
            raise InputError(reason)
        return np.int32(headers.orientation(content))

    # A call of Python takes 0.2 ms, a tenth of the time of decoding 500 x 375 pixels. So it is made
    # for a JPEG or PNG only if a key of an orientation is in its bytes. Searching these for a
    # literal takes a hundredth of the time of decoding.
    is_whole_png = _starts_with(encoded, _PNG_START) & (tf.strings.length(encoded) >= _PNG_HEADER)
    is_plain = tf.case(
        [
            (tf.io.is_jpeg(encoded), lambda: _is_plain_jpeg(encoded, max_pixels)),
            (is_whole_png, lambda: _is_plain_png(encoded, max_pixels)),
        ],
        default=lambda: tf.constant(False),
    )
    return tf.cond(is_plain, lambda: tf.constant(1), lambda: _call_python(look, encoded, tf.int32))


def _is_plain_jpeg(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns whether a JPEG is certainly upright, and within the limit on pixels."""
    sides = tf.io.extract_jpeg_shape(encoded)[:2]
    return _is_small(sides, max_pixels) & ~_contains(encoded, _JPEG_KEYS)


def _is_plain_png(encoded: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns whether a PNG is certainly upright, and within the limit on pixels."""
    stored = tf.strings.substr(encoded, _PNG_HEADER - 8, 8)
    sides = tf.io.decode_raw(stored, tf.int32, little_endian=False)
    return _is_small(sides, max_pixels) & ~_contains(encoded, _PNG_KEYS)


def _is_small(sides: tf.Tensor, max_pixels: int) -> tf.Tensor:
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    return tf.logical_or(max_pixels == 0, pixels <= max_pixels)


def _starts_with(encoded: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, len(start)) == start


def _contains(encoded: tf.Tensor, keys: Sequence[str]) -> tf.Tensor:
    """Returns whether one of these literals, as regular expressions, is in the bytes."""
    # TensorFlow can only replace; that is fast for one literal, but not for alternatives.
    length = tf.strings.length(encoded)
    return tf.reduce_any(
        [
            tf.strings.length(tf.strings.regex_replace(encoded, key, "", replace_global=False))
            < length
            for key in keys
        ]
    )


def _decode_checked(encoded: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Decodes bytes that need no further checks, and turns the image upright."""
    image = tf.cond(
        tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_other(encoded)
    )
    upright = tf.cond(orientation == 1, lambda: image, lambda: turn_upright(image, orientation))
    return tf.ensure_shape(upright, (None, None, 3))


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT_METHOD)


def _decode_jpeg_box(encoded: tf.Tensor, find_box: augment.FindBox) -> tf.Tensor:
    size = tf.io.extract_jpeg_shape(encoded)[:2]
    corner, sides = find_box(size)
    # Colours are interpolated between neighbours, which at the edge of a window are not there.
    start = tf.maximum(corner - _MARGIN, 0)
    window = tf.concat([start, tf.minimum(corner + sides + _MARGIN, size) - start], 0)
    image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=_DCT_METHOD)
    return augment.cut(image, corner - start, sides)


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image upright by its Exif orientation."""
    # tf.image.rot90 has many nodes, which take time for every image, rotated or not.
    axes = tf.where(orientation < _ON_ITS_SIDE, (0, 1, 2), (1, 0, 2))
    mirrored = tf.constant(_MIRRORED)[(orientation - 1) % 4]
    return tf.raw_ops.Reverse(tensor=tf.transpose(image, axes), dims=mirrored)


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    return tf.case(
        [
            (_starts_with(encoded, _PNG_START), lambda: _decode_rgb(encoded)),
            (
                _starts_with(encoded, b"GIF8"),
                lambda: _decode_rgb(_call_python(gifs.first, encoded, tf.string)),
            ),
            (_starts_with(encoded, b"BM"), lambda: _decode_bitmap(encoded)),
        ],
        default=lambda: _decode_as_stored(encoded),
    )


def _decode_rgb(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _decode_bitmap(encoded: tf.Tensor) -> tf.Tensor:
    return _call_python(bitmaps.decode, encoded, tf.uint8, shape=[None, None, 3])


def _decode_as_stored(encoded: tf.Tensor) -> tf.Tensor:
    # For WebP and JPEG XL, TensorFlow returns the stored channels only.
    image = tf.io.decode_image(encoded, expand_animations=False)
    return tf.gather(image, tf.where(tf.shape(image)[2] < 3, [0, 0, 0], [0, 1, 2]), axis=2)


def _call_python(
    function: Callable[[Any], Any],
    argument: tf.Tensor,
    kind: tf.DType,
    shape: Sequence[int | None] = (),
) -> tf.Tensor:
    """Applies a Python function of a scalar, which returns an array of this type and shape."""

    def apply(x: Any) -> Any:
        return function(np.asarray(x, object).item())  # outside of a graph, x is an array

    return tf.ensure_shape(tf.numpy_function(apply, [argument], kind, stateful=False), shape)


def select_readable(
    images: ImageSet, *, skip_unreadable: bool, max_pixels: int = 0
) -> tuple[ImageSet, int]:
    """Returns the images whose files can be read, and how many cannot.

    Args:
      images: The images; those in memory are always fine.
      skip_unreadable: False: a quick check, which raises an error if a file is bad. True: every
        file is decoded, and bad ones are left out; labels are not renumbered.
      max_pixels: As of `decode`; an image with more cannot be read.
    """
    bad = find_unreadable(images, thorough=skip_unreadable, max_pixels=max_pixels)
    if not bad:
        return images, 0
    if not skip_unreadable:
        shown = [
            f"{naming.escape(images.name(row))}: "
            f"{unreadable_reason(images, row, max_pixels=max_pixels)}"
            for row in bad[:_SHOWN]
        ]
        raise InputError(
            f"{len(bad)} of {len(images)} images cannot be read; replace or remove them, or set "
            "dataset.skip_unreadable=True; --mode=check_data lists all. The first are\n  "
            + "\n  ".join(shown)
        )
    return drop_images(images, bad), len(bad)


def drop_images(images: ImageSet, bad: Sequence[int]) -> ImageSet:
    """Returns the images without the bad ones; labels are not renumbered.

    Raises:
      InputError: if a class is left without an image.
    """
    kept = images.select(np.delete(np.arange(len(images)), bad))
    emptied = np.setdiff1d(images.labels, kept.labels)
    if len(emptied):
        raise InputError(
            f"Require a readable image in every class, got none in {len(emptied)} classes, the "
            f"first is {images.class_names[emptied[0]]!r}; replace its images or remove the class."
        )
    return kept


def find_unreadable(images: ImageSet, *, thorough: bool, max_pixels: int = 0) -> list[int]:
    """Returns the indices of files that cannot be decoded, in order.

    Args:
      images: The images.
      thorough: True: decodes every file. False: checks both ends of each file, and decodes those
        without an end mark (some cameras write past it, so the file may be good).
      max_pixels: As of `decode`.
    """
    if images.in_memory:
        return []
    if thorough:
        return _find_undecodable(images, np.arange(len(images)), max_pixels)
    looks_good = functools.partial(_looks_good, max_pixels=max_pixels)
    files = np.flatnonzero(~images.is_no_file)  # opening a pipe may block
    good = np.zeros(len(images), bool)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        good[files] = list(pool.map(looks_good, images.images[files]))
    return _find_undecodable(images, np.flatnonzero(~good), max_pixels)


def unreadable_reason(images: ImageSet, row: int, *, max_pixels: int = 0) -> str | None:
    """Returns why an image cannot be decoded, or None if it can."""
    try:
        # First in Python: TensorFlow gives no reason for a file whose name is not UTF-8.
        read_bytes(images.images[row])
        decode(contents(images.select([row]))(tf.constant(0)), max_pixels=max_pixels)
    except tf.errors.OpError as error:
        return first_line(error)
    except OSError as error:
        return f"{error.strerror}." if error.strerror else str(error)
    except ValueError as error:
        return str(error)
    return None


def _find_undecodable(images: ImageSet, rows: npt.NDArray, max_pixels: int) -> list[int]:
    if not len(rows):
        return []
    read = contents(images)

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The result depends on the image; else TensorFlow would prune the decoding.
        return row, tf.shape(decode(read(row), max_pixels=max_pixels))

    dataset = tf.data.Dataset.from_tensor_slices(rows.astype(np.int32))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    good = [int(row) for row, _ in dataset.as_numpy_iterator()]
    return sorted(set(rows.tolist()) - set(good))


def _looks_good(image: np.str_ | np.void, *, max_pixels: int) -> bool:
    """Returns whether a JPEG or PNG has its end mark and a header within the limit on pixels."""
    is_part = isinstance(image, np.void)
    path, start = str(image[0] if is_part else image), int(image[1]) if is_part else 0
    try:
        with open(path, "rb") as file:
            end = start + int(image[2]) if is_part else file.seek(0, os.SEEK_END)
            file.seek(start)
            head = file.read(min(_HEAD, end - start))
            file.seek(max(start, end - len(_PNG_END)))
            tail = file.read(end - file.tell())
    except OSError:
        return False
    is_jpeg = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    is_png = head.startswith(_PNG_START) and tail == _PNG_END
    return (is_jpeg or is_png) and not headers.refusal(head, max_pixels=max_pixels)


def first_line(error: tf.errors.OpError) -> str:
    """Returns what TensorFlow says was wrong, without where in its graph."""
    # Messages look like "{{function_node ...}} Input is empty. [Op:DecodeImage] name: ".
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*|name: *$", "", error.message.splitlines()[0])
    return text.strip().rstrip(".") + "."
