"""Images to embed: of folders, tables and lists."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dcjax.core.errors import InputError, MissingFileError
from dcjax.data.datasets import listing

_Write = Callable[..., str]


def test_sub_folders_are_the_classes_if_all_images_lie_directly_in_one(write_tree: _Write) -> None:
    top = write_tree({"b/2.png": None, "a/1.jpg": None, "a/.x.png": None, "a/notes.txt": "x"})
    images, has_labels, splits = listing.load(top)
    assert has_labels
    assert splits is None
    assert images.images.tolist() == [f"{top}/a/1.jpg", f"{top}/b/2.png"]
    assert [images.class_names[label] for label in images.labels] == ["a", "b"]


@pytest.mark.parametrize("other", ["3.png", "b/c/3.png"])
def test_images_elsewhere_mean_that_there_are_no_classes(other: str, write_tree: _Write) -> None:
    top = write_tree({"a/1.png": None, "b/2.png": None, other: None})
    images, has_labels, _ = listing.load(top)
    assert not has_labels
    assert sorted(images.images) == sorted(f"{top}/{x}" for x in ("a/1.png", "b/2.png", other))


def test_a_link_to_a_folder_above_is_not_followed(write_tree: _Write) -> None:
    top = write_tree({"a/1.png": None})
    os.symlink(top, f"{top}/a/loop")
    assert len(listing.load(top).images) == 1


def test_a_table_has_paths_and_perhaps_labels_and_splits(write_tree: _Write) -> None:
    top = write_tree(
        {
            "all.csv": "label,path,split\nz,1.png,query\ny,2.png,gallery\n",
            "paths.tsv": "path\tother\n/x/1.png\t\n",
        }
    )
    images, has_labels, splits = listing.load(f"{top}/all.csv")
    assert has_labels
    assert splits is not None
    assert splits.tolist() == ["query", "gallery"]
    assert images.images.tolist() == [f"{top}/1.png", f"{top}/2.png"]
    assert [images.class_names[label] for label in images.labels] == ["z", "y"]
    images, has_labels, splits = listing.load(f"{top}/paths.tsv")
    assert images.images.tolist() == ["/x/1.png"]
    assert (has_labels, splits) == (False, None)


def test_a_list_has_a_path_a_line(write_tree: _Write) -> None:
    top = write_tree({"list.txt": "b.png\r\n\n/x/ a.png\n", "one.png": None})
    assert listing.load(f"{top}/list.txt").images.images.tolist() == [f"{top}/b.png", "/x/ a.png"]
    assert listing.load(f"{top}/one.png").images.images.tolist() == [f"{top}/one.png"]


def test_what_lists_no_images_is_refused(write_tree: _Write, tmp_path: Path) -> None:
    top = write_tree(
        {"empty.txt": "\n", "no/notes.txt": "", "a.csv": "image\n1\n", "b.csv": "path"}
    )
    (tmp_path / "binary.bin").write_bytes(b"a\0")
    for name, words in (
        ("empty.txt", "got no lines"),
        ("no", "Require an image"),
        ("a.csv", "require the column path, got image"),
        ("b.csv", "without rows"),
        ("binary.bin", "null byte"),
    ):
        with pytest.raises(InputError, match=words):
            listing.load(f"{top}/{name}")
    with pytest.raises(MissingFileError, match="--images"):
        listing.load(f"{top}/nothing")
