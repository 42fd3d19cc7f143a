"""Folders of a cache: each is written once for all runs, with checksums, and never seen unfinished.

A folder's name is the key of its content. It is written under a temporary name, so that an
interrupted run leaves no incomplete one.
"""

import os
import pathlib
import shutil
from collections.abc import Callable

import filelock
from etils import epath

from dcjax.core import checksums, naming
from dcjax.core.console import Console
from dcjax.distributed import processes

_DATA = "data"  # the sub-folder of the files that have checksums
_KEY = "key"


def root(folder: str, kind: str) -> pathlib.Path:
    """Returns the folder of all caches of a kind; "": dcjax/KIND in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(naming.expand(folder or os.path.join(caches, "dcjax", kind)))


def find_or_write(place: pathlib.Path, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Returns the folder with the files of a cache, after writing them if they are not there.

    Every process verifies their checksums once per cache and run, at 3 GB a second or the speed of
    the disk; training would read all of it anyway.

    Args:
      place: of the cache, named by its key.
      write: writes the files into a folder.
    """
    if damage(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{place}.lock"):  # a run beside this one waits for the files
            if reason := damage(place):
                if place.exists():
                    say(f"{place} is damaged and made again: {reason}")
                _write(place, write)
    return place / _DATA


def damage(place: pathlib.Path) -> str:
    """Returns what is wrong with a cache's folder, as that it is not there; "" if nothing is."""
    try:
        if (place / _DATA / _KEY).read_text() != place.name:
            return "it holds other images than its name says"
        if not (place / checksums.NAME).is_file():
            return f"{checksums.NAME} is missing"
        return checksums.damage(epath.Path(place), {_DATA}, part=0, num_parts=1)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())


def say(text: str) -> Console:
    """Prints a line about a cache, once for all processes."""
    console = Console(quiet=not processes.is_first())
    console.print_line(f"cache     {text}")
    return console


def _write(place: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    unfinished = place.with_name(f"{place.name}.unfinished")
    for leftover in (unfinished, place):  # of a run that was killed, or damaged since
        shutil.rmtree(leftover, ignore_errors=True)
    data = unfinished / _DATA
    data.mkdir(parents=True)
    try:
        (data / _KEY).write_text(place.name)
        write(data)
        checksums.write(epath.Path(unfinished))
        # Flushed before it is renamed, so that a power cut leaves no incomplete file.
        for path in (*data.iterdir(), unfinished / checksums.NAME, data, unfinished):
            _flush(path)
        unfinished.rename(place)
        _flush(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _flush(path: pathlib.Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
