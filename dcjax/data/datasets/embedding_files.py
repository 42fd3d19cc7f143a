"""Reads files of embeddings: Parquet and NumPy's .npy, of dcjax or of any other framework.

A Parquet file has a row for each image: the columns path, label, split and camera (text; the latter
three if there are any) and vector (a list of D floats). A .npy file is an array [N, D]; a table of
the same name, .csv, has its labels.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from dcjax.core import naming, regular_files
from dcjax.core.errors import InputError, MissingFileError, SettingError, file_errors
from dcjax.data.datasets import tables

SUFFIXES = (".parquet", ".npy")
VECTOR = "vector"  # name of the column
METADATA, CLASSES = b"dcjax", b"dcjax.classes"  # keys of the metadata of a Parquet file

_LABEL, _SPLIT, _CAMERA, _PATH = "label", "split", "camera", "path"
_ROWS_AT_ONCE = 16_384
_BYTES_AT_ONCE = 2**22  # of a column of a Parquet file, which would be read as one
_SHOWN = 5  # rows named in an error
_TOLERANCE = 1e-3  # of the length of a unit vector, rounded to float16 too


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The content of a file.

    Attributes:
      vectors: float32 [N, D], finite; it may be mapped to the file.
      labels: the number of each one's class, int64 [N]; zeros if there is no such column.
      classes: their names; none without labels.
      splits: the name of each one's split, str [N]; None if there is no such column.
      shortest: the least length of a vector.
      longest: the greatest.
      metadata: what `write` kept, {} in a file that it did not write.
      paths: of each one's image, str [N]; None if they were not read, or there is no such column.
      cameras: that took each one's image, str [N]; None if there is no such column.
    """

    vectors: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: np.ndarray | None
    shortest: float
    longest: float
    metadata: Mapping[str, Any]
    paths: np.ndarray | None = None
    cameras: np.ndarray | None = None

    @property
    def are_unit_vectors(self) -> bool:
        """Whether all vectors are of length 1, up to rounding."""
        return max(1 - self.shortest, self.longest - 1) < _TOLERANCE

    def select(self, rows: np.ndarray) -> "Embeddings":
        """Returns the rows of a mask [N]; consecutive ones are not copied."""
        chosen: Any = np.flatnonzero(rows)
        if len(chosen) and chosen[-1] - chosen[0] == len(chosen) - 1:
            chosen = slice(chosen[0], chosen[-1] + 1)
        return dataclasses.replace(
            self,
            vectors=self.vectors[chosen],
            labels=self.labels[chosen],
            splits=None if self.splits is None else self.splits[chosen],
            paths=None if self.paths is None else self.paths[chosen],
            cameras=None if self.cameras is None else self.cameras[chosen],
        )


def paths_of(prefix: Path) -> tuple[Path, Path]:
    """Returns the paths of the Parquet and the .npy file of a prefix."""
    parquet, array = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in SUFFIXES)
    return parquet, array


def holds_vectors(path: Path) -> bool:
    """Returns whether a file is one of embeddings: .npy, or .parquet with a column vector."""
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() == ".npy"
    regular_files.require(path)
    try:
        with path.open("rb") as file:
            return VECTOR in pyarrow.parquet.ParquetFile(file).schema_arrow.names
    except (OSError, pyarrow.ArrowException):
        return False  # whoever reads the table says why it cannot be read


