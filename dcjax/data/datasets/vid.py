"""PKU VehicleID (Liu et al. 2016): 13,164 vehicles train; 800, 1,600 or 2,400 others test."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dcjax.core.ranges import require_known
from dcjax.data.datasets.files import read_table
from dcjax.data.datasets.image_set import ImageSet, Splits, from_classes, no_images
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Index, PublishedDataset
from dcjax.data.datasets.sources import load as load_published

# As the files are distributed; both papers name other numbers.
_TRAIN = (113346, 13164)
_TESTS = {"small": (6493, 800), "medium": (13377, 1600), "large": (19777, 2400)}
TEST_LISTS = {name: f"test_list_{vehicles}.txt" for name, (_, vehicles) in _TESTS.items()}
TRAIN_LIST = "train_list.txt"


def load(
    request: Request, *, test_list: str, source: str, complete: bool, download: bool
) -> Splits:
    """Loads VehicleID from its folder, or from what `builders.VehicleId` has prepared.

    Args:
      request: which images, and where they are.
      test_list: "small", "medium" or "large" (800, 1,600, 2,400 vehicles).
      source: see `sources.load`.
      complete: whether the published numbers of images are required.
      download: see `sources.load`.
    """
    require_known("test_list", test_list, _TESTS)
    data = create_dataset(test_list, with_train=request.with_train)
    return load_published(data, request, source=source, complete=complete, download=download)


def read_list(path: Path) -> tuple[list[str], np.ndarray]:
    """Returns image names without extension and vehicle ids [N] of a list "image vehicle"."""
    rows = read_table(path, 2, numbers=[1])
    return [row[0] for row in rows], np.array([int(row[1]) for row in rows])


def locate(list_path: Path, names: list[str]) -> list[str]:
    """Returns the paths of the images that a list names."""
    return [str(list_path.parent.parent / "image" / f"{name}.jpg") for name in names]


def _from_lists(first: Path, lists: Mapping[str, str]) -> Index:
    paths = {split: first.parent / name for split, name in lists.items()}
    sets: dict[str, ImageSet] = {"train": no_images()}
    for split, path in paths.items():
        names, vehicles = read_list(path)
        sets[split] = from_classes(locate(path, names), vehicles)
    return Index(Splits(**sets), paths)


def _from_records(folder: Path, test_list: str, with_train: bool) -> Index:
    from dcjax.data.datasets import prepared

    train = no_images()
    if with_train:
        images, features = prepared.read(folder, ["train"], ["vehicle"])
        train = from_classes(images, features["vehicle"])
    images, features = prepared.read(folder, ["test"], ["vehicle", test_list])
    in_list = np.flatnonzero(features[test_list] >= 0)
    order = in_list[np.argsort(features[test_list][in_list])]
    query = from_classes(images[order], features["vehicle"][order])
    return Index(Splits(train, query), {"train": folder, "query": folder})


def _create_builder(**options: Any) -> Any:
    from dcjax.data.datasets import builders

    return builders.VehicleId(_read_rows, **options)


def _read_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns what is to be prepared of each split: vehicles, and places in the test lists."""
    first = create_dataset("large").require(folder)
    nowhere = dict.fromkeys(TEST_LISTS, -1)
    tested: dict[str, dict[str, Any]] = {}
    for name, file in TEST_LISTS.items():
        for place, (image, vehicle) in enumerate(_read_images(first.parent / file)):
            row = {"image": image, "vehicle": vehicle, **nowhere}
            tested.setdefault(image, row)[name] = place
    trained = [{"image": x, "vehicle": vehicle, **nowhere} for x, vehicle in _read_images(first)]
    return {"train": trained, "test": list(tested.values())}


def _read_images(path: Path) -> list[tuple[str, int]]:
    """Returns the path and the vehicle of each image of a list."""
    names, vehicles = read_list(path)
    return list(zip(locate(path, names), vehicles.tolist(), strict=True))


def create_dataset(test_list: str, *, with_train: bool = True) -> PublishedDataset:
    """Returns where VehicleID with this test list comes from."""
    lists = ({"train": TRAIN_LIST} if with_train else {}) | {"query": TEST_LISTS[test_list]}
    read, first = functools.partial(_from_lists, lists=lists), next(iter(lists.values()))
    folders = ("", "VehicleID_V1.0/", "VehicleID/")
    return PublishedDataset(
        "vid",
        home="https://www.pkuml.org/resources/pku-vehicleid.html",
        counts={"train": _TRAIN, "query": _TESTS[test_list]},
        archives=(),
        layouts={f"{folder}train_test_split/{first}": read for folder in folders},
        builder="vehicle_id",
        read_prepared=functools.partial(_from_records, test_list=test_list, with_train=with_train),
        create_builder=_create_builder,
    )
