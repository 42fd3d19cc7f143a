"""Embeddings of many images in parts, so that a computation that was stopped continues."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dcjax.core.errors import FileError, file_errors

_IDENTITY = "parts.json"
_ADVICE = "make room, or give another --output"


class Part(NamedTuple):
    """Embeddings of consecutive images.

    Attributes:
      rows: those that could be read, counted from the first image of the part, int64 [B].
      vectors: float32 [B, D].
    """

    rows: np.ndarray
    vectors: np.ndarray


class Parts:
    """A folder of parts: each is complete, or not there.

    Attributes:
      are_of_another: whether the folder held parts of something else, which were removed.
      num_complete: parts that were there at the start.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, num_parts: int) -> None:
        """Opens a folder, and removes parts in it that are of something else.

        Args:
          folder: which is made if needed.
          identity: of the network and the images, in JSON; the same gives the same parts.
          num_parts: parts in all.
        """
        self._folder = folder
        with file_errors(f"Cannot write {folder}", advice=_ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            found = self._read_identity()
            self.are_of_another = found != identity and any(folder.glob("part-*"))
            if found != identity:
                self._remove_files()
                self._write(_IDENTITY, json.dumps(identity).encode())
        parts = ((number, self._load(number)) for number in range(num_parts))
        self._sizes = {number: len(part.rows) for number, part in parts if part is not None}
        self.num_complete = len(self._sizes)

    def __contains__(self, number: int) -> bool:
        """Returns whether a part is there."""
        return number in self._sizes

    @property
    def num_images(self) -> int:
        """The number of images in the parts that are there."""
        return sum(self._sizes.values())

    def save(self, number: int, part: Part) -> None:
        """Saves a part."""
        with file_errors(f"Cannot write {self._folder}", advice=_ADVICE):
            path = self._path(number)
            unfinished = path.with_suffix(".unfinished")
            with unfinished.open("wb") as file:
                np.savez(file, rows=part.rows, vectors=part.vectors)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        self._sizes[number] = len(part.rows)

    def load(self, number: int) -> Part:
        """Returns a part that is there."""
        part = self._load(number)
        if part is None:
            raise FileError(
                f"{self._path(number)} cannot be read any more; the same command makes it again."
            )
        return part

    def remove(self) -> None:
        """Removes all parts."""
        with file_errors(f"Cannot remove {self._folder}"):
            self._remove_files()

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.npz"

    def _load(self, number: int) -> Part | None:
        """Returns a part, None if it is not there or damaged: an archive has checksums."""
        try:
            with np.load(self._path(number), allow_pickle=False) as arrays:
                return Part(arrays["rows"], arrays["vectors"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _read_identity(self) -> Any:
        try:
            return json.loads((self._folder / _IDENTITY).read_bytes())
        except (OSError, ValueError):
            return None

    def _write(self, name: str, content: bytes) -> None:
        unfinished = self._folder / f"{name}.unfinished"
        unfinished.write_bytes(content)
        unfinished.replace(self._folder / name)

    def _remove_files(self) -> None:
        """Removes the parts, and then what they are of."""
        for path in [*self._folder.glob("part-*"), *self._folder.glob(f"{_IDENTITY}*")]:
            path.unlink()
