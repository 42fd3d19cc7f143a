"""CARS196 (Krause et al. 2013): car models; classes 1-98 train, 99-196 test, as both papers do.

The copies of this set number its images in different ways, so within a class they come in the
order of their bytes. The lists' own train/test flag cuts every class in two: it is of no use here.
The super-class is the first word of the name, the make: not every name tells the body.
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from dcjax.core import regular_files
from dcjax.core.errors import MissingFileError
from dcjax.data.datasets.files import order_by_content
from dcjax.data.datasets.image_set import ImageArray, Splits
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Index, PublishedDataset, cut
from dcjax.data.datasets.sources import load as load_published
from dcjax.data.downloads import Archive

_LAST_TRAIN_CLASS = 98
# Once at ai.stanford.edu, which answers 404 since 2023.
_ARCHIVES = (
    Archive(
        "cars_train.tgz",
        url="",
        size=979269282,
        sha256="512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
    ),
    Archive(
        "cars_test.tgz",
        url="",
        size=977350468,
        sha256="bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
    ),
    Archive(
        "car_devkit.tgz",
        url="",
        size=330960,
        sha256="b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
    ),
    Archive(
        "cars_test_annos_withlabels.mat",
        url="",
        size=185758,
        sha256="790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
    ),
)
_PARTS = {"cars_train": "cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}


def load(request: Request, *, source: str, complete: bool, download: bool) -> Splits:
    """Loads CARS196 from car_ims/ or cars_train/ and cars_test/, or from tensorflow-datasets."""
    return load_published(CARS, request, source=source, complete=complete, download=download)


def read_annotations(path: Path) -> tuple[list[str], np.ndarray]:
    """Returns the file names and the class ids [N], from 1, of a list of the devkit."""
    rows = _mat(path)["annotations"].ravel()
    name = "fname" if "fname" in rows[0].dtype.names else "relative_im_path"
    return [str(row.item()) for row in rows[name]], np.array([int(c.item()) for c in rows["class"]])


def read_class_names(path: Path) -> dict[int, str]:
    """Returns the name of each class id of a list of the devkit."""
    names = _mat(path)["class_names"].ravel()
    return {i: str(name.item()) for i, name in enumerate(names, start=1)}


def _mat(path: Path) -> dict[str, np.ndarray]:
    regular_files.require(path)
    if not path.is_file():
        raise MissingFileError(f"The list {path} is missing; get it from the data set's archives.")
    return loadmat(str(path))


def _from_car_ims(folder: Path) -> Index:
    """Reads the archive car_ims.tgz and its list cars_annos.mat."""
    annotations = folder.parent / "cars_annos.mat"
    paths, classes = read_annotations(annotations)
    images = [str(folder.parent / path) for path in paths]
    return _cut_splits(
        np.array(images, np.str_), classes, read_class_names(annotations), annotations
    )


def _from_devkit(devkit: Path) -> Index:
    """Reads the folders of the classification split, whose lists are in devkit/ or beside it."""
    top, images, classes = devkit.parent, [], []
    for name, annotations in _PARTS.items():
        below = top / name / name if (top / name / name).is_dir() else top / name
        beside = (top / annotations).is_file()
        paths, ids = read_annotations((top if beside else devkit) / annotations)
        images += [str(below / path) for path in paths]
        classes.append(ids)
    names = read_class_names(devkit / "cars_meta.mat")
    return _cut_splits(np.array(images, np.str_), np.concatenate(classes), names, devkit)


def _from_records(folder: Path) -> Index:
    from dcjax.data.datasets import prepared

    images, features = prepared.read(folder, ("train", "test"), ["label"])
    names = dict(enumerate(prepared.class_names(folder, "label"), start=1))
    return _cut_splits(images, features["label"] + 1, names, folder)


def _cut_splits(
    images: ImageArray, classes: np.ndarray, names: dict[int, str], where: Path
) -> Index:
    return cut(
        images,
        classes,
        order_by_content(images, classes),
        last_train_class=_LAST_TRAIN_CLASS,
        names=names,
        super_classes={i: name.split()[0] for i, name in names.items()},
        where=where,
    )


CARS = PublishedDataset(
    "cars",
    home="https://github.com/pytorch/vision/issues/7545",
    counts={"train": (8054, 98), "query": (8131, 98)},
    archives=_ARCHIVES,
    layouts={
        "car_ims": _from_car_ims,
        "cars196/car_ims": _from_car_ims,
        "devkit": _from_devkit,
        "stanford_cars/devkit": _from_devkit,
    },
    builder="cars196",
    read_prepared=_from_records,
    prepare_from=_ARCHIVES,
    prepare_with={"PIL": "pillow"},
)
