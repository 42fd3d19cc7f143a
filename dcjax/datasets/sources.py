"""Where a published data set comes from: its extracted archive, or tensorflow-datasets."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcjax import downloads
from dcjax.datasets.image_set import ImageSet, Splits
from dcjax.writers import Console

SOURCES = ("auto", "folder", "tfds")

Counts = Mapping[str, tuple[int, int]]  # images and classes of each split


class Found(NamedTuple):
    """A data set, and the file or folder that says what is in each split."""

    splits: Splits
    lists: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
      name: in dcjax.
      home: page where it is described, or can be asked for.
      archives: those that make its folder.
      layouts: by a path below the folder, which shows that a layout is there (a pattern as of
        `Path.glob`): the function from that path to what is found.
      builder: name in tensorflow-datasets.
      read_prepared: function from the folder of what was prepared to what is found.
      prepare_with: Python packages that preparing takes, by the name that pip knows.
      prepare_from: what preparing takes, in downloads/manual of the data folder; None: `archives`.
    """

    name: str
    home: str
    archives: tuple[downloads.Archive, ...]
    layouts: Mapping[str, Callable[[Path], Found]]
    builder: str
    read_prepared: Callable[[Path], Found]
    prepare_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prepare_from: tuple[downloads.Archive, ...] | None = None


def load(
    data: Published, root: str, *, source: str, download: bool, counts: Counts | None
) -> Splits:
    """Loads a published data set from where it is.

    Args:
      data: which one.
      root: folder of the extracted archive, or data folder of tensorflow-datasets; "": the
        folder that tensorflow-datasets takes by default.
      source: "folder", "tfds", or "auto" for whatever is there, a folder first.
      download: whether what is missing may be downloaded.
      counts: what the splits must hold; None: anything.

    Raises:
      FileNotFoundError: if it is not there; says where to get it and where to put it.
      ValueError: if it does not hold what it must.
    """
    if source not in SOURCES:
        raise ValueError(f"Unknown source {source!r}; known sources are {', '.join(SOURCES)}.")
    found = _find(data, root, source)
    if found is None and _get(data, root, source, download):
        found = _find(data, root, source)
    if found is None:
        raise FileNotFoundError(_absent(data, root, source))
    if counts is not None:
        _check_counts(data.name, found, counts)
    return found.splits


def _find(data: Published, root: str, source: str) -> Found | None:
    if source != "tfds" and root:
        for pattern, read in data.layouts.items():
            for place in sorted(Path(root).expanduser().glob(pattern))[:1]:
                return read(place)
    if source != "folder" and (folder := _prepared(data, root)):
        return data.read_prepared(folder)
    return None


def _prepared(data: Published, root: str) -> Path | None:
    """Returns the folder of the newest version that tensorflow-datasets prepared."""
    found = [path.parent for path in _data_dir(root).glob(f"{data.builder}/*/dataset_info.json")]
    versions = {tuple(map(int, folder.name.split("."))): folder for folder in found}
    return versions[max(versions)] if versions else None


def _data_dir(root: str) -> Path:
    given = root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(given).expanduser()


def _manual_dir(root: str) -> Path:
    return _data_dir(root) / "downloads" / "manual"


def _get(data: Published, root: str, source: str, download: bool) -> bool:
    """Downloads, extracts or prepares what is missing, and returns whether there is hope."""
    if source == "tfds":
        return _prepare(data, root, download)
    if not (download and root and data.archives):
        return False
    top = Path(root).expanduser()
    for archive in data.archives:
        downloads.extract(downloads.fetch(archive, top, say=Console().line), top)
    return True


def _prepare(data: Published, root: str, download: bool) -> bool:
    manual = _manual_dir(root)
    if data.prepare_from is None:
        ready = any(True for pattern in data.layouts for _ in manual.glob(pattern))
    else:
        if download:
            for archive in data.prepare_from:
                downloads.fetch(archive, manual, say=Console().line)
        ready = all((manual / archive.name).is_file() for archive in data.prepare_from)
    if ready:
        lacking = [pip for name, pip in data.prepare_with.items() if not find_spec(name)]
        if lacking:
            raise ValueError(
                f"To prepare {data.builder} tensorflow-datasets needs {' and '.join(lacking)}; "
                f"pip install {' '.join(lacking)}."
            )
        from dcjax.datasets import prepared

        prepared.prepare(data.builder, _data_dir(root), manual)
    return ready


def _absent(data: Published, root: str, source: str) -> str:
    looked = []
    if source != "tfds":
        where = Path(root).expanduser() if root else "dataset.root, which is empty"
        looked.append(f"none of {', '.join(data.layouts)} is in {where}")
    if source != "folder":
        looked.append(f"tensorflow-datasets has prepared no {data.builder} in {_data_dir(root)}")
    prepares = source == "tfds"
    folder = _manual_dir(root) if prepares else Path(root or "FOLDER")
    archives = data.prepare_from if prepares and data.prepare_from else data.archives
    return (
        f"Dataset {data.name!r} is not there: {'; '.join(looked)}. "
        f"{downloads.how_to_get(archives, home=data.home, folder=folder, extracted=not prepares)}"
    )


def _check_counts(name: str, found: Found, counts: Counts) -> None:
    for split, expected in counts.items():
        images: ImageSet = getattr(found.splits, split)
        got = len(images), len(np.unique(images.labels))
        if got != expected:
            raise ValueError(
                f"{found.lists[split]}: {name} has {expected[0]:,} images of {expected[1]:,} "
                f"classes in its split {split!r}, found {got[0]:,} of {got[1]:,}; get the whole "
                "data set, or set dataset.complete=False to work with a part of it."
            )
