"""Runs train and are evaluated with any bytes in the names of files and classes.

All tests share one run, also those of what a saved run records about its images.
"""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import png
from ml_collections import ConfigDict

import dcjax
from configs import digits
from dcjax.core import naming
from dcjax.data import decoding
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.image_set import from_classes
from dcjax.distributed import devices
from dcjax.experiment import inputs, same_run
from dcjax.experiment.network import Network
from dcjax.modes import check_data, evaluate
from dcjax.modes.train import train

_FILES = (b"caf\xe9", b"\xff\xfe", b"new\nline", b"-dash", b"x" * 251)
_TRAIN = (b"caf\xe9", "caf\u00e9".encode(), b"tab\tular", b'quo"te', b"com,ma")
_TEST = ("\U0001f600".encode(), b"\xff\xfe", b"%s{x}[y]*", b"cat", b"cat ")


class Run(NamedTuple):
    """A finished run: its images, its folder, what it printed, and its config."""

    root: Path
    workdir: Path
    printed: str
    config: ConfigDict


def _config(root: Path) -> ConfigDict:
    config = digits.get_config()
    settings = {"dataset.name": "folder", "dataset.root": str(root), "dataset.crop": 8}
    settings |= {"model.width": 4, "model.num_stages": 1, "model.embedding_dim": 8}
    settings |= {"sampling.batch_size": 8, "sampling.images_per_class": 2, "eval.ks": (1, 2)}
    settings |= {"train.num_epochs": 1, "eval.at_start": False, "eval.nmi": "never"}
    settings |= {"division.max_clusters": 1, "eval.batch_size": 8, "eval.pixels": False}
    settings |= {"loss.name": "proxy_nca"}
    config.update_from_flattened_dict(settings)
    return config


def _write(root: Path, split: bytes, classes: tuple[bytes, ...]) -> None:
    rng = np.random.default_rng(len(split))
    for name in classes:
        folder = os.path.join(os.fsencode(root), split, name)
        os.makedirs(folder)
        for file in _FILES:
            with open(os.path.join(folder, file + b".png"), "wb") as picture:
                picture.write(png(rng.integers(0, 256, (9, 9, 3), np.uint8)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("images") / os.fsdecode(b"caf\xe9")
    workdir = tmp_path_factory.mktemp("run")
    _write(root, b"train", _TRAIN)
    _write(root, b"test", _TEST)
    config = _config(root)
    with pytest.MonkeyPatch.context() as patch, (workdir / "printed").open("w+") as printed:
        patch.setattr(sys, "stdout", printed)
        assert train(config, str(workdir))
    return Run(root, workdir, (workdir / "printed").read_text(), config)


@pytest.fixture
def moved(run: Run, tmp_path: Path) -> tuple[Path, ConfigDict]:
    """A copy of the run's images, and the config that reads it."""
    shutil.copytree(run.root, tmp_path / "moved")
    return tmp_path / "moved", _config(tmp_path / "moved")


def _scores(run: Run) -> dict[str, float]:
    scores = json.loads((run.workdir / "scores.json").read_text())["last"]
    return {name: score for name, score in scores.items() if name != "epoch"}


def test_loaded_run_scores_and_embeds_files_as_in_training(run: Run) -> None:
    model = dcjax.load(str(run.workdir))
    assert model.evaluate() == _scores(run)
    paths = inputs.load_index(run.config.dataset).query.images[:6].tolist()
    embeddings = model(paths)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model([Path(path) for path in paths]), embeddings)


def test_similar_class_names_are_printed_at_the_start(run: Run) -> None:
    assert "classes 'cat' (test) and 'cat ' (test) differ in spaces, letter case" in run.printed
    assert run.printed.count("differ in spaces") == 1


def test_check_data_csv_preserves_names_of_any_bytes(moved, tmp_path, capsys) -> None:
    root, config = moved
    bad = [os.path.join(os.fsencode(root), b"test", _TEST[1], name + b".png") for name in _FILES]
    for path in bad:
        with open(path, "wb") as file:
            file.write(b"no picture")
    assert not check_data.check_data(config, str(tmp_path))
    printed = capsys.readouterr().out
    assert r"test/\udcff\udcfe/caf\udce9.png (test, \udcff\udcfe)" in printed
    assert r"new\nline.png (test" in printed
    path = tmp_path / "check_data.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    errors = {os.fsencode(row["image"]) for row in rows if row["severity"] == "error"}
    assert errors - {b""} == set(bad)  # "": the settings need more classes
    (similar,) = (row for row in rows if "letter case" in row["problem"])
    assert (similar["class"], similar["image"], similar["split"]) == ("cat ", "", "test")
    assert similar["detail"] == "'cat' (test) and 'cat ' (test)"
    assert similar["severity"] == "warning"


def test_missing_file_is_named(tmp_path: Path) -> None:
    gone = from_classes([str(tmp_path / os.fsdecode(b"caf\xe9\n.png"))], [0])
    with pytest.raises(ValueError, match=r"caf\\udce9\\n.png: No such file or directory."):
        decoding.select_readable(gone, skip_unreadable=False)
    reader = Network(digits.get_config(), devices.create_mesh()).stream(gone)
    with pytest.raises(ValueError, match=r"read image .*caf\\udce9\\n.png: No such file or dire"):
        list(reader.eval_batches(np.zeros((1, 1), np.int32)))


def test_order_and_checksum_of_names_do_not_depend_on_the_locale() -> None:
    results = []
    for encoding in ("utf-8", "ascii"):  # encoding of the file system
        names = [name.decode(encoding, "surrogateescape") for name in _TRAIN + _TEST]
        images = from_classes(names, names, super_classes={name: name for name in names})
        results.append((images.labels.tolist(), images.super_class_labels.tolist()))
        results[-1] += (naming.checksum(images.class_names),)
    assert results[0] == results[1]
    assert results[0][0] == results[0][1] == np.argsort(np.argsort(_TRAIN + _TEST)).tolist()


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "empty class folders"])
def test_evaluation_needs_no_training_images(run: Run, moved, capsys, left: str) -> None:
    root, config = moved
    shutil.rmtree(root / "train")
    if left != "nothing":
        (root / "train").mkdir()
    if left == "empty class folders":
        (root / "train" / "x").mkdir()
    assert dcjax.load(str(run.workdir), config).evaluate() == _scores(run)
    assert capsys.readouterr().out == ""


