"""Extracts a data set's archives: completely or not at all, and nothing outside the folder."""

import functools
import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from dcjax.core.errors import FileError, InputError

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
_BLOCK = 2**20  # bytes


def extract(path: Path, folder: Path) -> None:
    """Extracts a .tgz or .zip; any other file is left as it is.

    Files that are there already, with the sizes of the archive, are kept.

    Args:
      path: of the archive.
      folder: where to, on the disk that is written to.

    Raises:
      FileError: if the folder holds something else under the names of the archive.
      FileError: if the disk has no space for it.
      InputError: if the archive is damaged, or holds what must not be extracted.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                sizes = {e.filename: None if e.is_dir() else e.file_size for e in entries}
                _extract_missing(path, folder, sizes, archive.extractall)
        elif path.suffix == ".tgz":
            with gzip.open(path) as content, tarfile.open(fileobj=content, mode="r:") as archive:
                members = archive.getmembers()
                while content.read(_BLOCK):  # up to the checksum at its end
                    pass
                sizes = {m.name: m.size if m.isfile() else None for m in members}
                extract_all = functools.partial(archive.extractall, filter="data")
                _extract_missing(path, folder, sizes, extract_all)
    except tarfile.FilterError as error:
        raise InputError(f"{path} must not be extracted: {error}.") from None
    except _DAMAGED as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); remove it and get it again."
        ) from None


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises FileError if the disk of an existing folder has less space than this."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise FileError(
            f"Require {num_bytes:,} bytes free in {folder}, found {free:,}; make room, or choose "
            "a folder on another disk."
        )


def _extract_missing(
    path: Path, folder: Path, sizes: Mapping[str, int | None], extract_all: Callable[[Path], None]
) -> None:
    """Extracts what is not in the folder yet.

    Args:
      path: of the archive.
      folder: where to.
      sizes: of each file in the archive by its name, None for folders and links.
      extract_all: extracts the whole archive into a folder.
    """
    for name in sizes:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{path} must not be extracted: {name!r} is outside of its folder.")
    lacking = _top_names(sizes) - _complete_names(sizes, folder)
    for name in sorted(lacking):
        if os.path.lexists(folder / name):
            raise FileError(
                f"{folder / name} is there, but is not what {path} holds; move it away, and the "
                "same command extracts it again."
            )
    if not lacking:
        return
    require_space(folder, sum(filter(None, sizes.values())))
    # Moved into place when complete, so that a kill leaves no incomplete folder under these names.
    aside = folder / f"{path.name}.extracting"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        extract_all(aside)
        for name in sorted(lacking):
            os.rename(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _top_names(names: Mapping[str, int | None]) -> set[str]:
    return {PurePosixPath(name).parts[0] for name in names if PurePosixPath(name).parts}


def _complete_names(sizes: Mapping[str, int | None], folder: Path) -> set[str]:
    """Returns the top-level names of the archive whose files are all in the folder."""
    missing = {name: None for name, size in sizes.items() if not _is_there(folder / name, size)}
    return _top_names(sizes) - _top_names(missing)


def _is_there(path: Path, size: int | None) -> bool:
    if size is None:
        return os.path.lexists(path)
    return path.is_file() and path.stat().st_size == size
