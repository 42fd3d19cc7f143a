"""Finds a data set's folder and reads its lists. Never downloads, never opens an image."""

import codecs
import contextlib
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcjax.core import regular_files
from dcjax.core.errors import DcjaxError, InputError, MissingFileError, reason

# The fields that identify a file, or a part of one, and its kind as of `stat.S_IFMT`. Some network
# file systems give two files the same inode, but hardly with the same size and time.
STATE = {
    "device": np.uint64,
    "inode": np.uint64,
    "changed": np.int64,
    "offset": np.int64,
    "size": np.int64,
    "kind": np.uint32,
}
_HINT = "Set --config.dataset.root to the folder of its files."


def require_folder(root: str, dataset: str, *, holding: str) -> Path:
    """Returns the path of an existing folder that should hold a data set."""
    if not root:
        raise InputError(
            f"Dataset {dataset!r} needs the folder of its files, got an empty dataset.root. {_HINT}"
        )
    top = Path(root)
    if not top.is_dir():
        raise MissingFileError(
            f"Dataset {dataset!r}: there is no folder {top}; expected one that holds {holding}. "
            f"{_HINT}"
        )
    return top


def find_root(root: str, dataset: str, *, marker: str, folders: Sequence[str] = ("",)) -> Path:
    """Returns the first of root/folder (for folder in `folders`) that holds the path `marker`."""
    top = require_folder(root, dataset, holding=marker)
    for folder in folders:
        if (top / folder / marker).exists():
            return top / folder
    tried = ", ".join(str(top / folder / marker) for folder in folders)
    raise MissingFileError(
        f"Dataset {dataset!r}: {top} is not the extracted data set, there is no {tried}. {_HINT}"
    )


def read_table(
    path: Path,
    columns: int,
    *,
    skip: int = 0,
    separator: str | None = None,
    numbers: Sequence[int] = (),
) -> list[list[str]]:
    """Reads a text list, one row of words per line.

    Args:
      path: of the list, in UTF-8; names of files may hold other bytes.
      columns: words of a row.
      skip: lines before the first row.
      separator: between words; None: white space.
      numbers: columns that must hold whole numbers.
    """
    if not path.exists():
        raise MissingFileError(f"The list {path} is missing. {_HINT}")
    rows = []
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), start=1):
        if number <= skip or not line.strip():
            continue
        row = [word.strip() for word in line.split(separator)]
        if len(row) != columns:
            raise InputError(
                f"{path}, line {number}: require {columns} columns, got {len(row)} in "
                f"{line.strip()!r}; extract the data set again."
            )
        for column in numbers:
            if not row[column].isdecimal():
                raise InputError(
                    f"{path}, line {number}: require a whole number in column {column + 1}, "
                    f"got {row[column]!r}; extract the data set again."
                )
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """Returns a text in UTF-8, with or without a byte order mark; other bytes as surrogate escapes.

    Raises:
      FileError: if it is no regular file.
      InputError: naming the line, if it is in UTF-16 or no text.
    """
    regular_files.require(path)
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}, line 1: this is UTF-16; save it as UTF-8.")
    if (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise InputError(f"{path}, line {line}: a null byte, as in UTF-16; save it as UTF-8.")
    return content.decode("utf-8-sig", "surrogateescape")


@contextlib.contextmanager
def parse_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of a block that parses a file into errors that name the file.

    Raises:
      FileError: if it is no regular file.
      InputError: with the message of any error of the block.
    """
    regular_files.require(path)
    try:
        yield
    except DcjaxError:
        raise
    except Exception as error:
        text = reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"Cannot read {os.fspath(path)}: {' '.join(text.split())[:200]}; get the data set "
            "again."
        ) from error


def walk(top: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the path of every file below a folder, but for those in hidden folders.

    Links are followed, except one to a folder that it lies in.
    """
    return _walk(os.fspath(top), frozenset())


def num_bytes(images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the size of each encoded image, paths or file parts [N], 0 for one that is absent."""
    return images["length"] if images.dtype.names is not None else states(images)["size"]


def states(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the identity and kind of the file of each image, [N] of the fields `STATE`.

    Links are followed. The fields of an absent file are 0.

    Args:
      images: Paths or file parts, [N].
    """
    if images.dtype.names is None:
        return np.fromiter(map(_state, images.tolist()), list(STATE.items()), len(images))
    files, which = np.unique(images["file"], return_inverse=True)
    fields = states(files)[which]
    fields["offset"], fields["size"] = images["offset"], images["length"]
    return fields


def order_by_content(images: npt.NDArray[Any], classes: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Returns the rows in the order of their classes, sizes and bytes, [N].

    The order is the same for all copies of a data set, however they name and pack the images.

    Args:
      images: Paths or file parts, [N].
      classes: Integers, [N].
    """
    sizes = num_bytes(images)
    pairs = np.stack([np.asarray(classes), sizes])
    _, which, counts = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    # Files are read only if a class has two images of the same size.
    checksums = np.zeros(len(images), np.int64)
    for row in np.flatnonzero((counts[which] > 1) & (sizes > 0)):
        checksums[row] = zlib.crc32(read_bytes(images[row]))
    return np.lexsort((checksums, sizes, pairs[0]))


def read_bytes(image: np.str_ | np.void) -> bytes:
    """Returns an encoded image as it is, one of paths or file parts."""
    path = image if isinstance(image, np.str_) else image["file"]
    regular_files.require(path)
    with open(path, "rb") as file:
        if isinstance(image, np.str_):
            return file.read()
        file.seek(image["offset"])
        return file.read(image["length"])


def _state(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # to open it says why
        return (0,) * len(STATE)
    kind = stat.S_IFMT(status.st_mode)
    return status.st_dev, status.st_ino, status.st_mtime_ns, 0, status.st_size, kind


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in above:
        return
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.path
            elif not entry.name.startswith("."):
                yield from _walk(entry.path, above)
