"""Stanford Online Products (Song et al. 2016): 11,318 products train, 11,316 others test."""

from pathlib import Path

from dcjax.datasets.files import find_root, read_table, require_present
from dcjax.datasets.image_set import ImageSet, Splits, from_classes


def load(root: str) -> Splits:
    """Loads SOP from its folder, or from the one that holds Stanford_Online_Products."""
    folder = find_root(
        root, "sop", marker="Ebay_train.txt", folders=("", "Stanford_Online_Products")
    )
    return Splits(train=_read(folder, "Ebay_train.txt"), query=_read(folder, "Ebay_test.txt"))


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """Returns paths and class ids of a list "image_id class_id super_class_id path"."""
    rows = read_table(path, 4, skip=1)
    return [row[3] for row in rows], [int(row[1]) for row in rows]


def _read(folder: Path, name: str) -> ImageSet:
    paths, classes = read_list(folder / name)
    images = [str(folder / path) for path in paths]
    require_present(images, "sop")
    return from_classes(images, classes)
