"""Writes embeddings as Parquet and NumPy's .npy, see `embedding_files`."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
import pyarrow.parquet

from dcjax.core import naming
from dcjax.core.errors import file_errors
from dcjax.data.datasets import embedding_files


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of a file to be written.

    Attributes:
      texts: the path of each row, and further columns, by name.
      vectors: float32 [B, D].
    """

    texts: Mapping[str, Sequence[str]]
    vectors: np.ndarray


def write(
    prefix: Path,
    blocks: Iterable[Block],
    *,
    num_rows: int,
    dim: int,
    columns: Mapping[str, pyarrow.DataType],
    classes: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Writes PREFIX.parquet and PREFIX.npy, which replace old ones once both are complete.

    Args:
      prefix: of the paths.
      blocks: the rows in order.
      num_rows: of all blocks together.
      dim: D.
      columns: name and type (`text_type`) of the columns of text.
      classes: names of the classes in their order, [] without labels.
      metadata: kept in the Parquet file, as JSON.

    Raises:
      FileError: if the files cannot be written; old ones are still there then.
    """
    # The classes in their order: the data set may number them otherwise than by their names.
    kept = {
        embedding_files.METADATA: json.dumps(metadata),
        embedding_files.CLASSES: json.dumps(list(classes)),
    }
    finals = embedding_files.paths_of(prefix)
    unfinished = [path.with_name(f"{path.name}.part") for path in finals]
    try:
        with file_errors(f"Cannot write {finals[0]}", advice="make room, or give another --output"):
            with unfinished[0].open("wb") as table, unfinished[1].open("wb") as array:
                _write_header(array, num_rows, dim)
                with contextlib.closing(_ParquetWriter(table, columns, dim, kept)) as rows:
                    for block in blocks:
                        rows.write(block)
                        array.write(np.ascontiguousarray(block.vectors, "<f4").data)
                for file in (table, array):
                    file.flush()
                    os.fsync(file.fileno())
            for path, final in zip(reversed(unfinished), reversed(finals), strict=True):
                path.replace(final)  # the Parquet file last: it says what both are of
    finally:
        for path in unfinished:
            with contextlib.suppress(OSError):
                path.unlink()


class _ParquetWriter:
    """Writes blocks as row groups of a Parquet file."""

    def __init__(
        self,
        file: BinaryIO,
        columns: Mapping[str, pyarrow.DataType],
        dim: int,
        metadata: Mapping[bytes, str],
    ) -> None:
        vector = pyarrow.list_(pyarrow.float32(), dim)
        schema = pyarrow.schema([*columns.items(), (embedding_files.VECTOR, vector)], metadata)
        self._schema = schema
        self._writer = pyarrow.parquet.ParquetWriter(
            file,
            schema,
            use_dictionary=[name for name in columns if name != "path"],
            compression={
                **dict.fromkeys(columns, "zstd"),
                f"{embedding_files.VECTOR}.list.element": "none",
            },
            write_statistics=list(columns),
        )

    def write(self, block: Block) -> None:
        """Writes a block."""
        texts = [
            pyarrow.array(list(map(naming.encode, block.texts[field.name])), pyarrow.binary()).cast(
                field.type
            )
            for field in self._schema
            if field.name != embedding_files.VECTOR
        ]
        numbers = pyarrow.array(np.ravel(block.vectors))
        vectors = pyarrow.FixedSizeListArray.from_arrays(
            numbers, type=self._schema.field(embedding_files.VECTOR).type
        )
        self._writer.write_table(pyarrow.table([*texts, vectors], schema=self._schema))

    def close(self) -> None:
        """Writes the end of the file."""
        self._writer.close()


def text_type(texts: Iterable[str]) -> pyarrow.DataType:
    """Returns the type of a column of texts: bytes if one is not valid UTF-8, else text."""
    return pyarrow.string() if all(map(naming.is_utf8, texts)) else pyarrow.binary()


def _write_header(file: BinaryIO, num_rows: int, dim: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)


def read_metadata(prefix: Path) -> dict[str, Any] | None:
    """Returns the metadata that `write` kept; None if both files are not there as it left them."""
    parquet, array = embedding_files.paths_of(prefix)
    try:
        if not (parquet.is_file() and array.is_file()):
            return None
        with parquet.open("rb") as file:
            parts = pyarrow.parquet.ParquetFile(file)
            metadata = json.loads(parts.schema_arrow.metadata[embedding_files.METADATA])
            shape = (
                parts.metadata.num_rows,
                parts.schema_arrow.field(embedding_files.VECTOR).type.list_size,
            )
        is_whole = np.load(array, mmap_mode="r").shape == shape
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException):
        return None
    return metadata if is_whole and isinstance(metadata, dict) else None
