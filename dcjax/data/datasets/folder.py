"""Any images in folders: one sub-folder per class."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcjax.core import naming
from dcjax.core.errors import InputError, MissingFileError
from dcjax.data.datasets.files import require_folder, walk
from dcjax.data.datasets.image_set import Splits, from_classes, no_images, require_unseen
from dcjax.data.datasets.request import Request
from dcjax.data.headers import FORMATS


def load(request: Request, *, test_classes: float) -> Splits:
    """Loads a folder of images; each class is a sub-folder, and its images lie directly in it.

    If root/train exists and itself holds folders, the splits are given: train/ and test/, or
    train/, query/ and gallery/, each with class folders. Otherwise the class folders lie in
    root, and the last ones in sorted order are held out as test classes; those of a saved run, if
    they are the last ones, so that class folders to train on need not be there.

    Args:
      request: Which images, and where they are.
      test_classes: Share of the classes to hold out, in (0, 1), rounded to whole classes, at
        least one; not used where the splits are given.
    """
    top = require_folder(request.root, "folder", holding="class folders")
    with_train = request.with_train
    parts = ["train"] if with_train else ["train", "test", "query"]
    if any(_subfolders(top / part) for part in parts):
        return _load_given_splits(top, with_train)
    names = _subfolders(top)
    held_out = num_test_classes(names, test_classes, request.saved_test)
    if not 0 < held_out < len(names) + (not with_train):
        raise InputError(f"Require at least two class folders in {top}, got {len(names)}.")
    train = from_classes(*_list_images(top, names[:-held_out])) if with_train else no_images()
    return Splits(train, query=from_classes(*_list_images(top, names[-held_out:])))


def ignored_files(root: str, splits: Splits) -> list[str]:
    """Returns the files below a folder that are no images of its data set, in order.

    Hidden folders are left out.
    """
    top = require_folder(naming.expand(root), "folder", holding="class folders")
    sets = filter(None, vars(splits).values())
    used = {path for images in sets for path in images.images.tolist()}
    return sorted((path for path in walk(top) if path not in used), key=naming.encode)


def num_test_classes(
    names: Sequence[str], test_classes: float, saved_test: Mapping[str, int] | None
) -> int:
    """Returns how many classes, the last in order, are held out: those of a saved run, if given.

    Args:
      names: of all classes, in order.
      test_classes: share of the classes to hold out.
      saved_test: see `Request`.
    """
    if not 0 < test_classes < 1:
        raise InputError(f"Require 0 < dataset.test_classes < 1, got {test_classes}.")
    if saved_test:
        saved = saved_test["classes"]
        if naming.checksum(names[-saved:]) == saved_test["names"]:
            return saved
    return min(max(math.floor(test_classes * len(names) + 0.5), 1), len(names) - 1)


def _load_given_splits(top: Path, with_train: bool) -> Splits:
    train = from_classes(*_list_images(top / "train")) if with_train else no_images()
    if (top / "test").is_dir():
        return require_unseen(Splits(train, from_classes(*_list_images(top / "test"))), top)
    for name in ("query", "gallery"):
        if not (top / name).is_dir():
            raise MissingFileError(
                f"{top} has folders of splits with class folders in them, so it must have test/, "
                f"or query/ and gallery/; there is no {top / name}."
            )
    query, gallery = _list_images(top / "query"), _list_images(top / "gallery")
    among = query[1] + gallery[1]
    tested = (from_classes(*listed, among=among) for listed in (query, gallery))
    return require_unseen(Splits(train, *tested), top)


def _list_images(top: Path, names: list[str] | None = None) -> tuple[list[str], list[str]]:
    paths: list[str] = []
    classes: list[str] = []
    for name in _subfolders(top) if names is None else names:
        images = filter(is_image, os.listdir(top / name))
        files = sorted(images, key=naming.encode)
        if not files:
            raise InputError(
                f"Require an image ({', '.join(FORMATS)}) in every class folder, got none in "
                f"{naming.escape(str(top / name))}; add images or remove the folder. If folders "
                "are nested, list the images in a table (dataset.name=manifest)."
            )
        paths.extend(str(top / name / f) for f in files)
        classes.extend([name] * len(files))
    return paths, classes


def is_image(name: str) -> bool:
    """Returns whether the name of a file is that of an image."""
    return name.lower().endswith(tuple(FORMATS)) and not name.startswith(".")


def _subfolders(top: Path) -> list[str]:
    if not top.is_dir():
        return []
    with os.scandir(top) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return sorted(names, key=naming.encode)
