"""Finds a data set's folder, reads its lists, and says what is missing. Never downloads."""

import os
from collections.abc import Sequence
from pathlib import Path

_HINT = "Download and extract the data set, then set --config.dataset.root=/path/to/it."


def find_root(root: str, dataset: str, *, marker: str, folders: Sequence[str] = ("",)) -> Path:
    """Returns the first of root/folder (for folder in `folders`) that holds the path `marker`."""
    if not root:
        raise ValueError(
            f"Dataset {dataset!r} needs the folder of its files, got an empty dataset.root. {_HINT}"
        )
    top = Path(root).expanduser()
    if not top.is_dir():
        raise FileNotFoundError(
            f"Dataset {dataset!r}: there is no folder {top}; expected one that holds "
            f"{marker or 'class folders'}. {_HINT}"
        )
    for folder in folders:
        if (top / folder / marker).exists():
            return top / folder
    tried = ", ".join(str(top / folder / marker) for folder in folders)
    raise FileNotFoundError(
        f"Dataset {dataset!r}: {top} is not the extracted data set, there is no {tried}. {_HINT}"
    )


def read_table(
    path: Path, columns: int, *, skip: int = 0, separator: str | None = None
) -> list[list[str]]:
    """Reads a text list, one row of `columns` words per line, without its first `skip` lines."""
    if not path.is_file():
        raise FileNotFoundError(f"The list {path} is missing. {_HINT}")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if number <= skip or not line.strip():
                continue
            row = [word.strip() for word in line.split(separator)]
            if len(row) != columns:
                raise ValueError(
                    f"{path}, line {number}: require {columns} columns, got {len(row)} in "
                    f"{line.strip()!r}; extract the data set again."
                )
            rows.append(row)
    return rows


def require_present(paths: Sequence[str], dataset: str) -> None:
    """Raises if an image is absent; lists each folder once, so 100,000 files take a second."""
    present: set[str] = set()
    for folder in {os.path.dirname(path) for path in paths}:
        if os.path.isdir(folder):
            present.update(os.path.join(folder, name) for name in os.listdir(folder))
    absent = [path for path in paths if path not in present]
    if absent:
        raise FileNotFoundError(
            f"Dataset {dataset!r}: {len(absent)} of {len(paths)} listed images are absent, the "
            f"first is {absent[0]}. Extract the data set again, or take them out of its lists."
        )
