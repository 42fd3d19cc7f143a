"""CUB200-2011 (Wah et al. 2011): birds; classes 1-100 train, 101-200 test, as both papers do."""

from pathlib import Path

import numpy as np

from dcjax.datasets.files import find_root, read_table, require_present
from dcjax.datasets.image_set import Splits, split_by_class

_LAST_TRAIN_CLASS = 100


def load(root: str) -> Splits:
    """Loads CUB from its folder, or from the one that holds CUB_200_2011; subsets work too."""
    folder = find_root(root, "cub", marker="images.txt", folders=("", "CUB_200_2011"))
    paths, classes, names = read_lists(folder)
    images = [str(folder / "images" / path) for path in paths]
    require_present(images, "cub")
    return split_by_class(images, classes, classes <= _LAST_TRAIN_CLASS, names=names)


def read_lists(folder: Path) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """Returns paths below images/, class ids [N] (from 1) and the name of each class id."""
    paths = dict(read_table(folder / "images.txt", 2))
    classes = dict(read_table(folder / "image_class_labels.txt", 2))
    if paths.keys() != classes.keys():
        raise ValueError(
            f"{folder}: images.txt and image_class_labels.txt must hold the same image ids, "
            f"got {len(paths)} and {len(classes)}; extract the data set again."
        )
    names = {int(i): name for i, name in read_table(folder / "classes.txt", 2)}
    return list(paths.values()), np.array([int(classes[i]) for i in paths]), names
