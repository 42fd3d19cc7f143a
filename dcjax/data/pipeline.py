"""Reads, decodes and augments the images of a plan in parallel, and batches them.

The pixels of an image depend on the seed, the epoch and the image's place in the epoch's plan, but
not on the number of threads or processes, nor on the step from which a run was continued.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data import augment, crops, decoding
from dcjax.data.datasets import ImageSet
from dcjax.data.quiet_tensorflow import tf
from dcjax.data.readers import Batch
from dcjax.distributed import devices
from dcjax.division.sampling import Block

Source = Callable[[tf.Tensor], tf.Tensor]  # from a row int32[] to its image, uint8[h, w, 3]
BoxSource = Callable[[tf.Tensor, augment.FindBox], tf.Tensor]  # to one box of it

_BATCHES_AHEAD = 2
_SIZES_AT_ONCE = 256


class Stream:
    """Reads an image set through tf.data, from its source each time; implements `readers.Reader`.

    The function of an image is traced once, when it is first needed.
    """

    def __init__(
        self,
        images: ImageSet,
        augmentation: crops.Augmentation,
        *,
        seed: int,
        num_threads: int | None,
        max_pixels: int = 0,
        resized: Source | None = None,
        share: devices.Share = devices.WHOLE,
    ) -> None:
        """Reads nothing yet.

        Args:
          images: The images.
          augmentation: Of training crops; its `resize` and `size` are also those of centre crops.
          seed: Seed of the run.
          num_threads: Images decoded at once; None lets TensorFlow choose.
          max_pixels: The limit on height times width beyond which an image is an error; 0: none.
          resized: Source of resized images, such as a cache; None: images are read and resized.
          share: The part of a step's images to read.
        """
        self.images = images
        self.augmentation = augmentation
        self.seed = seed
        self.share = share
        self._num_threads = num_threads
        self._max_pixels = max_pixels
        read, read_box = _create_sources(images, max_pixels)
        apply, finish = augment.create(augmentation), augment.create_for_box(augmentation)

        def resize(row: tf.Tensor) -> tf.Tensor:
            return augment.resize_shorter_side(read(row), augmentation.resize)

        load_resized = resized or resize

        def load_augmented(row: tf.Tensor, draws: augment.Draws) -> tf.Tensor:
            if augmentation.crops_resized:
                return apply(load_resized(row), draws)
            if augment.cuts_first(augmentation):
                return finish(read_box(row, augment.find_box(augmentation, draws)), draws)
            return apply(read(row), draws)

        def load_centered(row: tf.Tensor) -> tf.Tensor:
            return augment.center_crop(load_resized(row), augmentation.size)

        self._augmented, self._resized, self._centered = (
            tf.function(load, autograph=False)
            for load in (load_augmented, load_resized, load_centered)
        )

    def train_batches(self, blocks: Iterable[Block], *, epoch: int) -> Iterator[Batch]:
        """Returns the batches of these steps of an epoch, on the host."""
        parts = (self._read_block(block, epoch) for block in blocks)
        return _chain(next(parts, iter(())), parts)

    def _read_block(self, block: Block, epoch: int) -> Iterator[Batch]:
        draws = augment.draw(
            self.augmentation, block.shape, seed=self.seed, epoch=epoch, block=block.number
        )
        rows = block.rows[:, *self.share]
        clusters = block.clusters[:, self.share.clusters]
        kept = slice(block.skipped, None), *self.share
        flat = tf.nest.map_structure(lambda x: x[kept].reshape(-1, *x.shape[3:]), draws)
        size = math.prod(rows.shape[1:])
        pixels = self._batches(self._augmented, rows.reshape(-1), flat, batch_size=size)
        return (
            {
                "image": image.reshape(*step_rows.shape, *image.shape[1:]),
                "label": self.images.labels[step_rows],
                "cluster": step_clusters,
            }
            for image, step_rows, step_clusters in zip(pixels, rows, clusters, strict=True)
        )

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        """Returns the centre crops of these rows, on the host."""
        return self._batches(self._centered, rows.reshape(-1), batch_size=rows.shape[1])

    def view_batches(self, rows: npt.NDArray[np.int32], *, view: int) -> Iterator[npt.NDArray]:
        """Returns training crops of these rows, [S, B], as `eval_batches` does.

        The crop of an image is that of the view, whichever rows are read with it.
        """
        shape = (len(self.images),)
        draws = augment.draw(self.augmentation, shape, seed=self.seed, epoch=view)
        flat = rows.reshape(-1)
        kept = tf.nest.map_structure(lambda x: x[flat], draws)
        return self._batches(self._augmented, flat, kept, batch_size=rows.shape[1])

    def load_resized(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the image of a row int32[], uint8[h, w, 3], the shorter side resized."""
        return self._resized(row)

    def resized_images(self) -> Iterator[npt.NDArray]:
        """Returns all images in order, uint8[h, w, 3], the shorter side resized."""
        rows = np.arange(len(self.images))
        return (image for (image,) in self._batches(self._resized, rows, batch_size=1))

    def resized_sizes(self) -> npt.NDArray[np.int32]:
        """Returns the sizes int32[N, 2] of the resized images, of JPEG files by their headers."""
        if self.images.in_memory:
            sizes = np.tile(np.array(self.images.images.shape[1:3]), (len(self.images), 1))
        else:
            contents, rows = decoding.contents(self.images), np.arange(len(self.images))

            def size(row: tf.Tensor) -> tf.Tensor:
                return decoding.size(contents(row), max_pixels=self._max_pixels)

            read = self._batches(size, rows, batch_size=_SIZES_AT_ONCE)
            sizes = np.concatenate(list(read))
        return crops.resize_sizes(sizes, self.augmentation.resize)

    def _batches(
        self,
        load: Callable[..., tf.Tensor],
        rows: npt.NDArray,
        *draws: augment.Draws,
        batch_size: int,
    ) -> Iterator[npt.NDArray]:
        options = tf.data.Options()
        options.threading.max_intra_op_parallelism = 1
        if self._num_threads is not None:
            options.threading.private_threadpool_size = self._num_threads
        options.experimental_warm_start = True  # begins to read now, not when asked for a batch
        calls = tf.data.AUTOTUNE if self._num_threads is None else self._num_threads
        dataset = tf.data.Dataset.from_tensor_slices((rows.astype(np.int32), *draws))
        dataset = dataset.map(load, num_parallel_calls=calls, deterministic=True)
        dataset = dataset.batch(batch_size).prefetch(_BATCHES_AHEAD).with_options(options)
        return self._check_batches(dataset.as_numpy_iterator(), rows, batch_size)

    def _check_batches(
        self, batches: Iterator[npt.NDArray], rows: npt.NDArray, batch_size: int
    ) -> Iterator[npt.NDArray]:
        for start in range(0, len(rows), batch_size):
            try:
                batch = next(batches)
            # TensorFlow raises UnicodeDecodeError for a message with a name that is not UTF-8.
            except (tf.errors.OpError, UnicodeDecodeError):
                if reason := self._unreadable_reason(rows[start : start + batch_size]):
                    raise InputError(reason) from None
                raise  # no file's fault
            yield batch

    def _unreadable_reason(self, rows: npt.NDArray) -> str:
        """Returns which of these images cannot be read and why, "" if all can."""
        # TensorFlow does not say which file it was.
        for row in [] if self.images.in_memory else rows:
            reason = decoding.unreadable_reason(self.images, row, max_pixels=self._max_pixels)
            if reason:
                return (
                    f"Cannot read image {naming.escape(self.images.name(row))}: {reason} "
                    "Replace or remove it, or set dataset.skip_unreadable=True."
                )
        return ""


