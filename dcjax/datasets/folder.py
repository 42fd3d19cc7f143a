"""Any images in folders: one sub-folder per class."""

import math
import os
from pathlib import Path

from dcjax.datasets.files import require_folder
from dcjax.datasets.image_set import Splits, from_classes, require_unseen
from dcjax.errors import InputError, MissingFileError
from dcjax.headers import FORMATS


def load(root: str, *, test_classes: float) -> Splits:
    """Loads a folder of images; each class is a sub-folder, and its images lie directly in it.

    If root/train exists and itself holds folders, the splits are given: train/ and test/, or
    train/, query/ and gallery/, each with class folders. Otherwise the class folders lie in
    root, and the last ones in sorted order are held out as test classes.

    Args:
      root: The folder.
      test_classes: Share of the classes to hold out, in (0, 1), rounded to whole classes, at
        least one; not used where the splits are given.
    """
    top = require_folder(root, "folder", holding="class folders")
    if (top / "train").is_dir() and _subfolders(top / "train"):
        return _given_splits(top)
    if not 0 < test_classes < 1:
        raise InputError(f"Require 0 < test_classes < 1, got test_classes={test_classes}.")
    names = _subfolders(top)
    if len(names) < 2:
        raise InputError(f"Require at least two class folders in {top}, got {len(names)}.")
    held_out = min(max(math.floor(test_classes * len(names) + 0.5), 1), len(names) - 1)
    train, test = (_list(top, part) for part in (names[:-held_out], names[-held_out:]))
    return Splits(train=from_classes(*train), query=from_classes(*test))


def _given_splits(top: Path) -> Splits:
    train = from_classes(*_list(top / "train"))
    if (top / "test").is_dir():
        return require_unseen(Splits(train, from_classes(*_list(top / "test"))), top)
    for name in ("query", "gallery"):
        if not (top / name).is_dir():
            raise MissingFileError(
                f"{top} has train/ with class folders in it, so it must also have test/, or "
                f"query/ and gallery/; there is no {top / name}."
            )
    query, gallery = _list(top / "query"), _list(top / "gallery")
    among = query[1] + gallery[1]
    tested = (from_classes(*listed, among=among) for listed in (query, gallery))
    return require_unseen(Splits(train, *tested), top)


def _list(top: Path, names: list[str] | None = None) -> tuple[list[str], list[str]]:
    paths: list[str] = []
    classes: list[str] = []
    for name in _subfolders(top) if names is None else names:
        found = sorted(f for f in os.listdir(top / name) if _is_image(f))
        if not found:
            raise InputError(
                f"Require an image ({', '.join(FORMATS)}) in every class folder, got none in "
                f"{top / name}; add images or remove the folder."
            )
        paths.extend(str(top / name / f) for f in found)
        classes.extend([name] * len(found))
    return paths, classes


def _is_image(name: str) -> bool:
    return name.lower().endswith(tuple(FORMATS)) and not name.startswith(".")


def _subfolders(top: Path) -> list[str]:
    if not top.is_dir():
        return []
    with os.scandir(top) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
