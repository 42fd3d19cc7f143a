"""Tables of images in CSV, TSV or Parquet: some of their columns, as text."""

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from dcjax.core import naming, regular_files
from dcjax.core.errors import InputError, MissingFileError
from dcjax.data.datasets.files import read_text

_SPLITS = ("train", "validation", "test", "query", "gallery")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*_DELIMITERS, ".parquet")


class _Table(NamedTuple):
    """The columns of a table that count, by name, and where each of its rows stands."""

    columns: Mapping[str, Sequence[str]]
    places: Sequence[str]


def read(
    path: Path,
    required: Sequence[str],
    *,
    optional: Collection[str] = (),
    folder: Path | None = None,
    remedy: str,
) -> dict[str, np.ndarray]:
    """Returns columns of a table, str[N] each, without an empty value.

    Args:
      path: of the table: .csv or .tsv with a header line, or .parquet.
      required: names of columns that have to be there.
      optional: names of columns that are read if they are there.
      folder: that paths in the table start from, where names of files may hold any bytes; None:
        that of the table.
      remedy: what to do if there is no such table.

    Raises:
      MissingFileError: if there is no table.
      InputError: naming the column or row that is not as required.
    """
    regular_files.require(path)
    if not path.is_file():
        raise MissingFileError(f"There is no table {path}; {remedy}.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: require a table .csv, .tsv or .parquet, got {path.suffix!r}.")
    if suffix == ".parquet":
        table = _read_parquet(path, required, optional)
    else:
        table = _read_text(path, required, optional, _DELIMITERS[suffix])
    for name, values in table.columns.items():
        for place, value in zip(table.places, values, strict=True):
            if not value or "\0" in value or (name == "split" and value not in _SPLITS):
                known = f" ({', '.join(_SPLITS)})" if name == "split" else ""
                raise InputError(f"{path}, {place}: require a {name}{known}, got {value!r}.")
    _check_encoding(table, path, path.parent if folder is None else folder)
    return {name: np.array(values, np.str_) for name, values in table.columns.items()}


def _read_text(
    path: Path, required: Sequence[str], optional: Collection[str], delimiter: str
) -> _Table:
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    starts: list[int] = []
    start = 1
    try:
        header = [name.strip() for name in next(lines, [])]
        wanted = _select_columns(header, path, required, optional, delimiter)
        start = lines.line_num + 1
        for row in lines:
            if row and len(row) != len(header):
                raise csv.Error(f"Expected {len(header)} columns as in its header, got {len(row)}")
            if row:
                rows.append(row)
                starts.append(start)
            start = lines.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"Cannot read the table {path}, line {start}: {error}; separate cells by "
            f"{delimiter!r}, and quote those that hold it or a quote."
        ) from None
    places = [f"line {start}, image {i}" for i, start in enumerate(starts, start=1)]
    columns = [header.index(name) for name in wanted]
    return _Table(
        {name: [row[i] for row in rows] for name, i in zip(wanted, columns, strict=True)}, places
    )


def _read_parquet(path: Path, required: Sequence[str], optional: Collection[str]) -> _Table:
    try:
        with path.open("rb") as file:  # PyArrow refuses a name that is not UTF-8
            parts = pyarrow.parquet.ParquetFile(file)
            wanted = _select_columns(parts.schema_arrow.names, path, required, optional)
            table = parts.read(columns=wanted)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"Cannot read the table {path}: {str(error).splitlines()[0]}") from None
    columns = {name: read_cells(path, name, table[name]) for name in wanted}
    return _Table(columns, [f"image {row}" for row in range(1, table.num_rows + 1)])


def _select_columns(
    header: Sequence[str],
    path: Path,
    required: Sequence[str],
    optional: Collection[str],
    delimiter: str = "",
) -> list[str]:
    """Returns the names of the columns that count, each of which is there once."""
    if missing := [name for name in required if name not in header]:
        given = ", ".join(map(naming.escape, header)) or "none"
        others = [x for x in ",;\t|" if x != delimiter and len(header) == 1 and x in header[0]]
        hint = f"; separate them by {delimiter!r}, not {others[0]!r}" if others else ""
        raise InputError(
            f"{path}: require the column{'s' * (len(required) > 1)} {', '.join(required)}, got "
            f"{given}; there is no {' and no '.join(missing)}{hint}."
        )
    wanted = [*required, *(name for name in optional if name in header)]
    for name in wanted:
        if (count := header.count(name)) > 1:
            raise InputError(f"{path}: require one column {name}, got {count}.")
    return wanted


def read_cells(path: Path, name: str, column: pyarrow.ChunkedArray) -> list[str]:
    """Returns the cells of a column, "" for an empty one; bytes that are not UTF-8 are kept."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if pyarrow.types.is_floating(kind):
        raise InputError(f"{path}: require text or whole numbers as {name}, got {kind}.")
    is_text = pyarrow.types.is_large_string(kind) or pyarrow.types.is_large_binary(kind)
    is_text = is_text or pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind)
    try:
        text = column.cast(kind) if is_text else column.cast(pyarrow.string())
        cells = text.cast(pyarrow.large_binary()).to_pylist()
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: cannot read {name} as text: {error}") from None
    return [(cell or b"").decode("utf-8", "surrogateescape") for cell in cells]


def _check_encoding(table: _Table, path: Path, folder: Path) -> None:
    """Checks that texts are UTF-8, but for rows whose path is the name of a file by its bytes."""
    if all(naming.is_utf8("".join(values)) for values in table.columns.values()):
        return
    for row, place in enumerate(table.places):
        broken = [name for name, values in table.columns.items() if not naming.is_utf8(values[row])]
        if not broken or ("path" in broken and _is_there(folder, table.columns["path"][row])):
            continue
        raise InputError(
            f"{path}, {place}: require text in UTF-8, got {table.columns[broken[0]][row]!r} as "
            f"{broken[0]}, which may be Latin-1; save the table as UTF-8."
        )


def _is_there(folder: Path, name: str) -> bool:
    return os.path.exists(naming.as_file_name(str(folder / name)))
