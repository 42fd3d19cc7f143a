"""Encoded images: reads and decodes them, and finds those that cannot be decoded."""

import concurrent.futures
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dcjax import headers, naming
from dcjax.datasets import ImageSet
from dcjax.datasets.files import read_bytes
from dcjax.errors import InputError
from dcjax.quiet_tensorflow import tf

_SHOWN = 5  # bad files named in an error
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEAD = 1 << 16  # bytes of a JPEG file in which Exif tags begin
_ON_ITS_SIDE = 5  # Exif orientations from here on swap rows and columns
_MIRRORED = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], bool)  # of 1 to 4, and 5 to 8


def contents(images: ImageSet) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from a row int32[] of encoded images to its bytes, string[]."""
    if images.images.dtype.names is None:
        # As bytes: TensorFlow encodes text as UTF-8, which not every name is.
        encoded = [os.fsencode(naming.for_file_system(path)) for path in images.images.tolist()]
        paths = tf.constant(encoded, tf.string)
        return lambda row: tf.io.read_file(paths[row])

    def read(row: int) -> bytes:
        return read_bytes(images.images[row])

    # TensorFlow has no operation that reads a part of a file.
    return lambda row: _python(read, row, tf.string)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes bytes of any format TensorFlow knows, grey and CMYK too, into uint8[h, w, 3].

    JPEG photographs are turned upright by their Exif orientation; alpha is left out; of several
    frames, the first is taken.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_other(encoded)
    )
    image.set_shape((None, None, 3))
    return image


def size(encoded: tf.Tensor) -> tf.Tensor:
    """Returns height and width of an image as decoded, int32[2]; of JPEG from the header alone."""

    def jpeg_size() -> tf.Tensor:
        stored = tf.io.extract_jpeg_shape(encoded)[:2]
        return tf.where(_orientation(encoded) >= _ON_ITS_SIDE, stored[::-1], stored)

    return tf.cond(tf.io.is_jpeg(encoded), jpeg_size, lambda: tf.shape(_decode_other(encoded))[:2])


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    # TensorFlow's default is a fast transform, whose pixels are not those that others, and the
    # published weights, have seen: recall@1 on bird crops moved by 0.003.
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    orientation = _orientation(encoded)
    return tf.cond(orientation == 1, lambda: image, lambda: _turned(image, orientation))


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image upright by its Exif orientation."""
    # Not by tf.image.rot90: its many nodes take time in every image, also where none is turned.
    axes = tf.where(orientation < _ON_ITS_SIDE, (0, 1, 2), (1, 0, 2))
    mirrored = tf.constant(_MIRRORED)[(orientation - 1) % 4]
    return tf.raw_ops.Reverse(tensor=tf.transpose(image, axes), dims=mirrored)


