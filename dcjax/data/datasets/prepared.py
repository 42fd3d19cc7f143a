"""Reads data sets that tensorflow-datasets has prepared: places of images in files, and features.

The readers of tensorflow-datasets return images in order, or decode them one by one in Python. For
its default format, TFRecord, dcjax finds the places of all images once, and reads them in any
order.
"""

import functools
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from dcjax.core import regular_files
from dcjax.core.errors import InputError
from dcjax.data.datasets.image_set import file_parts
from dcjax.data.quiet_tensorflow import tf

# Around a record: its length and a checksum before, another checksum behind.
_LENGTH, _HEADER, _FOOTER = struct.Struct("<Q"), 12, 4
# Keys of features.json, in old versions too, whose values are names of Python classes.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_SEARCHED = 64  # bytes of an image that are searched in its record: many take long


class Records(NamedTuple):
    """The records of some splits.

    Attributes:
      images: file parts [N].
      features: the wanted features, str[N] or int64[N] each.
    """

    images: npt.NDArray[Any]
    features: dict[str, npt.NDArray[Any]]


def prepare(
    name: str,
    data_dir: Path,
    manual: Path,
    *,
    create_builder: Callable[..., tfds.core.DatasetBuilder] | None = None,
) -> None:
    """Prepares a data set from the files in the folder `manual`; nothing is downloaded.

    Args:
      name: of the builder.
      data_dir: where to.
      manual: holds the archives, under the names that the builder knows, or the data set itself.
      create_builder: makes the builder, from the keyword data_dir; None: tensorflow-datasets has
        it.

    Raises:
      InputError: if what lies there is not the data set.
    """
    create = create_builder or functools.partial(tfds.builder, name)
    config = tfds.download.DownloadConfig(manual_dir=manual)
    try:
        create(data_dir=data_dir).download_and_prepare(download_config=config)
    except Exception as error:  # whatever a builder stumbles over in files that are not its own
        reason = " ".join(str(error).split())
        raise InputError(
            f"tensorflow-datasets cannot prepare {name} from {manual}: {reason}"
        ) from error


def class_names(folder: Path, feature: str) -> list[str]:
    """Returns the names of the classes of a feature."""
    return _info(folder).features[feature].names


def read(folder: Path, splits: Sequence[str], features: Sequence[str]) -> Records:
    """Reads where images lie and the features of some splits, one after the other.

    Args:
      folder: of a prepared version.
      splits: names of splits.
      features: names of the wanted features, each one text or integer.
    """
    info = _info(folder)
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise InputError(
            f"Require records in the format tfrecord, tensorflow-datasets' default, got "
            f"{info.file_format.value} in {folder}; prepare the data set without file_format."
        )
    if missing := [name for name in features if name not in info.features]:
        raise InputError(
            f"{folder} was prepared without {' and '.join(missing)}; remove it, and prepare the "
            "data set again."
        )
    files = [os.fspath(path) for split in splits for path in info.splits[split].filepaths]
    rows = [row for path in files for row in _rows(path, features)]
    paths, offsets, lengths, *values = zip(*rows, strict=True)
    columns = {name: np.array(column) for name, column in zip(features, values, strict=True)}
    return Records(file_parts(paths, offsets, lengths), columns)


def _info(folder: Path) -> tfds.core.DatasetInfo:
    """Returns the info of a prepared version, after checking that loading it runs no other code.

    tensorflow-datasets imports any module that features.json names for a class.
    """
    path = folder / "features.json"
    try:
        regular_files.require(path)
        features = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}; prepare the data set again.") from error
    for name in _class_names(features):
        if not name.startswith("tensorflow_datasets."):
            raise InputError(
                f"{path} names the class {name[:80]!r}: require classes of tensorflow_datasets "
                "alone, since reading another one would import its module, and run it."
            )
    return tfds.builder_from_directory(folder).info


def _class_names(features: Any) -> Iterator[str]:
    """Yields the names of classes in the content of a features.json, at any depth."""
    if isinstance(features, list):
        for value in features:
            yield from _class_names(value)
    elif isinstance(features, dict):
        for key, value in features.items():
            if key in _CLASS_KEYS and isinstance(value, str):
                yield value
            else:
                yield from _class_names(value)


def _rows(path: str, features: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yields path, offset and length of each image of a file, and its features."""
    regular_files.require(path)
    if not os.path.getsize(path):
        raise InputError(f"{path} is empty; prepare the data set again.")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = 0
        while end < len(content):
            (length,), start = _LENGTH.unpack_from(content, end), end + _HEADER
            end = start + length + _FOOTER
            record = content[start : start + length]
            values = tf.train.Example.FromString(record).features.feature
            image = values["image"].bytes_list.value[0]
            offset = record.index(image[:_SEARCHED])
            if not record.startswith(image, offset):
                offset = record.index(image)
            yield path, start + offset, len(image), *(_value(values[name]) for name in features)


def _value(feature: tf.train.Feature) -> str | int:
    if feature.HasField("int64_list"):
        return feature.int64_list.value[0]
    return feature.bytes_list.value[0].decode("utf-8", "surrogateescape")
