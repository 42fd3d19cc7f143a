"""Where a published data set comes from: its extracted archive, or tensorflow-datasets."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from dcjax.core import naming
from dcjax.core.console import Console
from dcjax.core.errors import DcjaxError, InputError, MissingFileError
from dcjax.core.ranges import require_known
from dcjax.data import archives, downloads
from dcjax.data.datasets.image_set import ImageArray, ImageSet, Splits, split_by_class
from dcjax.data.datasets.request import Request

SOURCES = ("auto", "folder", "tfds")

Counts = Mapping[str, tuple[int, int]]  # images and classes of each split


class Index(NamedTuple):
    """The splits of a data set, and the file or folder that lists each of them."""

    splits: Splits
    lists: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class PublishedDataset:
    """A published data set.

    Attributes:
      name: in dcjax.
      home: page where it is described, or can be asked for.
      counts: what its splits hold.
      archives: those that make its folder.
      layouts: by the pattern (of `Path.glob`) of a path below the folder that shows a layout: the
        function from that path to the index.
      builder: name in tensorflow-datasets.
      create_builder: makes the builder, from the keyword data_dir; None: tensorflow-datasets has
        it.
      read_prepared: function from the folder of a prepared version to the index.
      prepare_with: names for pip of Python packages that preparing needs, by the name to import.
      prepare_from: archives that preparing needs, in downloads/manual of the data folder; None:
        it needs their content, in one of the layouts.
    """

    name: str
    home: str
    counts: Counts
    archives: tuple[downloads.Archive, ...]
    layouts: Mapping[str, Callable[[Path], Index]]
    builder: str
    read_prepared: Callable[[Path], Index]
    prepare_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prepare_from: tuple[downloads.Archive, ...] | None = None
    create_builder: Callable[..., Any] | None = None

    def find(self, folder: Path) -> tuple[Path, Callable[[Path], Index]] | None:
        """Returns the path that shows the first layout in a folder, and the function from it."""
        for pattern, read in self.layouts.items():
            for place in sorted(folder.glob(pattern))[:1]:
                return place, read
        return None

    def require(self, folder: Path) -> Path:
        """Returns the path that shows the first layout in a folder."""
        layout = self.find(folder)
        if layout is None:
            raise MissingFileError(f"None of {', '.join(self.layouts)} is in {folder}.")
        return layout[0]


def cut(
    images: ImageArray,
    classes: np.ndarray,
    order: np.ndarray,
    *,
    last_train_class: int,
    names: Mapping[int, str],
    super_classes: Mapping[int, str],
    where: Path,
) -> Index:
    """Splits images by their class ids: those up to `last_train_class` train, the others test.

    Args:
      images: [N].
      classes: ids [N], from 1.
      order: in which the images come, [N].
      last_train_class: the greatest id to train on.
      names: of the ids.
      super_classes: names of the super-classes of the ids.
      where: the file or folder that lists the images.
    """
    classes = classes[order]
    is_train = classes <= last_train_class
    splits = split_by_class(
        images[order], classes, is_train, names=names, super_classes=super_classes
    )
    return Index(splits, {"train": where, "query": where})


def load(
    data: PublishedDataset, request: Request, *, source: str, complete: bool, download: bool
) -> Splits:
    """Loads a published data set from where it is.

    Args:
      data: which one.
      request: its root is the folder of the extracted archive, or the data folder of
        tensorflow-datasets; "": the folder that tensorflow-datasets takes by default.
      source: "folder", "tfds", or "auto" for the first of these that is there.
      complete: whether the splits must hold what was published.
      download: whether what is missing may be downloaded.

    Raises:
      MissingFileError: if it is not there; says where to get it and where to put it.
      InputError: if it does not hold what it must.
    """
    require_known("source", source, SOURCES)
    root = request.root
    index = _find(data, root, source)
    if index is None and _can_get(data, root, source, download):
        top = _data_dir(root)
        top.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(top / f"{data.name}.lock"):  # a run beside this one waits for it
            _get(data, root, source, download)
        index = _find(data, root, source)
    if index is None:
        raise MissingFileError(_missing_message(data, root, source, download))
    if complete:
        check_counts(data.name, data.counts, index, with_train=request.with_train)
    return index.splits


def _find(data: PublishedDataset, root: str, source: str) -> Index | None:
    if source != "tfds" and root and (layout := data.find(Path(root))):
        place, read = layout
        return _read(data.name, read, place)
    if source != "folder" and (folder := _find_prepared(data, root)):
        return _read(data.name, data.read_prepared, folder)
    return None


def _read(name: str, read: Callable[[Path], Index], place: Path) -> Index:
    try:
        return read(place)
    except (DcjaxError, OSError):
        raise
    except Exception as error:  # whatever a library stumbles over in a damaged file
        raise InputError(
            f"{place} cannot be read as data set {name!r}; get or prepare it again "
            f"({type(error).__name__}: {error})."
        ) from error


def _find_prepared(data: PublishedDataset, root: str) -> Path | None:
    """Returns the folder of the newest version that tensorflow-datasets prepared."""
    folders = [path.parent for path in _data_dir(root).glob(f"{data.builder}/*/dataset_info.json")]
    versions = {
        tuple(map(int, folder.name.split("."))): folder
        for folder in folders
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)  # not one that was left half prepared
    }
    return versions[max(versions)] if versions else None


def _data_dir(root: str) -> Path:
    given = root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(naming.expand(given))


def _can_get(data: PublishedDataset, root: str, source: str, download: bool) -> bool:
    """Returns whether a missing data set can be downloaded, or prepared from local files."""
    published, folder = _required_archives(data, root, source)
    if source == "tfds" and data.prepare_from is None:
        return data.find(folder) is not None
    if source != "tfds" and not (root and download and published):
        return False
    return all(
        (folder / archive.name).is_file() or (download and archive.url) for archive in published
    )


def _get(data: PublishedDataset, root: str, source: str, download: bool) -> None:
    """Prepares or extracts a missing data set, after downloading it if that is allowed.

    Steps that are done already are skipped.
    """
    published, folder = _required_archives(data, root, source)
    if source == "tfds":
        _require_packages(data)
    say = Console().print_line
    paths = [downloads.fetch(archive, folder, say=say) for archive in published if download]
    if source == "tfds":
        from dcjax.data.datasets import prepared

        prepared.prepare(data.builder, _data_dir(root), folder, create_builder=data.create_builder)
    else:
        for path in paths:
            say(f"Extracts {path}.")
            archives.extract(path, folder)


def _required_archives(
    data: PublishedDataset, root: str, source: str
) -> tuple[tuple[downloads.Archive, ...], Path]:
    """Returns the archives that a source needs, and the folder to put them into."""
    if source == "tfds":
        return data.prepare_from or (), _data_dir(root) / "downloads" / "manual"
    return data.archives, Path(root or "FOLDER")


def _require_packages(data: PublishedDataset) -> None:
    lacking = [pip for name, pip in data.prepare_with.items() if not find_spec(name)]
    if lacking:
        raise InputError(
            f"To prepare {data.builder} tensorflow-datasets needs {' and '.join(lacking)}; "
            f"pip install {' '.join(lacking)}."
        )


def _missing_message(data: PublishedDataset, root: str, source: str, download: bool) -> str:
    looked = []
    if source != "tfds":
        where = root or "dataset.root, which is empty"
        exists = not root or Path(root).is_dir()
        looked.append(
            f"none of {', '.join(data.layouts)} is in {where}"
            f"{'' if exists else ', which does not exist'}"
        )
    if source != "folder":
        looked.append(f"tensorflow-datasets has prepared no {data.builder} in {_data_dir(root)}")
    published, folder = _required_archives(data, root, source)
    extracted = source != "tfds" or data.prepare_from is None
    advice = downloads.how_to_get(published, home=data.home, folder=folder, extracted=extracted)
    if not root and source != "tfds":
        if download and all(archive.url for archive in published) and published:
            advice = "Set --config.dataset.root to the folder that it is to be downloaded to."
        else:
            advice += f" Then set --config.dataset.root={folder}."
    return f"Dataset {data.name!r} is not there: {'; '.join(looked)}. {advice}"


def check_counts(name: str, counts: Counts, index: Index, *, with_train: bool) -> None:
    """Checks that the splits hold what was published.

    Args:
      name: of the data set.
      counts: what they must hold.
      index: what was found, and where.
      with_train: whether training images are needed.

    Raises:
      InputError: naming both numbers.
    """
    for split, expected in counts.items():
        if split == "train" and not with_train:
            continue
        images: ImageSet = getattr(index.splits, split)
        got = len(images), len(np.unique(images.labels))
        shown = index.splits.query_name if split == "query" else split
        if got != expected:
            raise InputError(
                f"{index.lists[split]}: {name} has {expected[0]:,} images of {expected[1]:,} "
                f"classes in its split {shown!r}, found {got[0]:,} of {got[1]:,}; get the whole "
                "data set, or set dataset.complete=False to work with a part of it."
            )
