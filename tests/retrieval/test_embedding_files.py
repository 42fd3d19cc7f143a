"""Files of embeddings: what is written is read again, and what is wrong is named by its row."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dcjax.core.errors import FileError, InputError, MissingFileError, SettingError
from dcjax.data.datasets import embedding_files
from dcjax.retrieval import embedding_writer
from dcjax.retrieval.embedding_parts import Part, Parts
from dcjax.retrieval.embedding_writer import Block

_VECTORS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
_LABELS = ["b", "a", "b", "c", "a", "a", "c"]


def _blocks(*, fails: bool = False) -> Iterator[Block]:
    for start in (0, 5):
        rows = slice(start, start + 5)
        texts = {"path": [f"é{i}.jpg" for i in range(7)][rows], "label": _LABELS[rows]}
        yield Block(texts, _VECTORS[rows])
        if fails:
            raise OSError(28, "No space left on device")


def _write(prefix: Path, blocks: Iterator[Block], **metadata: Any) -> None:
    embedding_writer.write(
        prefix,
        blocks,
        num_rows=7,
        dim=4,
        columns=dict.fromkeys(("path", "label"), embedding_writer.text_type(["é"])),
        classes=["c", "b", "a"],
        metadata=metadata,
    )


def _write_parquet(path: Path, vectors: Any, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"vector": vectors, **columns}), path)
    return path


def _write_array(path: Path, vectors: Any, labels: str) -> Path:
    np.save(path, vectors)
    path.with_suffix(".csv").write_text(labels)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    _write(tmp_path / "x.y", _blocks(), checkpoint=3)
    found = embedding_files.read(tmp_path / "x.y.parquet")
    np.testing.assert_array_equal(found.vectors, _VECTORS)
    np.testing.assert_array_equal(np.load(tmp_path / "x.y.npy"), _VECTORS)
    assert found.classes == ("c", "b", "a")  # in the order of the data set
    assert [found.classes[label] for label in found.labels] == _LABELS
    assert embedding_writer.read_metadata(tmp_path / "x.y") == {"checkpoint": 3}
    table = pyarrow.parquet.read_table(tmp_path / "x.y.parquet")
    assert table["path"].to_pylist()[6] == "é6.jpg"
    assert table["vector"].type == pyarrow.list_(pyarrow.float32(), 4)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_that_is_not_utf8_is_kept_as_its_bytes(tmp_path: Path) -> None:
    names = ["\udce9.jpg", "é.jpg"]
    embedding_writer.write(
        tmp_path / "x",
        iter([Block({"path": names}, _VECTORS[:2])]),
        num_rows=2,
        dim=4,
        columns={"path": embedding_writer.text_type(names)},
        classes=[],
        metadata={},
    )
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table["path"].to_pylist() == [b"\xe9.jpg", "é.jpg".encode()]


def test_a_full_disk_leaves_the_old_files_and_no_others(tmp_path: Path) -> None:
    _write(tmp_path / "x", _blocks(), checkpoint=3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileError, match="No space left"):
        _write(tmp_path / "x", _blocks(fails=True), checkpoint=4)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_format_and_type_gives_the_same(kind: type, tmp_path: Path) -> None:
    vectors = _VECTORS.astype(kind)
    column = pyarrow.array(list(vectors), pyarrow.list_(pyarrow.from_numpy_dtype(kind)))
    large = column.cast(pyarrow.large_list(column.type.value_type))
    fixed = column.cast(pyarrow.list_(column.type.value_type, 4))
    numbers = [{"c": 30, "b": 2, "a": 1}[label] for label in _LABELS]
    lines = "\n".join(["path,label", *(f"{i}.jpg,{label}" for i, label in enumerate(_LABELS))])
    paths = [
        _write_parquet(tmp_path / "list.parquet", column, label=_LABELS),
        _write_parquet(tmp_path / "large.parquet", large, label=pyarrow.array(numbers)),
        _write_parquet(
            tmp_path / "fixed.parquet", fixed, label=pyarrow.array(_LABELS).dictionary_encode()
        ),
        _write_array(tmp_path / "array.npy", vectors, lines),
        _write_array(tmp_path / "columns.npy", np.asfortranarray(vectors), lines),
    ]
    for path in paths:
        found = embedding_files.read(path)
        assert found.vectors.dtype == np.float32
        np.testing.assert_array_equal(found.vectors, vectors.astype(np.float32))
        _, expected = np.unique(_LABELS, return_inverse=True)
        np.testing.assert_array_equal(np.unique(found.labels, return_inverse=True)[1], expected)


def test_lengths_are_those_of_the_vectors_and_can_be_made_one(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, 0.5], [1, 0]], np.float16)
    path = _write_array(tmp_path / "x.npy", vectors, "label\n1\n2\n2\n")
    found = embedding_files.read(path)
    assert (found.shortest, found.longest, found.are_unit_vectors) == (0.5, 5, False)
    unit = embedding_files.read(path, normalize=True)
    assert unit.are_unit_vectors
    np.testing.assert_allclose(unit.vectors, [[0.6, 0.8], [0, 1], [1, 0]], rtol=1e-6)


def test_consecutive_rows_are_selected_without_a_copy(tmp_path: Path) -> None:
    path = _write_array(tmp_path / "x.npy", _VECTORS, "label,split\n" + "1,query\n" * 7)
    found = embedding_files.read(path)
    assert np.shares_memory(found.vectors, found.select(np.arange(7) > 2).vectors)
    rows = np.array([0, 1, 0, 1, 1, 0, 0], bool)
    np.testing.assert_array_equal(found.select(rows).vectors, _VECTORS[rows])


def _with(row: int, value: float) -> np.ndarray:
    vectors = np.array(_VECTORS, np.float64)
    vectors[row, 1] = value
    return vectors


_EMPTY = pyarrow.array([[], []], pyarrow.list_(pyarrow.float32()))
_ROWS = "label\n" + "1\n" * 7


@pytest.mark.parametrize(
    ("vectors", "labels", "normalize", "words"),
    [
        (_with(5, np.nan), _ROWS, False, r"got NaN or infinity in row 5 \(rows count from 0\)"),
        (_with(5, 1e39), _ROWS, False, r"got NaN or infinity in row 5 "),
        (np.full((7, 4), np.nan), _ROWS, False, r"in rows 0, 1, 2, 3, 4 and 2 more"),
        (np.zeros((7, 4)), _ROWS, True, r"got zeros in rows 0, 1"),
        (_VECTORS[:6], _ROWS, False, r"x.csv for each row of .*x.npy, got 7 and 6"),
        (_VECTORS[:1], "label\n1\n", False, r"require two images or more, got 1"),
        (_VECTORS, _ROWS.replace("label", "class"), False, r"column label, got class"),
        (_VECTORS.astype(int), _ROWS, False, r"float16, float32 or float64, got int64 \[7, 4\]"),
        (_VECTORS[0], _ROWS, False, r"an array \[N, D\] of .*, got float32 \[4\]"),
    ],
)
def test_what_is_wrong_in_an_array_is_named(
    vectors: np.ndarray, labels: str, normalize: bool, words: str, tmp_path: Path
) -> None:
    path = _write_array(tmp_path / "x.npy", vectors, labels)
    with pytest.raises(InputError, match=words):
        embedding_files.read(path, normalize=normalize)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"vector": [[1.0, 2.0]] * 2}, "one column label, got the columns vector; add label"),
        ({"embedding": [[1.0]] * 2, "label": ["a", "b"]}, "embedding, label; add vector"),
        ({"vector": [[1, 2]] * 2, "label": ["a", "b"]}, "require lists of float16"),
        ({"vector": ["x"] * 2, "label": ["a", "b"]}, "require lists of float16.* got string"),
        (
            {"vector": [[1.0, 2.0], [1.0]], "label": ["a", "b"]},
            "got 2 numbers in row 0 and 1 in row 1",
        ),
        ({"vector": [[1.0], None], "label": ["a", "b"]}, "0 in row 1"),
        ({"vector": [[1.0], [None]], "label": ["a", "b"]}, "empty values"),
        ({"vector": [[1.0], [2.0]], "label": ["a", None]}, "row 1: require a label, got none"),
        ({"vector": [[1.0], [2.0]], "label": [1.0, 2.0]}, "text or whole numbers as label"),
        ({"vector": _EMPTY, "label": ["a", "b"]}, "got 2 rows without numbers"),
    ],
)
def test_what_is_wrong_in_a_parquet_file_is_named(
    columns: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=words):
        embedding_files.read(tmp_path / "x.parquet")


def test_what_is_no_file_of_embeddings_is_refused(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.npy"):
        with pytest.raises(MissingFileError, match="--embeddings"):
            embedding_files.read(tmp_path / name)
        (tmp_path / name).write_text("damaged")
        with pytest.raises(InputError, match=f"Cannot read .*{name}"):
            embedding_files.read(tmp_path / name)
    with pytest.raises(SettingError, match=r"\.parquet file, or a \.npy .* got x\.h5"):
        embedding_files.read(Path("x.h5"))
    np.save(tmp_path / "x.npy", _VECTORS)
    with pytest.raises(MissingFileError, match=r"There is no table .*x\.csv; write the columns"):
        embedding_files.read(tmp_path / "x.npy")


def test_complete_parts_are_there_again_and_no_others(tmp_path: Path) -> None:
    part = Part(np.arange(3), _VECTORS[:3])
    parts = Parts(tmp_path / "parts", {"checkpoint": 1}, num_parts=3)
    for number in (0, 2):
        parts.save(number, part)
    (tmp_path / "parts" / "part-000001.unfinished").write_bytes(b"PK")
    again = Parts(tmp_path / "parts", {"checkpoint": 1}, num_parts=3)
    assert [number in again for number in range(3)] == [True, False, True]
    assert (again.num_complete, again.num_images, again.are_of_another) == (2, 6, False)
    np.testing.assert_array_equal(again.load(2).vectors, part.vectors)

    path = tmp_path / "parts" / "part-000002.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    damaged = Parts(tmp_path / "parts", {"checkpoint": 1}, num_parts=3)
    assert [number in damaged for number in range(3)] == [True, False, False]

    other = Parts(tmp_path / "parts", {"checkpoint": 2}, num_parts=3)
    assert other.are_of_another
    assert not any(number in other for number in range(3))
