"""Reads crops of pixels that are in memory in their final size, without TensorFlow."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dcjax.data import crops
from dcjax.data.crops import Augmentation
from dcjax.data.datasets import ImageSet
from dcjax.data.readers import Batch
from dcjax.distributed import devices
from dcjax.division.sampling import Block


class PixelReader:
    """Reads an image set from its array; implements `readers.Reader`.

    The crops equal those of `pipeline.Stream`. They are made when a batch is asked for, which takes
    less time than to hand it from one thread to another.
    """

    def __init__(
        self,
        images: ImageSet,
        augmentation: Augmentation,
        *,
        seed: int,
        share: devices.Share = devices.WHOLE,
    ) -> None:
        """Takes images and an augmentation that `can_read` allows.

        Args:
          images: the images.
          augmentation: of training crops.
          seed: of the run.
          share: the part of a step's images to read.
        """
        self.images = images
        self._augmentation = augmentation
        self._seed = seed
        self._share = share

    def train_batches(self, blocks: Iterable[Block], *, epoch: int) -> Iterator[Batch]:
        """Returns the batches of these steps of an epoch, on the host."""
        return (
            {
                "image": self._cut(rows, boxes, flip),
                "label": self.images.labels[rows],
                "cluster": clusters[self._share.clusters],
            }
            for block in blocks
            for rows, boxes, flip, clusters in zip(
                block.rows[:, *self._share],
                *self._draw(block, epoch),
                block.clusters,
                strict=True,
            )
        )

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.uint8]]:
        """Returns the centre crops of these rows, on the host."""
        boxes = crops.center_boxes(self._sizes(rows.shape), self._augmentation.size)
        not_mirrored = np.zeros(rows.shape, bool)
        return map(self._cut, rows, boxes, not_mirrored)

    def _draw(self, block: Block, epoch: int) -> tuple[npt.NDArray, npt.NDArray]:
        """Returns boxes [s, C, B, 4] and flips [s, C, B] of this process's share of a block."""
        draws = crops.draw(
            self._augmentation, block.shape, seed=self._seed, epoch=epoch, block=block.number
        )
        boxes = crops.boxes(self._augmentation, self._sizes(block.shape), draws)
        kept = slice(block.skipped, None), *self._share
        return boxes[kept], draws.flip[kept]

    def _sizes(self, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
        """Returns height and width, int32 [..., 2], of as many images."""
        return np.broadcast_to(np.array(self.images.images.shape[1:3], np.int32), (*shape, 2))

    def _cut(
        self, rows: npt.NDArray[np.int32], boxes: npt.NDArray[np.int32], flip: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.uint8]:
        """Returns crops uint8 [..., size, size, 3] of images [...], mirrored where asked."""
        place = np.arange(self._augmentation.size)
        lines = boxes[..., 0, None] + place
        columns = boxes[..., 1, None] + np.where(flip[..., None], place[::-1], place)
        pixels = self.images.images[
            rows[..., None, None], lines[..., :, None], columns[..., None, :]
        ]
        return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def can_read(images: ImageSet, augmentation: Augmentation) -> bool:
    """Returns whether crops only copy pixels: of images in memory that no step of it resizes."""
    return (
        images.in_memory
        and not images.num_features
        and min(images.images.shape[1:3]) == augmentation.resize
        and augmentation.crop == "resize_then_random"
        and augmentation.strategy == "standard"
    )
