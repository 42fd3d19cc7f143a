"""A pipe, socket, device or folder in place of a file is an error and never blocks."""

import os
import socket
from pathlib import Path

import pytest
from pictures import noise

from dcjax.core import regular_files
from dcjax.core.errors import FileError
from dcjax.data import decoding, inspection, pipeline, readers
from dcjax.data.crops import Augmentation
from dcjax.data.datasets import files, grocery, manifest, prepared
from dcjax.data.datasets.image_set import file_parts, from_classes
from dcjax.data.datasets.request import Request
from dcjax.data.quiet_tensorflow import tf
from dcjax.models import pretrained, weight_files

KINDS = {"pipe": "named pipe", "link": "named pipe", "socket": "socket", "folder": "folder"}
KINDS |= {"zeros": "character device", "zeros_link": "character device"}


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Paths of special files by kind, and of a regular file and a link to it."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("pipe.png")
    os.symlink("pipe.png", "link.png")
    os.mkdir("folder.png")
    os.symlink("/dev/zero", "zeros_link.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
    paths = {name: str(tmp_path / f"{name}.png") for name in KINDS} | {"zeros": "/dev/zero"}
    for name in ("good", "better"):
        paths[name] = str(tmp_path / f"{name}.png")
    tf.io.write_file(paths["good"], tf.io.encode_png(noise(8, 8)))
    os.symlink("good.png", "better.png")
    return paths


def test_file_kinds_are_recognised_through_links(others):
    for name, path in others.items():
        assert KINDS.get(name, "") in regular_files.other_kind(path)
        assert bool(regular_files.other_kind(path)) == (name in KINDS)
    assert regular_files.other_kind("absent") == regular_files.other_kind("good.png/x") == ""
    assert regular_files.other_kind("a\0b") == ""


@pytest.mark.parametrize("thorough", [False, True])
def test_special_files_count_as_unreadable_images(others, thorough):
    images = from_classes(list(others.values()), [0] * len(others))
    unreadable = decoding.find_unreadable(images, thorough=thorough)
    assert [list(others)[row] for row in unreadable] == list(KINDS)
    kept, num_bad = decoding.select_readable(images, skip_unreadable=True)
    assert kept.images.tolist() == [others["good"], others["better"]]
    assert num_bad == len(KINDS)
    with pytest.raises(ValueError, match=r"(?s)6 of 8 images.*pipe.png is a named pipe"):
        decoding.select_readable(images, skip_unreadable=False)


def test_check_data_names_special_files(others):
    images = from_classes(list(others.values()), [0] * len(others))
    reasons = inspection.inspect(images, lambda count: None).reasons
    assert [list(others)[row] for row in reasons] == list(KINDS)
    for row, reason in reasons.items():
        assert list(KINDS.values())[row] in reason


def test_reading_a_special_file_names_it(others):
    recipe = Augmentation(
        "random_resized", 4, 4, scale=(0.5, 1.0), ratio=(1.0, 1.0), flip=False, strategy="standard"
    )
    for name, kind in KINDS.items():
        images = from_classes([others["good"], others[name]], [0, 1])
        stream = pipeline.Stream(images, recipe, seed=0, num_threads=1)
        with pytest.raises(ValueError, match=rf"Cannot read image {others[name]}: .*{kind}"):
            list(stream.eval_batches(readers.rows_to_embed(2, 2)))


def test_records_in_special_files_are_refused(others):
    parts = file_parts(
        [others["pipe"], others["good"]], [0, 0], [9, os.stat(others["good"]).st_size]
    )
    images = from_classes(parts, [0, 0])
    assert decoding.find_unreadable(images, thorough=False) == [0]
    assert decoding.find_unreadable(images, thorough=True) == [0]


def test_features_json_in_a_special_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "features.json")
    with pytest.raises(ValueError, match=r"Cannot read .*features.json: .* is a named pipe"):
        prepared.read(tmp_path, ["train"], [])


def test_lists_tables_and_weights_in_special_files_are_refused(others, tmp_path):
    for suffix in ("csv", "tsv", "parquet"):
        os.mkfifo(tmp_path / f"table.{suffix}")
        with pytest.raises(FileError, match="is a named pipe"):
            manifest.load(Request(""), manifest=str(tmp_path / f"table.{suffix}"))
    for read in (
        lambda path: files.read_table(Path(path), 2),
        lambda path: grocery.read_classes(Path(path)),
        weight_files.read,
        lambda path: pretrained.load(path, {}, {}, download=False),
    ):
        for name, kind in KINDS.items():
            with pytest.raises(FileError, match=f"{others[name]} is a {kind}"):
                read(others[name])
