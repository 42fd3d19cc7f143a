"""Paths in settings are expanded in the same way; names are shown with every character visible."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import twelve_files

from dcjax.core import naming
from dcjax.data import crops, datasets, host_cache, pipeline
from dcjax.models import pretrained


def test_tilde_is_expanded_in_every_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    twelve_files(tmp_path)
    for label in "abcd":
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / f"{label}.jpg").write_bytes((tmp_path / "3.jpg").read_bytes())
        os.link(tmp_path / f"{label}.jpg", tmp_path / "images" / label / "1.jpg")
    (tmp_path / "t.csv").write_text("path,label,split\na.jpg,a,train\nb.jpg,b,test\n")
    here = str(tmp_path)
    folder = datasets.load("folder", root="~/images", test_classes=0.5)
    assert folder.train.images[0] == f"{here}/images/a/1.jpg"
    table = datasets.load("manifest", root="", manifest="~/t.csv")
    assert table.query.images.tolist() == [f"{here}/b.jpg"]
    table = datasets.load("manifest", root="~/images/..", manifest="~/t.csv")
    assert table.query.images.tolist() == [f"{here}/images/../b.jpg"]
    cut = crops.Augmentation(
        "resize_then_random", 8, 8, (1.0, 1.0), (1.0, 1.0), flip=False, strategy="standard"
    )
    host_cache.create([pipeline.Stream(table.query, cut, seed=0, num_threads=1)], "~/cache")
    assert list((tmp_path / "cache").iterdir())
    np.savez(tmp_path / "w.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match=f"The weights in {here}/w.npz do not fit"):
        pretrained.load(
            "~/w.npz", {"conv1": {"kernel": np.zeros((7, 7, 3, 4))}}, {}, download=False
        )
    with pytest.raises(FileNotFoundError, match=f"no folder {here}/none"):
        datasets.load("folder", root="~/none", test_classes=0.5)
    with pytest.raises(FileNotFoundError, match=f"is in {here}/none, which does not exist"):
        datasets.load("cub", root="~/none", source="folder", complete=False, download=False)


def test_path_with_a_null_character_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"without a null character, got 'a\\x00b'"):
        naming.expand("a\0b")
    assert naming.expand("") == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b\u00e9\U0001f600", "a b\u00e9\U0001f600"),
        ("caf\udce9", r"caf\udce9"),
        ("a\nb\tc\x1b[2J", r"a\nb\tc\x1b[2J"),
        ("\u202egnp", r"\u202egnp"),
    ],
)
def test_every_character_of_a_printed_name_is_visible(name: str, shown: str) -> None:
    assert naming.escape(name) == shown


def test_text_becomes_a_file_name_in_any_locale(monkeypatch) -> None:
    assert naming.as_file_name("caf\u00e9\udcff") == "caf\u00e9\udcff"
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("ascii", "surrogateescape"))
    escaped = "caf\udcc3\udca9\udcff"
    assert naming.as_file_name("caf\u00e9\udcff") == escaped
    assert naming.as_file_name(escaped) == escaped
