"""Images of a set as a page shows them: name, class and thumbnail."""

from collections.abc import Callable, Iterable

import numpy as np
from ml_collections import ConfigDict

from dcjax.data import thumbnails
from dcjax.data.datasets import ImageSet
from dcjax.pages.content import Image


class Pictures:
    """Makes the thumbnails of an image set, each once."""

    def __init__(
        self,
        images: ImageSet,
        dataset: ConfigDict,
        *,
        size: int = 96,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Reads nothing yet.

        Args:
          images: the image set.
          dataset: the group of settings.
          size: of a longer side, in pixels.
          advance: called after each image with 1.
        """
        self._images = images
        self._dataset = dataset
        self._size = size
        self._advance = advance
        self._known: dict[int, Image] = {}

    def load(self, rows: Iterable[int] | np.ndarray) -> None:
        """Makes the thumbnails of these images, in parallel, for `get`."""
        missing = sorted({int(row) for row in rows} - self._known.keys() - {-1})
        made = thumbnails.create(
            self._images,
            missing,
            size=self._size,
            max_pixels=self._dataset.max_pixels,
            num_threads=self._dataset.num_threads or None,
            advance=self._advance,
        )
        for row, picture in zip(missing, made, strict=True):
            self._known[row] = Image(self._name(row), self.class_name(row), picture)

    def get(self, rows: Iterable[int] | np.ndarray) -> list[Image]:
        """Returns these images, in order."""
        rows = [int(row) for row in rows]
        self.load(rows)
        return [self._known[row] for row in rows]

    def class_name(self, row: int) -> str:
        """Returns the name of an image's class."""
        return self._images.class_names[self._images.labels[row]]

    def _name(self, row: int) -> str:
        return str(row) if self._images.in_memory else self._images.name(row)