def num_bytes(sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Returns the bytes of each decoded image, int64[N], from height and width, int32[N, 2]."""
    return 3 * np.prod(sizes, axis=1, dtype=np.int64)


def _chain(first: Iterator[Batch], others: Iterator[Iterator[Batch]]) -> Iterator[Batch]:
    batches: Iterator[Batch] | None = first
    while batches is not None:
        upcoming = next(others, None)  # its reading begins before its turn
        yield from batches
        batches = upcoming


def _create_sources(images: ImageSet, max_pixels: int) -> tuple[Source, BoxSource]:
    """Returns the sources of whole images, and of boxes of them."""
    if not images.in_memory:
        contents = decoding.contents(images)
        return (
            lambda row: decoding.decode(contents(row), max_pixels=max_pixels),
            lambda row, find: decoding.decode_box(contents(row), find, max_pixels=max_pixels),
        )
    pixels = tf.constant(images.images)

    def read(row: tf.Tensor) -> tf.Tensor:
        image = pixels[row]
        return tf.image.grayscale_to_rgb(image) if images.images.shape[-1] == 1 else image

    def read_box(row: tf.Tensor, find_box: augment.FindBox) -> tf.Tensor:
        image = read(row)
        return augment.cut(image, *find_box(augment.height_width(image)))

    return read, read_box