def _orientation(jpeg: tf.Tensor) -> tf.Tensor:
    # Python takes 9 % of the time of decoding 500 x 375 pixels, so those that cannot have Exif tags
    # are told apart before. TensorFlow searches by replacing only.
    head = tf.strings.substr(jpeg, 0, _HEAD)
    without = tf.strings.regex_replace(head, r"Exif\x00\x00", "", replace_global=False)
    return tf.cond(
        tf.strings.length(without) < tf.strings.length(head),
        lambda: _python(lambda x: np.int32(headers.orientation(x)), jpeg, tf.int32),
        lambda: tf.constant(1),
    )


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    start = tf.strings.substr(encoded, 0, 4)
    return tf.cond(
        tf.strings.regex_full_match(start, r"\CPNG|GIF8"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        lambda: _decode_as_stored(_python(_checked, encoded, tf.string)),
    )


def _decode_as_stored(encoded: tf.Tensor) -> tf.Tensor:
    # Of WebP and JPEG XL, TensorFlow gives no other channels than those stored.
    image = tf.io.decode_image(encoded, expand_animations=False)
    return tf.gather(image, tf.where(tf.shape(image)[2] < 3, [0, 0, 0], [0, 1, 2]), axis=2)


def _checked(encoded: bytes) -> bytes:
    if reason := headers.refusal(encoded):
        raise InputError(reason)
    return encoded


def _python(function: Callable[[Any], Any], argument: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    """Applies a Python function of a scalar, which gives a scalar of this type."""

    def apply(x: Any) -> Any:
        return function(np.asarray(x, object).item())  # outside of a graph, x is an array

    return tf.ensure_shape(tf.numpy_function(apply, [argument], kind, stateful=False), [])


def readable(images: ImageSet, *, skip_unreadable: bool) -> tuple[ImageSet, int]:
    """Checks that files can be read, and returns the images that can and how many cannot.

    Args:
      images: The images; those in memory are always fine.
      skip_unreadable: False: a quick look, and an error if it finds a bad file. True: every
        file is decoded, and bad ones are left out; labels stay as they are.
    """
    bad = find_unreadable(images, thorough=skip_unreadable)
    if not bad:
        return images, 0
    if not skip_unreadable:
        shown = [
            f"{naming.printable(images.name(row))}: {unreadable_reason(images, row)}"
            for row in bad[:_SHOWN]
        ]
        raise InputError(
            f"{len(bad)} of {len(images)} images cannot be read; replace or remove them, or set "
            "dataset.skip_unreadable=True; --mode=check_data lists all. The first are\n  "
            + "\n  ".join(shown)
        )
    return without(images, bad), len(bad)


def without(images: ImageSet, bad: Sequence[int]) -> ImageSet:
    """Returns the images but for the bad ones; labels stay as they are.

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


def find_unreadable(images: ImageSet, *, thorough: bool) -> list[int]:
    """Returns the indices of files that cannot be decoded, in order.

    Args:
      images: The images.
      thorough: True: decodes every file. False: looks at both ends of each file, and decodes
        those that look cut (some cameras write past the end mark, so looks can deceive).
    """
    if images.in_memory:
        return []
    if thorough:
        return _undecodable(images, np.arange(len(images)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        whole = np.fromiter(pool.map(_looks_whole, images.images), bool, len(images))
    return _undecodable(images, np.flatnonzero(~whole))


def unreadable_reason(images: ImageSet, row: int) -> str | None:
    """Returns why an image cannot be decoded, or None if it can."""
    try:
        read_bytes(
            images.images[row]
        )  # whose reason TensorFlow cannot tell if the name is not UTF-8
        decode(contents(images.select([row]))(tf.constant(0)))
    except tf.errors.OpError as error:
        return first_line(error)
    except OSError as error:
        return f"{error.strerror}."
    except ValueError as error:
        return str(error)
    return None


def _undecodable(images: ImageSet, rows: npt.NDArray) -> list[int]:
    if not len(rows):
        return []
    read = contents(images)

    def load(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Something of the image must come out, or TensorFlow prunes the decoding.
        return row, tf.shape(decode(read(row)))

    dataset = tf.data.Dataset.from_tensor_slices(rows.astype(np.int32))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    good = [int(row) for row, _ in dataset.as_numpy_iterator()]
    return sorted(set(rows.tolist()) - set(good))


def _looks_whole(image: np.str_ | np.void) -> bool:
    is_part = isinstance(image, np.void)
    start = int(image[1]) if is_part else 0
    try:
        with open(str(image[0] if is_part else image), "rb") as file:
            file.seek(start)
            head = file.read(len(_PNG_START))
            end = start + int(image[2]) if is_part else file.seek(0, os.SEEK_END)
            file.seek(max(start, end - len(_PNG_END)))
            tail = file.read(end - file.tell())
    except OSError:
        return False
    is_jpeg = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    return is_jpeg or (head == _PNG_START and tail == _PNG_END)


def first_line(error: tf.errors.OpError) -> str:
    """Returns what TensorFlow says was wrong, without where in its graph."""
    # Messages look like "{{function_node ...}} Input is empty. [Op:DecodeImage] name: ".
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*|name: *$", "", error.message.splitlines()[0])
    return text.strip().rstrip(".") + "."
