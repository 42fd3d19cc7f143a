"""Builders of tensorflow-datasets for the sets that it does not have, from manual downloads.

They are handed the function that reads a manual download, so data sets import this module, and it
imports none of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Row = dict[str, Any]  # the features of an image by name; of the image itself, its path


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Prepares rows in the order in which they are read."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Extract the published archives there."

    def __init__(self, read: Callable[[Path], Mapping[str, Sequence[Row]]], **options: Any) -> None:
        """Takes the function from the manual download to the rows of each split."""
        self._read = read
        super().__init__(**options)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Row]]]:
        splits = self._read(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(rows) for split, rows in splits.items()}

    def _generate_examples(self, rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
        yield from enumerate(rows)

    def _describe(self, features: Mapping[str, Any]) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(encoding_format="jpeg")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, **features}),
            disable_shuffling=True,
        )


class Inshop(_Builder):
    """In-shop Clothes Retrieval, in the order of its list."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._describe({"item": tfds.features.Text(), "category": tfds.features.Text()})


class VehicleId(_Builder):
    """PKU VehicleID, in the order of its lists; an image of several test lists is there once."""

    def _info(self) -> tfds.core.DatasetInfo:
        place = tfds.features.Scalar(np.int64, doc="Row of that test list, -1 if not in it.")
        places = dict.fromkeys(("small", "medium", "large"), place)
        return self._describe({"vehicle": tfds.features.Scalar(np.int64), **places})
