"""Grocery Store (Klasson et al. 2019): products in shops, and one iconic picture of each.

Classes 0-40 train; of the other 40, iconic pictures search the photographs taken in shops. The
super-class is the coarse class.
"""

import csv
import functools
import io
from pathlib import Path

import numpy as np

from dcjax.data.datasets.files import find_root, parse_errors, read_table, read_text
from dcjax.data.datasets.image_set import Splits, from_classes
from dcjax.data.datasets.request import Request

_LAST_TRAIN_CLASS = 40


def load(request: Request) -> Splits:
    """Loads Grocery Store from the folder of classes.csv, or from the one that holds dataset/."""
    folder = find_root(request.root, "grocery", marker="classes.csv", folders=("", "dataset"))
    paths, classes = read_lists(folder)
    names, above, icons = read_classes(folder / "classes.csv")
    photographs = np.array([str(folder / path) for path in paths], dtype=np.str_)
    tested = [i for i in icons if i > _LAST_TRAIN_CLASS]
    queries = [str(folder / icons[i]) for i in tested]
    train = classes <= _LAST_TRAIN_CLASS
    label = functools.partial(from_classes, names=names, super_classes=above)
    return Splits(
        train=label(photographs[train], classes[train]),
        query=label(queries, tested, among=tested),
        gallery=label(photographs[~train], classes[~train], among=tested),
    )


def read_lists(folder: Path) -> tuple[list[str], np.ndarray]:
    """Returns paths and fine class ids [N] of the three lists "path, fine, coarse"."""
    lists = ("train.txt", "val.txt", "test.txt")
    rows = [
        row for name in lists for row in read_table(folder / name, 3, separator=",", numbers=(1, 2))
    ]
    return [row[0] for row in rows], np.array([int(row[1]) for row in rows])


def read_classes(path: Path) -> tuple[dict[int, str], dict[int, str], dict[int, str]]:
    """Returns the name, the coarse class and the iconic picture's path of each fine class id."""
    with parse_errors(path):
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))[1:]
        names, above = ({int(r[1]): r[column] for r in rows} for column in (0, 2))
        return names, above, {int(r[1]): r[4].lstrip("/") for r in rows}
