"""CUB200-2011 (Wah et al. 2011): birds; classes 1-100 train, 101-200 test, as both papers do.

Images come in the order of their paths, as in the papers' code. The super-class is the last word
of the name: Albatross of 001.Black_footed_Albatross.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcjax.core.errors import InputError
from dcjax.data.datasets.files import read_table
from dcjax.data.datasets.image_set import ImageArray, Splits
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Index, PublishedDataset, cut
from dcjax.data.datasets.sources import load as load_published
from dcjax.data.downloads import Archive

_LAST_TRAIN_CLASS = 100
_IMAGES = Archive(
    "CUB_200_2011.tgz",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
    size=1150585339,
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
)
_MASKS = Archive(
    "segmentations.tgz",
    url="https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1",
    size=39272883,
    sha256="dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
)


def load(request: Request, *, source: str, complete: bool, download: bool) -> Splits:
    """Loads CUB200-2011 from its folder, a folder of its class folders, or tensorflow-datasets."""
    return load_published(CUB, request, source=source, complete=complete, download=download)


def read_lists(images_txt: Path) -> tuple[list[str], np.ndarray]:
    """Returns paths below images/ and class ids [N], from 1, of the three lists of the archive."""
    folder = images_txt.parent
    paths = dict(read_table(images_txt, 2))
    classes = dict(read_table(folder / "image_class_labels.txt", 2, numbers=[1]))
    if paths.keys() != classes.keys():
        raise InputError(
            f"{folder}: images.txt and image_class_labels.txt must hold the same image ids, "
            f"got {len(paths)} and {len(classes)}; extract the data set again."
        )
    return list(paths.values()), np.array([int(classes[i]) for i in paths])


def super_class(name: str) -> str:
    """Returns the last word of a class name such as 001.Black_footed_Albatross."""
    return re.split("[._-]", name)[-1]


def _from_lists(images_txt: Path) -> Index:
    paths, classes = read_lists(images_txt)
    images = [str(images_txt.parent / "images" / path) for path in paths]
    return _cut_splits(np.array(images, np.str_), paths, classes, images_txt)


def _from_class_folders(folder: Path) -> Index:
    """Reads images/NNN.Name/*.jpg without lists; the class is the number NNN."""
    files = sorted(path for path in folder.glob("[0-9][0-9][0-9].*/*.jpg") if path.name[0] != ".")
    paths = [f"{path.parent.name}/{path.name}" for path in files]
    classes = np.array([int(path[:3]) for path in paths])
    return _cut_splits(np.array(list(map(str, files)), np.str_), paths, classes, folder)


def _from_records(folder: Path) -> Index:
    from dcjax.data.datasets import prepared

    wanted = ("label", "image/filename")
    images, features = prepared.read(folder, ("train", "test"), wanted)
    paths = ["/".join(name.split("/")[-2:]) for name in features["image/filename"]]
    return _cut_splits(images, paths, features["label"] + 1, folder)


def _cut_splits(
    images: ImageArray, paths: Sequence[str], classes: np.ndarray, where: Path
) -> Index:
    names = {int(i): path.split("/")[0] for i, path in zip(classes, paths, strict=True)}
    return cut(
        images,
        classes,
        np.argsort(paths),
        last_train_class=_LAST_TRAIN_CLASS,
        names=names,
        super_classes={i: super_class(name) for i, name in names.items()},
        where=where,
    )


CUB = PublishedDataset(
    "cub",
    home="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    counts={"train": (5864, 100), "query": (5924, 100)},
    archives=(_IMAGES,),
    layouts={
        "images.txt": _from_lists,
        "CUB_200_2011/images.txt": _from_lists,
        "images": _from_class_folders,
    },
    builder="caltech_birds2011",
    read_prepared=_from_records,
    prepare_from=(_IMAGES, _MASKS),
    prepare_with={"cv2": "opencv-python-headless"},
)