def check_name(path: Path, *, given_as: str = "--embeddings") -> None:
    """Checks the suffix of a file of embeddings.

    Args:
      path: of the file.
      given_as: the flag or setting that gave the path, for messages.

    Raises:
      SettingError: for an unknown suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SettingError(
            f"{given_as} must be a .parquet file, or a .npy file with a .csv beside it, got {path}."
        )


def read(
    path: Path,
    *,
    normalize: bool = False,
    to_search: bool = False,
    given_as: str = "--embeddings",
) -> Embeddings:
    """Reads a file of embeddings with labels.

    Args:
      path: of a Parquet file with the columns vector (lists of D floats of 16, 32 or 64 bits),
        label and, if they are there, split and camera; or of a .npy file (such floats, [N, D])
        beside whose place is a table with these columns, of the same name, .csv.
      normalize: whether to scale the vectors to length 1.
      to_search: whether to read the paths too; labels, and the table of a .npy file, may be absent
        then.
      given_as: the flag or setting that gave the path, for messages.

    Raises:
      SettingError: for an unknown suffix.
      FileError: if the file, or the table, is not there or cannot be read.
      InputError: naming the column or the rows that are not as required.
    """
    check_name(path, given_as=given_as)
    regular_files.require(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file of embeddings {path}; correct {given_as}.")
    is_parquet = path.suffix.lower() == ".parquet"
    with file_errors(f"Cannot read {path}"):
        return (_read_parquet if is_parquet else _read_array)(path, normalize, to_search)


def _read_parquet(path: Path, normalize: bool, to_search: bool) -> Embeddings:
    try:
        with path.open("rb") as file:
            parts = pyarrow.parquet.ParquetFile(file, buffer_size=_BYTES_AT_ONCE)
            schema, num_rows = parts.schema_arrow, parts.metadata.num_rows
            names = _require_columns(schema.names, path, to_search)
            _require_floats(schema.field(VECTOR).type, path)
            columns = parts.read(columns=names)
            texts = {name: tables.read_cells(path, name, columns[name]) for name in names}
            vectors = _collect(_read_vectors(parts, path), num_rows, path)
    except pyarrow.ArrowException as error:
        raise InputError(f"Cannot read {path}: {str(error).splitlines()[0]}.") from None
    for name, values in texts.items():
        if "" in values:
            raise InputError(f"{path}, row {values.index('')}: require a {name}, got none.")
    known = _read_json(schema, CLASSES, list)
    embeddings = _finish(path, vectors, texts, list(map(str, known)), normalize)
    return dataclasses.replace(embeddings, metadata=_read_json(schema, METADATA, dict))


def _read_json(schema: pyarrow.Schema, key: bytes, kind: type) -> Any:
    """Returns a value of the metadata; an empty one if there is none, as in others' files."""
    with contextlib.suppress(ValueError):
        value = json.loads((schema.metadata or {}).get(key, b"null"))
        if isinstance(value, kind):
            return value
    return kind()


def _require_columns(names: Sequence[str], path: Path, to_search: bool) -> list[str]:
    """Returns the names of the columns of text that are read."""
    for name in (VECTOR,) if to_search else (VECTOR, _LABEL):
        if (count := names.count(name)) != 1:
            given = ", ".join(map(naming.escape, names)) or "none"
            raise InputError(
                f"{path}: require one column vector and one column label, got the columns "
                f"{given}; {'add' if not count else 'keep one'} {name}."
            )
    return [name for name in _columns_read(to_search) if name in names]


def _columns_read(to_search: bool) -> tuple[str, ...]:
    """Returns the names of the columns of text that are read if they are there."""
    return (_LABEL, _SPLIT, _CAMERA, *((_PATH,) if to_search else ()))


def _require_floats(kind: pyarrow.DataType, path: Path) -> None:
    types = pyarrow.types
    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    if not is_list or not types.is_floating(kind.value_type):
        raise InputError(
            f"{path}: require lists of float16, float32 or float64 as vector, got {kind}."
        )


def _read_vectors(parts: pyarrow.parquet.ParquetFile, path: Path) -> Iterator[np.ndarray]:
    """Yields the vectors in order, [B, D] each."""
    start, dim = 0, None
    for batch in parts.iter_batches(_ROWS_AT_ONCE, columns=[VECTOR]):
        column = batch.column(0)
        values = column.flatten()
        sizes = np.asarray(pyarrow.compute.list_value_length(column).fill_null(0))
        dim = int(sizes[0]) if dim is None else dim
        wrong = np.flatnonzero(sizes != dim)
        if len(wrong) or column.null_count or values.null_count:
            row = start + (int(wrong[0]) if len(wrong) else 0)
            found = f"{sizes[wrong[0]]} in row {row}" if len(wrong) else "empty values"
            raise InputError(
                f"{path}: require vectors of one length, without empty values, got {dim} numbers "
                f"in row 0 and {found} (rows count from 0)."
            )
        start += len(column)
        yield values.to_numpy(zero_copy_only=False).reshape(len(column), dim)


