"""Builders of tensorflow-datasets for the sets that it does not have, from manual downloads.

Importing this module makes them known to it, under the names inshop and vehicle_id.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dcjax.core.errors import MissingFileError
from dcjax.data.datasets import inshop, vid
from dcjax.data.datasets.sources import Published

_Examples = Iterator[tuple[int, dict[str, Any]]]


class Inshop(tfds.core.GeneratorBasedBuilder):
    """In-shop Clothes Retrieval, in the order of its list."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Extract the archives of {inshop.INSHOP.home} there."

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, {"item": tfds.features.Text(), "category": tfds.features.Text()})

    def _split_generators(self, dl_manager: Any) -> dict[str, _Examples]:
        path = _found(inshop.INSHOP, dl_manager.manual_dir)
        names, items, parts = inshop.read_list(path)
        columns = (inshop.locate(path, names), items.tolist(), inshop.read_categories(names))
        rows = list(zip(parts.tolist(), *columns, strict=True))
        return {
            part: self._generate_examples([row[1:] for row in rows if row[0] == part])
            for part in inshop.PARTS
        }

    def _generate_examples(self, rows: list[tuple[str, str, str]]) -> _Examples:
        for i, (image, item, category) in enumerate(rows):
            yield i, {"image": image, "item": item, "category": category}


class VehicleId(tfds.core.GeneratorBasedBuilder):
    """PKU VehicleID, in the order of its lists; an image of several test lists is there once."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Extract the archive of {vid.published('large').home} there."

    def _info(self) -> tfds.core.DatasetInfo:
        place = tfds.features.Scalar(np.int64, doc="Row of that test list, -1 if not in it.")
        vehicle = tfds.features.Scalar(np.int64)
        return _info(self, {"vehicle": vehicle, **dict.fromkeys(vid.TEST_LISTS, place)})

    def _split_generators(self, dl_manager: Any) -> dict[str, _Examples]:
        train = _found(vid.published("large"), dl_manager.manual_dir)
        nowhere = dict.fromkeys(vid.TEST_LISTS, -1)
        tested: dict[str, dict[str, Any]] = {}
        for name, file in vid.TEST_LISTS.items():
            for row, example in enumerate(self._rows(train.parent / file)):
                tested.setdefault(example["image"], example | nowhere)[name] = row
        return {
            "train": self._generate_examples([row | nowhere for row in self._rows(train)]),
            "test": self._generate_examples(list(tested.values())),
        }

    def _generate_examples(self, rows: list[dict[str, Any]]) -> _Examples:
        yield from enumerate(rows)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        names, vehicles = vid.read_list(path)
        images = vid.locate(path, names)
        return [
            {"image": image, "vehicle": vehicle}
            for image, vehicle in zip(images, vehicles.tolist(), strict=True)
        ]


def _info(builder: tfds.core.DatasetBuilder, features: dict[str, Any]) -> tfds.core.DatasetInfo:
    image = tfds.features.Image(encoding_format="jpeg")
    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict({"image": image, **features}),
        disable_shuffling=True,
    )


def _found(data: Published, folder: Any) -> Path:
    """Returns the path that shows a layout; an error if there is none."""
    layout = data.find(Path(folder))
    if layout is None:
        raise MissingFileError(f"None of {', '.join(data.layouts)} is in {folder}.")
    return layout[0]
