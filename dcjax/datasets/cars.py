"""CARS196 (Krause et al. 2013): car models; classes 1-98 train, 99-196 test, as both papers do."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from dcjax.datasets.files import find_root, require_present
from dcjax.datasets.image_set import Splits, split_by_class

_LIST = "cars_annos.mat"
_LAST_TRAIN_CLASS = 98


def load(root: str) -> Splits:
    """Loads CARS196 from the folder of cars_annos.mat and car_ims/, or from the one above."""
    folder = find_root(root, "cars", marker=_LIST, folders=("", "cars196", "stanford_cars"))
    paths, classes, names = read_lists(folder / _LIST)
    images = [str(folder / path) for path in paths]
    require_present(images, "cars")
    # The list's own train/test flag cuts every class in two, so it is of no use here.
    return split_by_class(images, classes, classes <= _LAST_TRAIN_CLASS, names=names)


def read_lists(path: Path) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """Returns paths, class ids [N] (from 1) and the name of each class id."""
    data = loadmat(str(path))
    rows = data["annotations"].ravel()
    paths = [str(row[0].item()) for row in rows]
    classes = np.array([int(row[5].item()) for row in rows])
    names = [str(name.item()) for name in data["class_names"].ravel()]
    return paths, classes, dict(enumerate(names, start=1))
