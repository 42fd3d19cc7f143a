"""Reads features in place of images, from arrays: no decoding, no augmentation."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dcjax.core import streams
from dcjax.core.streams import Stream
from dcjax.data.datasets import ImageSet
from dcjax.data.readers import Batch
from dcjax.distributed import devices
from dcjax.division.sampling import Block

Features = npt.NDArray[np.float32]


class FeatureReader:
    """Reads the features of an image set; implements `readers.Reader`.

    A batch has the key "image" as one of images has, with features float32 [C, B, F].

    Attributes:
      images: the image set, for its labels.
    """

    def __init__(
        self,
        images: ImageSet,
        features: Features,
        *,
        views: Sequence[Features] = (),
        seed: int = 0,
        share: devices.Share = devices.WHOLE,
    ) -> None:
        """Takes the features; they may be mapped to files.

        Args:
          images: N of them.
          features: of their centre crops, [N, F].
          views: of augmented crops, V arrays [N, F], one of which a training batch takes for each
            of its images, drawn anew in every epoch; none: those of the centre crops.
          seed: of the run.
          share: the part of a step's images to read.
        """
        self.images = images
        self._features = features
        self._views = views
        self._seed = seed
        self._share = share

    def train_batches(self, blocks: Iterable[Block], *, epoch: int) -> Iterator[Batch]:
        """Returns the batches of these steps of an epoch, on the host."""
        return (
            {
                "image": self._take(rows, views),
                "label": self.images.labels[rows],
                "cluster": clusters[self._share.clusters],
            }
            for block in blocks
            for rows, views, clusters in zip(
                block.rows[:, *self._share], self._draw(block, epoch), block.clusters, strict=True
            )
        )

    def eval_batches(self, rows: npt.NDArray[np.int32]) -> Iterator[Features]:
        """Returns the features of the centre crops of these rows, on the host."""
        return (self._features[batch] for batch in rows)

    def _draw(self, block: Block, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the view of each image of a block, [s, C, B], of this process's share."""
        # For the whole block, so that draws do not depend on where reading begins.
        views = draw_views(
            max(len(self._views), 1), block.shape, seed=self._seed, epoch=epoch, block=block.number
        )
        return views[block.skipped :, *self._share]

    def _take(self, rows: npt.NDArray[np.int32], views: npt.NDArray[np.int64]) -> Features:
        """Returns the features [C, B, F] of these rows in these views."""
        if not self._views:
            return self._features[rows]
        taken = np.empty((*rows.shape, self._features.shape[1]), np.float32)
        for number, features in enumerate(self._views):
            taken[views == number] = features[rows[views == number]]
        return taken


def draw_views(
    num_views: int, shape: tuple[int, ...], *, seed: int, epoch: int, block: int
) -> npt.NDArray[np.int64]:
    """Draws the view of each image of a block of an epoch's plan, from 0 to num_views - 1."""
    generator = streams.generator(seed, Stream.VIEWS, epoch, block)
    return generator.integers(num_views, size=shape)
