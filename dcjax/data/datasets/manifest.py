"""Images listed in a table, CSV or Parquet: path, label, split and, if wanted, super_class."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from dcjax.core import naming, regular_files
from dcjax.core.errors import InputError, MissingFileError
from dcjax.data.datasets.files import read_text
from dcjax.data.datasets.image_set import ImageSet, Splits, from_classes, no_images, require_unseen
from dcjax.data.datasets.request import Request

_COLUMNS = ("path", "label", "split")
_ABOVE = "super_class"
_SPLITS = ("train", "test", "query", "gallery")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class _Table(NamedTuple):
    """The columns of a table that count, by name, and where each of its rows stands."""

    columns: Mapping[str, Sequence[str]]
    places: Sequence[str]


def load(request: Request, *, manifest: str) -> Splits:
    """Loads the images of a table.

    Its rows are in one split each: train and test, or train, query and gallery; classes to test
    are not in train. Further columns are passed over.

    Args:
      request: Its root is the folder that relative paths start from; "": that of the table.
      manifest: Path of the table: .csv or .tsv with a header line, or .parquet.
    """
    if not manifest:
        raise InputError(
            "Dataset 'manifest' needs a table, got an empty dataset.manifest; set "
            "--config.dataset.manifest=/path/to/table.csv (or .tsv, .parquet)."
        )
    path = Path(naming.expand(manifest))
    folder = Path(request.root) if request.root else path.parent
    table = _read(path, folder)
    images = np.array([str(folder / image) for image in table["path"]], np.str_)
    used = set(table["split"].tolist())
    tested = used - {"train"}
    lacks_train = request.with_train and "train" not in used
    if lacks_train or tested not in ({"test"}, {"query", "gallery"}):
        raise InputError(
            f"{path}: require the splits train and test, or train, query and gallery, got "
            f"{', '.join(sorted(used)) or 'no rows'}."
        )
    is_train = table["split"] == "train"
    above = _super_classes(table, path) if _ABOVE in table else None

    def take(split: str) -> ImageSet:
        rows = table["split"] == split
        among = table["label"][is_train == (split == "train")]
        return from_classes(images[rows], table["label"][rows], among=among, super_classes=above)

    sets = {"query" if split == "test" else split: take(split) for split in sorted(tested)}
    if not request.with_train:
        return Splits(no_images(), **sets)
    return require_unseen(Splits(take("train"), **sets), path)


def _read(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """Returns the columns that count, str[N] each, without an empty value."""
    regular_files.require(path)
    if not path.is_file():
        raise MissingFileError(f"There is no table {path}; correct dataset.manifest.")
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".parquet"):
        raise InputError(f"{path}: require a table .csv, .tsv or .parquet, got {path.suffix!r}.")
    is_parquet = suffix == ".parquet"
    table = _read_parquet(path) if is_parquet else _read_text(path, _DELIMITERS[suffix])
    for name, values in table.columns.items():
        for place, value in zip(table.places, values, strict=True):
            if not value or "\0" in value or (name == "split" and value not in _SPLITS):
                known = f" ({', '.join(_SPLITS)})" if name == "split" else ""
                raise InputError(f"{path}, {place}: require a {name}{known}, got {value!r}.")
    _check_encoding(table, path, folder)
    return {name: np.array(values, np.str_) for name, values in table.columns.items()}


def _read_text(path: Path, delimiter: str) -> _Table:
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    starts: list[int] = []
    start = 1
    try:
        header = [name.strip() for name in next(lines, [])]
        wanted = _select_columns(header, path, delimiter)
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


def _read_parquet(path: Path) -> _Table:
    try:
        with path.open("rb") as file:  # PyArrow refuses a name that is not UTF-8
            table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"Cannot read the table {path}: {str(error).splitlines()[0]}") from None
    wanted = _select_columns(table.column_names, path)
    columns = {name: _read_cells(path, name, table[name]) for name in wanted}
    return _Table(columns, [f"image {row}" for row in range(1, table.num_rows + 1)])


def _select_columns(header: Sequence[str], path: Path, delimiter: str = "") -> list[str]:
    """Returns the names of the columns that count, each of which is there once."""
    if missing := [name for name in _COLUMNS if name not in header]:
        given = ", ".join(map(naming.escape, header)) or "none"
        others = [x for x in ",;\t|" if x != delimiter and len(header) == 1 and x in header[0]]
        hint = f"; separate them by {delimiter!r}, not {others[0]!r}" if others else ""
        raise InputError(
            f"{path}: require the columns {', '.join(_COLUMNS)}, got {given}; there is no "
            f"{' and no '.join(missing)}{hint}."
        )
    wanted = [*_COLUMNS, *({_ABOVE} & set(header))]
    for name in wanted:
        if (count := header.count(name)) > 1:
            raise InputError(f"{path}: require one column {name}, got {count}.")
    return wanted


def _read_cells(path: Path, name: str, column: pyarrow.ChunkedArray) -> list[str]:
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
    try:
        for values in table.columns.values():
            "".join(values).encode()
        return
    except UnicodeEncodeError:
        pass
    for row, place in enumerate(table.places):
        broken = [name for name, values in table.columns.items() if not _is_utf8(values[row])]
        image = naming.as_file_name(str(folder / table.columns["path"][row]))
        if not broken or ("path" in broken and os.path.exists(image)):
            continue
        raise InputError(
            f"{path}, {place}: require text in UTF-8, got {table.columns[broken[0]][row]!r} as "
            f"{broken[0]}, which may be Latin-1; save the table as UTF-8."
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _super_classes(table: dict[str, np.ndarray], path: Path) -> dict[str, str]:
    above = dict(zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True))
    for label, name in zip(table["label"].tolist(), table[_ABOVE].tolist(), strict=True):
        if above[label] != name:
            raise InputError(
                f"{path}: all rows of a label must have the same {_ABOVE}, got {name!r} and "
                f"{above[label]!r} for {label!r}."
            )
    return above
