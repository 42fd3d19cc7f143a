"""Tables of images: CSV, TSV and Parquet say the same, and what is wrong is named."""

import csv
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dcjax import datasets

ROWS = [
    ("a/1.jpg", "7", "train", "birds"),
    ("a/2.jpg", "10", "train", "cats"),
    ("a/3.jpg", "7", "train", "birds"),
    ("b/4.jpg", "8", "query", "birds"),
    ("b/5.jpg", "8", "gallery", "birds"),
    ("b/6.jpg", "9", "gallery", "cats"),
]
HEAD = ("path", "label", "split", "super_class")


def write(path: Path, rows: list[tuple[str, ...]], head: tuple[str, ...] = HEAD) -> str:
    columns = [pyarrow.array(column) for column in zip(*rows, strict=True)]
    if path.suffix == ".parquet":
        if head[1] == "label":
            columns[1] = columns[1].cast(pyarrow.int64())  # labels may be numbers there
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(head, columns, strict=True))), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([head, *rows])
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_every_format_gives_the_same_splits(tmp_path: Path, suffix: str) -> None:
    table = write(tmp_path / f"table.{suffix}", ROWS)
    splits = datasets.load("manifest", root="", manifest=table)
    assert splits.train.images.tolist() == [f"{tmp_path}/a/{i}.jpg" for i in (1, 2, 3)]
    assert splits.train.class_names == ("10", "7")
    assert splits.train.labels.tolist() == [1, 0, 1]
    assert splits.train.super_classes == ("cats", "birds")
    assert splits.gallery is not None
    assert splits.query.class_names == splits.gallery.class_names == ("8", "9")
    assert splits.query.labels.tolist() == [0]
    assert splits.gallery.labels.tolist() == [0, 1]


def test_paths_may_start_elsewhere_or_at_the_top(tmp_path: Path) -> None:
    rows = [
        (f"{'/' * (i == 0)}{i}.jpg", str(i), split) for i, split in enumerate(("train", "test"))
    ]
    table = write(tmp_path / "table.csv", rows, HEAD[:3])
    splits = datasets.load("manifest", root="/images", manifest=table)
    assert splits.train.images.tolist() == ["/0.jpg"]
    assert splits.query.images.tolist() == ["/images/1.jpg"]
    assert splits.gallery is None
    assert splits.train.super_classes is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: ("", "7", "train", "birds")}, "image 1: require a path, got ''"),
        ({2: ("a/3.jpg", "", "train", "birds")}, "image 3: require a label, got ''"),
        ({1: ("a/2.jpg", "10", "val", "x")}, r"image 2: require a split \(train, .*, got 'val'"),
        ({3: ROWS[0]}, "test, or train, query and gallery, got gallery, train"),
        ({3: ("b/4.jpg", "8", "test", "birds")}, "got gallery, test, train"),
        ({5: ("b/6.jpg", "10", "gallery", "cats")}, "1 are in train too, the first is '10'"),
        (
            {2: ("a/3.jpg", "7", "train", "cats")},
            "same super_class, got 'birds' and 'cats' for '7'",
        ),
    ],
)
def test_what_is_wrong_in_a_row_is_named(
    tmp_path: Path, change: dict[int, tuple[str, ...]], message: str
) -> None:
    rows = [change.get(i, row) for i, row in enumerate(ROWS)]
    table = write(tmp_path / "table.csv", rows)
    with pytest.raises(ValueError, match=f"table.csv.*{message}"):
        datasets.load("manifest", root="", manifest=table)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty dataset.manifest; set --config"):
        datasets.load("manifest", root="", manifest="")
    with pytest.raises(FileNotFoundError, match=r"no table .*/nowhere.csv"):
        datasets.load("manifest", root="", manifest=f"{tmp_path}/nowhere.csv")
    table = write(tmp_path / "t.csv", [row[:2] for row in ROWS], ("path", "class"))
    with pytest.raises(ValueError, match=r"got path, class; there is no label and no split"):
        datasets.load("manifest", root="", manifest=table)
    table = write(tmp_path / "twice.csv", ROWS, ("path", "label", "split", "label"))
    with pytest.raises(ValueError, match=r"twice.csv: require one column label, got 2"):
        datasets.load("manifest", root="", manifest=table)
    table = write(tmp_path / "t.txt", ROWS)
    with pytest.raises(ValueError, match=r"a table .csv, .tsv or .parquet, got '.txt'"):
        datasets.load("manifest", root="", manifest=table)
    for labels in ([1.0], [[1, 2]]):
        columns = {"path": ["a"], "label": labels, "split": ["train"]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=r"x.parquet: .*label"):
            datasets.load("manifest", root="", manifest=f"{tmp_path}/x.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"Cannot read the table .*/t.parquet"):
        datasets.load("manifest", root="", manifest=f"{tmp_path}/t.parquet")
    (tmp_path / "t.csv").write_text("path,label,split\na,b\n")
    with pytest.raises(ValueError, match=r"Cannot read the table .*t.csv.*Expected 3 columns"):
        datasets.load("manifest", root="", manifest=f"{tmp_path}/t.csv")
