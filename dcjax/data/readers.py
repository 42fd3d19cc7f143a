"""What readers of image sets have in common, and the batches that they are asked for.

TensorFlow is not imported here, so that readers that do not need it come without it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dcjax.data.datasets import ImageSet
from dcjax.division.sampling import Block

Batch = dict[str, Any]


class EvalReader(Protocol):
    """Reads the centre crops of one image set; returns arrays on the host or on the devices.

    Attributes:
      images: the image set.
    """

    images: ImageSet

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[Any]:
        """Returns the centre crops of these rows, after the shorter side is resized.

        Args:
          rows: int32[S, B], this process's part of S batches, as of `rows_to_embed`.

        Returns:
          uint8[B, crop, crop, 3] on the host, or the global batches, sharded over the devices.
        """


class Reader(EvalReader, Protocol):
    """Reads one image set, for training too."""

    def train_batches(self, blocks: Iterable[Block], *, epoch: int) -> Iterator[Batch]:
        """Returns the batches of these steps of an epoch, in order; reading begins at once.

        Args:
          blocks: the steps, as of `Plan.blocks`.
          epoch: Number of the epoch.

        Returns:
          image uint8[C, B, H, W, 3], label int32[C, B], cluster int32[C]; read-only arrays. On the
          host, each process gets its share of them.
        """


class Crops:
    """Centre crops in memory, or features in their place; implements `EvalReader`."""

    def __init__(self, crops: npt.NDArray[Any]) -> None:
        """Takes the crops, uint8[N, crop, crop, 3], or features, float32[N, F]."""
        self.images = ImageSet(crops, np.zeros(len(crops), np.int32), ("",))

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        """Returns the crops of these rows, on the host."""
        return (self.images.images[batch] for batch in rows)


class KeptCrops:
    """Centre crops of a reader, which it makes once and which stay in memory then.

    For crops that are wanted again and again in the same batches; implements `EvalReader`.
    """

    def __init__(self, reader: EvalReader) -> None:
        """Takes a reader whose crops are on the host."""
        self.images = reader.images
        self._reader = reader
        self._rows = np.zeros((0, 0), np.int32)
        self._batches: list[npt.NDArray] = []

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        """Returns the crops of these rows, on the host."""
        if np.array_equal(rows, self._rows):
            return iter(self._batches)
        return self._keep(rows)

    def _keep(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray]:
        batches = []
        for batch in self._reader.eval_batches(rows):
            batches.append(batch)
            yield batch
        self._rows, self._batches = rows, batches


def rows_to_embed(num_images: int, batch_size: int, num_devices: int = 1) -> npt.NDArray[np.int32]:
    """Returns the rows of batches that are sharded over devices.

    Each device has an equal, contiguous part of all rows, and an equal part of every batch. The
    last row is repeated until the last batch is full.

    Args:
      num_images: N.
      batch_size: B, a multiple of num_devices.
      num_devices: number of devices that share a batch.

    Returns:
      int32[ceil(N / B), B].
    """
    num_batches = -(-num_images // batch_size)
    rows = np.minimum(np.arange(num_batches * batch_size, dtype=np.int32), num_images - 1)
    by_device = rows.reshape(num_devices, num_batches, -1)
    return by_device.swapaxes(0, 1).reshape(num_batches, batch_size)


def batch_size(num_pictures: int, most: int) -> int:
    """Returns the size of the batch for so many pictures: a power of two, at most `most`.

    Small batches for few pictures; powers of two, so that few sizes are compiled.
    """
    return min(1 << (num_pictures - 1).bit_length(), most)
