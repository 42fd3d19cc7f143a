"""PKU VehicleID (Liu et al. 2016): 13,164 vehicles train; three nested lists of others test."""

from pathlib import Path

from dcjax.datasets.files import find_root, read_table, require_present
from dcjax.datasets.image_set import ImageSet, Splits, from_classes

_TEST_LISTS = {
    "small": "test_list_800.txt",
    "medium": "test_list_1600.txt",
    "large": "test_list_2400.txt",
}


def load(root: str, *, test_list: str) -> Splits:
    """Loads VehicleID; `test_list` is "small", "medium" or "large" (800, 1600, 2400 vehicles)."""
    if test_list not in _TEST_LISTS:
        raise ValueError(f"Unknown test_list {test_list!r}; known are {', '.join(_TEST_LISTS)}.")
    marker = "train_test_split/train_list.txt"
    folder = find_root(root, "vid", marker=marker, folders=("", "VehicleID_V1.0", "VehicleID"))
    lists = folder / "train_test_split"
    return Splits(
        train=_read(folder, lists / "train_list.txt"),
        query=_read(folder, lists / _TEST_LISTS[test_list]),
    )


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """Returns image names without extension and vehicle ids of a list "image vehicle"."""
    rows = read_table(path, 2)
    return [row[0] for row in rows], [int(row[1]) for row in rows]


def _read(folder: Path, path: Path) -> ImageSet:
    names, vehicles = read_list(path)
    images = [str(folder / "image" / f"{name}.jpg") for name in names]
    require_present(images, "vid")
    return from_classes(images, vehicles)
