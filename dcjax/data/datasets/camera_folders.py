"""Re-identification data sets: folders of images, whose names tell identity and camera."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dcjax.core import naming
from dcjax.core.errors import InputError
from dcjax.data.datasets.files import find_root
from dcjax.data.datasets.image_set import (
    JUNK,
    ImageSet,
    Splits,
    from_classes,
    no_images,
    require_unseen,
)
from dcjax.data.datasets.request import Request
from dcjax.data.datasets.sources import Counts, Index, check_counts


@dataclasses.dataclass(frozen=True)
class CameraFolders:
    """A data set of three folders.

    Attributes:
      name: in dcjax.
      folders: of the splits train, query and gallery.
      tops: folders below `dataset.root` that may hold these.
      pattern: of a file's name; its groups are the identity and the camera.
      example: of a file's name.
      counts: images and identities of each split, without junk.
    """

    name: str
    folders: Mapping[str, str]
    tops: tuple[str, ...]
    pattern: str
    example: str
    counts: Counts


def load(data: CameraFolders, request: Request, *, complete: bool) -> Splits:
    """Loads a data set; images of the identity "-1" are junk, and are left out.

    Images are in the order of their names. Those of identities that no query has, as the
    distractors of the identity "0000", stay in the gallery.

    Args:
      data: which one.
      request: which images, and where they are.
      complete: whether the splits must hold what was published.

    Raises:
      MissingFileError: if a folder is not there.
      InputError: naming a file whose name is not as required, or the numbers that are not.
    """
    top = find_root(request.root, data.name, marker=data.folders["query"], folders=data.tops)
    wanted = ["train"] * request.with_train + ["query", "gallery"]
    folders = {split: top / data.folders[split] for split in wanted}
    listed = {split: _list(folder, data) for split, folder in folders.items()}
    tested = np.concatenate([listed[split][1] for split in ("query", "gallery")])

    def take(split: str) -> ImageSet:
        paths, identities, cameras = listed[split]
        among = identities if split == "train" else tested
        return from_classes(paths, identities, among=among, cameras=cameras)

    train = take("train") if request.with_train else no_images()
    splits = require_unseen(Splits(train, take("query"), take("gallery")), top)
    if complete:
        index = Index(splits, folders)
        check_counts(data.name, data.counts, index, with_train=request.with_train)
    return splits


def _list(folder: Path, data: CameraFolders) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns paths, identities str[N] and cameras str[N] of a folder's images without junk."""
    names = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(".jpg")]
    rows: list[tuple[str, str, str]] = []
    for name in sorted(names, key=naming.encode):
        found = re.match(data.pattern, name)
        if found is None:
            raise InputError(
                f"{folder}: require names of identity and camera as {data.example}, got "
                f"{naming.escape(name)}; move other images elsewhere."
            )
        if found[1] != JUNK:
            rows.append((str(folder / name), found[1], found[2]))
    paths, identities, cameras = zip(*rows, strict=True) if rows else ((), (), ())
    return list(paths), np.array(identities, np.str_), np.array(cameras, np.str_)
