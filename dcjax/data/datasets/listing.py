"""Any images without a protocol: of a folder, a table or a list of paths."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError, MissingFileError, file_errors
from dcjax.data.datasets import tables
from dcjax.data.datasets.files import read_text, walk
from dcjax.data.datasets.folder import is_image
from dcjax.data.datasets.image_set import ImageSet, from_classes
from dcjax.data.headers import FORMATS


class Listing(NamedTuple):
    """Images in an order.

    Attributes:
      images: N of them; without classes, all have the same one, "".
      has_labels: whether they have classes.
      splits: the name of each one's split, str[N]; None if there are none.
    """

    images: ImageSet
    has_labels: bool
    splits: np.ndarray | None = None


def load(place: str, *, flag: str = "--images") -> Listing:
    """Lists the images of a folder, a table or a list of paths, without opening them.

    Of a folder, all images at any depth, in the order of their paths; the sub-folders are the
    classes if every image lies directly in one. Of a table (.csv, .tsv, .parquet), the column path
    and, if they are there, label, split and camera. Any other file is one image, or a list: one
    path a line. Relative paths start from the folder of the table or list.

    Args:
      place: its path.
      flag: that gave the path, for messages.

    Raises:
      MissingFileError: if there is nothing at the place.
      InputError: if no images are listed there.
    """
    path = Path(naming.expand(place))
    if not os.path.lexists(path):
        raise MissingFileError(
            f"There is no folder, table or list of images {path}; correct {flag}."
        )
    with file_errors(f"Cannot read {flag}={place}"):
        if path.is_dir():
            return _list_folder(path)
        if path.suffix.lower() in tables.SUFFIXES:
            return _list_table(path, flag)
        return _list_lines(path)


def _list_folder(top: Path) -> Listing:
    files = sorted(
        (path for path in walk(top) if is_image(os.path.basename(path))), key=naming.encode
    )
    if not files:
        raise InputError(f"Require an image ({', '.join(FORMATS)}) in {top}, got none.")
    parts = [os.path.relpath(file, top).split(os.sep) for file in files]
    has_labels = all(len(part) == 2 for part in parts)
    classes = [part[0] if has_labels else "" for part in parts]
    return Listing(from_classes(files, classes), has_labels)


def _list_table(path: Path, flag: str) -> Listing:
    optional = ("label", "split", "camera")
    table = tables.read(path, ("path",), optional=optional, remedy=f"correct {flag}")
    if not len(table["path"]):
        raise InputError(f"{path}: require at least one image, got a table without rows.")
    files = [os.path.join(path.parent, name) for name in table["path"].tolist()]
    labels = table.get("label")
    classes = np.full(len(files), "") if labels is None else labels
    images = from_classes(files, classes, cameras=table.get("camera"))
    return Listing(images, labels is not None, table.get("split"))


def _list_lines(path: Path) -> Listing:
    if is_image(path.name):
        return Listing(from_classes([str(path)], [""]), has_labels=False)
    lines = (line.rstrip("\r") for line in read_text(path).split("\n"))
    files = [os.path.join(path.parent, line) for line in lines if line.strip()]
    if not files:
        raise InputError(f"{path}: require the path of an image on each line, got no lines.")
    return Listing(from_classes(files, np.full(len(files), "")), has_labels=False)
