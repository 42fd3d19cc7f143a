"""Image files: decodes them, and finds those that cannot be decoded."""

import concurrent.futures
import os
import re

import numpy as np
import numpy.typing as npt

from dcjax.datasets import ImageSet
from dcjax.quiet_tensorflow import tf

_SHOWN = 5  # bad files named in an error
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def decode(path: tf.Tensor) -> tf.Tensor:
    """Decodes a file of any format TensorFlow knows, grey and CMYK too, into uint8[h, w, 3]."""
    contents = tf.io.read_file(path)
    # TensorFlow's default for JPEG is a fast transform, whose pixels are not those that others,
    # and the published weights, have seen: recall@1 on bird crops moved by 0.003.
    image = tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )
    image.set_shape((None, None, 3))
    return image


def size(path: tf.Tensor) -> tf.Tensor:
    """Returns height and width of an image file, int32[2]; of a JPEG from its header alone."""
    contents = tf.io.read_file(path)
    return tf.cond(
        tf.io.is_jpeg(contents),
        lambda: tf.io.extract_jpeg_shape(contents),
        lambda: tf.shape(tf.io.decode_image(contents, channels=3, expand_animations=False)),
    )[:2]


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
        shown = [f"{path}: {unreadable_reason(path)}" for path in images.images[bad[:_SHOWN]]]
        raise ValueError(
            f"{len(bad)} of {len(images)} images cannot be read; replace or remove them, or set "
            "dataset.skip_unreadable=True. The first are\n  " + "\n  ".join(shown)
        )
    kept = images.select(np.delete(np.arange(len(images)), bad))
    emptied = np.setdiff1d(images.labels, kept.labels)
    if len(emptied):
        raise ValueError(
            f"Require a readable image in every class, got none in {len(emptied)} classes, the "
            f"first is {images.class_names[emptied[0]]!r}; replace its images or remove the class."
        )
    return kept, len(bad)


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
        return _undecodable(images.images, np.arange(len(images)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        whole = np.fromiter(pool.map(_looks_whole, images.images), bool, len(images))
    return _undecodable(images.images, np.flatnonzero(~whole))


def unreadable_reason(path: str) -> str | None:
    """Returns why a file cannot be decoded, or None if it can."""
    try:
        decode(tf.constant(path))
    except tf.errors.OpError as error:
        return first_line(error)
    return None


def _undecodable(paths: npt.NDArray, indices: npt.NDArray) -> list[int]:
    def load(index: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Something of the image must come out, or TensorFlow prunes the decoding.
        return index, tf.shape(decode(path))

    dataset = tf.data.Dataset.from_tensor_slices((indices, paths[indices]))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    good = [index for index, _ in dataset.as_numpy_iterator()]
    return np.setdiff1d(indices, good).tolist()


def _looks_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(len(_PNG_START))
            file.seek(-min(len(_PNG_END), file.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    is_jpeg = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    return is_jpeg or (head == _PNG_START and tail == _PNG_END)


def first_line(error: tf.errors.OpError) -> str:
    """Returns what TensorFlow says was wrong, without where in its graph."""
    # Messages look like "{{function_node ...}} Input is empty. [Op:DecodeImage] name: ".
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*|name: *$", "", error.message.splitlines()[0])
    return text.strip().rstrip(".") + "."
