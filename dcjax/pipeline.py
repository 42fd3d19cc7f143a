"""From a plan of indices to batches of pixels: reads, decodes and crops in parallel.

The pixels of an image depend on the seed, the epoch and the image's place in the epoch's plan,
never on the number of threads or of processes, nor on where a run was taken up again.
"""

import concurrent.futures
import math
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from dcjax.augment import Augment, center_crop, resize_shorter_side, tf
from dcjax.datasets import ImageSet
from dcjax.sampling import Plan

Batch = dict[str, npt.NDArray]

_STREAM = 3  # keeps the seeds of pixels apart from those of plans, 1 and 2
_BATCHES_AHEAD = 2
_SHOWN = 5  # bad files named in an error
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def train_batches(
    images: ImageSet,
    plan: Plan,
    *,
    augment: Augment,
    seed: int,
    epoch: int,
    num_threads: int | None,
    first_step: int = 0,
) -> Iterator[Batch]:
    """Yields the batches of one epoch, in the order of its plan.

    Args:
      images: The training images, indexed by the plan.
      plan: rows int32[S, C, B] and clusters int32[S, C].
      augment: Function (uint8[h, w, 3], seed int32[2]) -> uint8[H, W, 3].
      seed: Seed of the run.
      epoch: Number of the epoch.
      num_threads: Images decoded at once; None lets TensorFlow choose.
      first_step: Step of the epoch to begin with.

    Yields:
      image uint8[C, B, H, W, 3], label int32[C, B], cluster int32[C]; read-only arrays.
    """
    rows = plan.rows[first_step:]
    clusters = plan.clusters[first_step:]
    seeds = _seeds(plan.rows.shape, seed, epoch)[first_step:]
    read = _reader(images)

    def load(row: tf.Tensor, image_seed: tf.Tensor) -> tf.Tensor:
        return augment(read(row), image_seed)

    size = math.prod(rows.shape[1:])
    pixels = _batches(load, (rows.reshape(-1), seeds.reshape(-1, 2)), size, num_threads)
    for step_rows, step_clusters in zip(rows, clusters, strict=True):
        image = _next(pixels, images, step_rows.reshape(-1))
        yield {
            "image": image.reshape(*step_rows.shape, *image.shape[1:]),
            "label": images.labels[step_rows],
            "cluster": step_clusters,
        }


def eval_batches(
    images: ImageSet, *, batch_size: int, resize: int, crop: int, num_threads: int | None
) -> Iterator[Batch]:
    """Yields all images in order, shorter side resized to `resize`, then the centre `crop`.

    Yields:
      image uint8[batch_size, crop, crop, 3]; the last batch repeats the last image, so that
      all shapes are the same.
    """
    if crop > resize:
        raise ValueError(f"Require crop <= resize, got crop={crop} and resize={resize}.")
    num_batches = -(-len(images) // batch_size)
    rows = np.minimum(np.arange(num_batches * batch_size), len(images) - 1).astype(np.int32)
    read = _reader(images)

    def load(row: tf.Tensor) -> tf.Tensor:
        return center_crop(resize_shorter_side(read(row), resize), crop)

    pixels = _batches(load, (rows,), batch_size, num_threads)
    for batch_rows in rows.reshape(num_batches, batch_size):
        yield {"image": _next(pixels, images, batch_rows)}


def _seeds(shape: tuple[int, ...], seed: int, epoch: int) -> npt.NDArray[np.int32]:
    # Drawn for the whole plan, so that a place keeps its seed wherever reading begins.
    sequence = np.random.SeedSequence([seed, _STREAM, epoch])
    generator = np.random.Generator(np.random.Philox(sequence))
    return generator.integers(0, 2**31, size=(*shape, 2), dtype=np.int64).astype(np.int32)


def _reader(images: ImageSet) -> Callable[[tf.Tensor], tf.Tensor]:
    source = tf.constant(images.images)
    if not images.in_memory:
        return lambda row: decode(source[row])
    if images.images.shape[-1] == 1:
        return lambda row: tf.image.grayscale_to_rgb(source[row])
    return lambda row: source[row]


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


def _batches(
    load: Callable[..., tf.Tensor],
    arguments: tuple[npt.NDArray, ...],
    batch_size: int,
    num_threads: int | None,
) -> Iterator[npt.NDArray]:
    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1
    if num_threads is not None:
        options.threading.private_threadpool_size = num_threads
    calls = tf.data.AUTOTUNE if num_threads is None else num_threads
    dataset = tf.data.Dataset.from_tensor_slices(arguments)
    dataset = dataset.map(load, num_parallel_calls=calls, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(_BATCHES_AHEAD)
    return dataset.with_options(options).as_numpy_iterator()


def _next(pixels: Iterator[npt.NDArray], images: ImageSet, rows: npt.NDArray) -> npt.NDArray:
    try:
        return next(pixels)
    except tf.errors.OpError as error:
        # TensorFlow does not say which file it was.
        for path in [] if images.in_memory else images.images[rows]:
            reason = unreadable_reason(path)
            if reason:
                raise ValueError(
                    f"Cannot read image {path}: {reason} Replace or remove it, or set "
                    "dataset.skip_unreadable=True."
                ) from None
        raise ValueError(f"Cannot make a batch of images: {_first_line(error)}") from None


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
        return _first_line(error)
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


def _first_line(error: tf.errors.OpError) -> str:
    # Messages look like "{{function_node ...}} Input is empty. [Op:DecodeImage] name: ".
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*|name: *$", "", error.message.splitlines()[0])
    return text.strip().rstrip(".") + "."