def _collect(blocks: Iterator[np.ndarray], num_rows: int, path: Path) -> np.ndarray:
    """Returns the rows of all blocks as float32."""
    first = next(blocks, None)
    if first is None or first.size == 0:
        raise InputError(f"{path}: require vectors, got {num_rows} rows without numbers.")
    vectors = np.empty((num_rows, first.shape[1]), np.float32)
    start = 0
    with np.errstate(over="ignore"):  # an overflow is reported as infinity
        for block in itertools.chain([first], blocks):
            vectors[start : start + len(block)] = block
            start += len(block)
    return vectors


def _read_array(path: Path, normalize: bool, to_search: bool) -> Embeddings:
    table = path.with_suffix(".csv")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"Cannot read {path}: {str(error).splitlines()[0]}.") from None
    is_floating = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    if array.ndim != 2 or not array.size or not is_floating:
        raise InputError(
            f"{path}: require an array [N, D] of float16, float32 or float64, got {array.dtype} "
            f"{list(array.shape)}."
        )
    remedy = "write the columns path and label there, or give the .parquet file"
    required = () if to_search else (_LABEL,)
    columns = {}
    if not to_search or table.is_file():
        columns = tables.read(table, required, optional=_columns_read(to_search), remedy=remedy)
    for values in columns.values():
        if len(values) != len(array):
            raise InputError(
                f"Require a row of {table} for each row of {path}, got {len(values)} and "
                f"{len(array)}."
            )
    if array.dtype != np.float32:
        array = _collect(_blocks(array), len(array), path)
    texts = {name: values.tolist() for name, values in columns.items()}
    return _finish(path, array, texts, [], normalize)


def _finish(
    path: Path,
    vectors: np.ndarray,
    texts: Mapping[str, list[str]],
    known: Sequence[str],
    normalize: bool,
) -> Embeddings:
    """Checks vectors, and numbers the classes: in the order `known`, or else of their names."""
    if len(vectors) < 2:
        raise InputError(f"{path}: require two images or more, got {len(vectors)}.")
    lengths = _lengths(vectors)
    _refuse(path, ~np.isfinite(lengths), "finite as float32, got NaN or infinity")
    if normalize:
        _refuse(path, lengths == 0, "not zero, to be scaled to length 1, got zeros")
        vectors = _collect(
            (
                block / lengths[start : start + len(block), None]
                for start, block in _numbered(vectors)
            ),
            len(vectors),
            path,
        )
        lengths = _lengths(vectors)
    labels, classes = _number_classes(texts.get(_LABEL), len(vectors), known)
    splits, paths, cameras = (
        np.array(texts[name], np.str_) if name in texts else None
        for name in (_SPLIT, _PATH, _CAMERA)
    )
    shortest, longest = float(lengths.min()), float(lengths.max())
    return Embeddings(vectors, labels, classes, splits, shortest, longest, {}, paths, cameras)


def _number_classes(
    names: Sequence[str] | None, num_rows: int, known: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the number of each one's class [N], and the classes: `known`, or in their order."""
    if names is None:
        return np.zeros(num_rows, np.int64), ()
    used = set(names)
    classes = tuple(known) if used <= set(known) else tuple(sorted(used, key=naming.encode))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.fromiter((numbers[name] for name in names), np.int64, num_rows), classes


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Returns the length of each vector in float64, NaN or infinity if it is not finite, [N]."""
    squares = [np.sum(np.square(block, dtype=np.float64), axis=1) for block in _blocks(vectors)]
    return np.sqrt(np.concatenate(squares))


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    return (block for _, block in _numbered(vectors))


def _numbered(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields blocks of rows, each after the number of its first row."""
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        yield start, vectors[start : start + _ROWS_AT_ONCE]


def _refuse(path: Path, are_wrong: np.ndarray, required: str) -> None:
    """Raises InputError if rows are wrong, naming the first ones."""
    rows = np.flatnonzero(are_wrong)
    if not len(rows):
        return
    shown = ", ".join(map(str, rows[:_SHOWN]))
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    raise InputError(
        f"{path}: require vectors that are {required} in row{'s' * (len(rows) > 1)} {shown}{more} "
        "(rows count from 0); leave these out or compute them again."
    )
