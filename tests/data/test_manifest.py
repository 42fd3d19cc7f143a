"""Tables of images: CSV, TSV and Parquet give equal splits, and errors are named."""

import csv
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dcjax.data import datasets

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
            columns[1] = columns[1].cast(pyarrow.int64())  # Parquet labels may be numbers
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(head, columns, strict=True))), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([head, *rows])
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_every_table_format_gives_the_same_splits(tmp_path: Path, suffix: str) -> None:
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


def test_paths_may_be_relative_to_a_root_or_absolute(tmp_path: Path) -> None:
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
def test_error_in_a_row_is_named(
    tmp_path: Path, change: dict[int, tuple[str, ...]], message: str
) -> None:
    rows = [change.get(i, row) for i, row in enumerate(ROWS)]
    table = write(tmp_path / "table.csv", rows)
    with pytest.raises(ValueError, match=f"table.csv.*{message}"):
        datasets.load("manifest", root="", manifest=table)


def test_unreadable_table_is_named(tmp_path: Path) -> None:
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


_TABLE = "path,label,split\na.jpg,caf\u00e9,train\nb.jpg,7,test\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (_TABLE.encode("utf-16"), "line 1: this is UTF-16"),
        (b"\xfe\xff" + _TABLE.encode("utf-16-be"), "line 1: this is UTF-16"),
        (_TABLE.encode("utf-16-le"), "line 1: a null byte, as in UTF-16"),
        (_TABLE.encode("utf-32"), "line 1: this is UTF-16"),
        (_TABLE.encode("latin-1"), r"line 2, image 1: .*, got 'caf\\udce9' as label, .* Latin-1"),
        (_TABLE.replace("a.jpg", "\u00e4.jpg").encode("latin-1"), r"line 2, .*, got '\\udce4.jpg'"),
        (_TABLE.encode().replace(b"b.jpg", b"b\0.jpg"), "line 3: a null byte"),
    ],
)
def test_line_that_is_not_utf8_is_named(tmp_path: Path, content: bytes, line: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t.csv, {line}.*; save (it|the table) as UTF-8"):
        datasets.load("manifest", root="", manifest=str(table))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_image_file_name_may_hold_any_bytes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / os.fsdecode(b"\xe4.jpg")).touch()
    table = tmp_path / f"t.{suffix}"
    rows = [(b"\xe4.jpg", b"7\xff", b"train"), ("\u00e9.jpg".encode(), b"8", b"test")]
    if suffix == "csv":
        lines = [b",".join(row) for row in rows]
        table.write_bytes(b"\n".join([b"path,label,split", *lines]))
    else:
        columns = (pyarrow.array(column, pyarrow.binary()) for column in zip(*rows, strict=True))
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(HEAD[:3], columns, strict=True))), table)
    splits = datasets.load("manifest", root="", manifest=str(table))
    assert [os.fsencode(x) for x in splits.train.images] == [os.fsencode(tmp_path) + b"/\xe4.jpg"]
    assert [os.fsencode(x) for x in splits.train.class_names] == [b"7\xff"]
    assert splits.query.images.tolist() == [f"{tmp_path}/\u00e9.jpg"]


def _load(tmp_path: Path, text: str) -> datasets.Splits:
    (tmp_path / "t.csv").write_text(text, newline="")
    return datasets.load("manifest", root="", manifest=f"{tmp_path}/t.csv")


def test_table_file_name_may_hold_any_bytes(tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        path = tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode())
        os.rename(write(tmp_path / f"t.{suffix}", ROWS), path)
        assert len(datasets.load("manifest", root="", manifest=str(path)).train)


def test_cells_are_read_without_conversion(tmp_path: Path) -> None:
    rows = ['a.jpg,01,train,"x\ny"', "", "b.jpg,1,train,", '"c,d.jpg",1 ,train,', "d.jpg,z,test,"]
    for start, end in (("", "\n"), ("\ufeff", "\r\n"), ("", "\r")):
        text = start + end.join(["path, label ,split,note", *rows])
        splits = _load(tmp_path, text)
        assert splits.train.class_names == ("01", "1", "1 ")
        assert [path.rsplit("/", 1)[1] for path in splits.train.images] == [
            "a.jpg",
            "b.jpg",
            "c,d.jpg",
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;label;split\na;7;train\n", "no label and no split; separate them by ',', not ';'"),
        ("path\tlabel\tsplit\n", r"separate them by ',', not '\\t'"),
        ("", "require the columns path, label, split, got none"),
        ("path,label,split\n", "got no rows"),
        ("path,label,split, label\n", "require one column label, got 2"),
        (
            'path,label,split\n"a\nb",7,train\nc,,train\n',
            "line 4, image 2: require a label, got ''",
        ),
        ('path,label,split\na,7,train\n"b,8,test\nc,8,test\n', "line 3: unexpected end of data"),
        ("path,label,split\na,7,train\nb,8,test,x\n", "line 3: Expected 3 columns .*, got 4"),
        ("path,label,split\na,7, train\n", r"line 2, .*require a split \(.*\), got ' train'"),
    ],
)
def test_malformed_table_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"t.csv.*{message}"):
        _load(tmp_path, text)


def test_parquet_labels_must_be_strings_or_integers(tmp_path: Path) -> None:
    def load(labels: pyarrow.Array) -> tuple[str, ...]:
        columns = {"path": ["a", "b", "c"], "label": labels, "split": ["train", "train", "test"]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return datasets.load(
            "manifest", root="", manifest=f"{tmp_path}/t.parquet"
        ).train.class_names

    assert load(pyarrow.array([7, 10, 8])) == ("10", "7")
    assert load(pyarrow.array(["7", "07", "8"]).dictionary_encode()) == ("07", "7")
    assert load(pyarrow.array(["7", "07", "8"], pyarrow.large_string())) == ("07", "7")
    with pytest.raises(ValueError, match="image 2: require a label, got ''"):
        load(pyarrow.array(["7", None, "8"]))
    with pytest.raises(ValueError, match="image 2: require a label, got ''"):
        load(pyarrow.array([7, None, 8]))
    with pytest.raises(ValueError, match="text or whole numbers as label, got double"):
        load(pyarrow.array([7.0, float("nan"), 8.0]))


def test_evaluation_needs_no_training_rows(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS[3:]):
        table = write(tmp_path / "table.csv", rows)
        splits = datasets.load("manifest", root="", manifest=table, with_train=False)
        assert len(splits.train) == 0
        assert splits.query.class_names == ("8", "9")
        assert splits.query.super_classes == ("birds", "cats")
    table = write(tmp_path / "table.csv", ROWS[:3])
    with pytest.raises(ValueError, match="require the splits"):
        datasets.load("manifest", root="", manifest=table, with_train=False)