def test_evaluation_counts_skipped_test_images(run, moved, capsys) -> None:
    root, config = moved
    os.truncate(os.path.join(os.fsencode(root), b"test", b"cat", b"-dash.png"), 20)
    with pytest.raises(ValueError, match="1 of 25 images cannot be read"):
        evaluate.compare([str(run.workdir)], config)
    config.dataset.skip_unreadable = True
    evaluate.compare([str(run.workdir)], config)
    line = "left out  1 of 25 test images that cannot be read; --mode=check_data names them\n"
    changed = "other test images: now 24 images of 5 classes, then 25 of 5"
    printed = capsys.readouterr().out
    assert line in printed
    assert changed in printed


def test_run_is_not_continued_with_other_test_images(run: Run, moved, capsys) -> None:
    root, config = moved
    shutil.rmtree(root / "test" / "cat")
    config.train.num_epochs = 2
    with pytest.raises(ValueError, match="run on other test images: now 20 images of 4 classes"):
        train(config, str(run.workdir))
    dcjax.load(str(run.workdir), config).evaluate()
    assert "not as in training: other test images: now 20 images" in capsys.readouterr().out


def test_saved_run_identifies_its_test_class_folders(tmp_path: Path) -> None:
    _write(tmp_path, b"flat", _TRAIN + _TEST)
    config = _config(tmp_path / "flat")
    splits, _ = inputs.load_splits(config.dataset)
    saved = same_run.fingerprints(splits)
    printed: list[str] = []

    def load() -> ImageSet:
        return inputs.load_test(config.dataset, saved, printed.append).query

    expected = load()
    for name in splits.train.class_names:
        shutil.rmtree(tmp_path / "flat" / name)
        actual = load()
        assert actual.class_names == expected.class_names
        assert actual.images.tolist() == expected.images.tolist()
    assert not printed
    shutil.rmtree(tmp_path / "flat" / expected.class_names[-1])
    load()
    assert "other test images: now 10 images of 2 classes, then 25 of 5" in printed[0]
