"""check_data names every bad file with a remedy, and fails if and only if training would fail."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import launch
from ml_collections import ConfigDict
from pictures import noise

from configs import digits
from dcjax.data.quiet_tensorflow import tf
from dcjax.distributed import devices
from dcjax.experiment import inputs
from dcjax.experiment.network import Network
from dcjax.modes import check_data

_ROOT = Path(__file__).parents[2]


def png(pixels: np.ndarray) -> bytes:
    return tf.io.encode_png(pixels).numpy()


def jpeg(pixels: np.ndarray) -> bytes:
    return tf.io.encode_jpeg(pixels).numpy()


WEBP = bytes.fromhex(  # 8 x 8 pixels of one grey level, lossless
    "524946461e000000574542505650384c110000002f07c001000750ad6a55abff8188e87f0000"
)


def write_table(folder: Path, rows: dict[str, tuple[bytes | None, str, str]]) -> str:
    """Writes files (None: no file) and their table of path, label and split."""
    for name, (content, _, _) in rows.items():
        if content is not None:
            (folder / name).write_bytes(content)
    lines = [f"{name},{label},{split}\n" for name, (_, label, split) in rows.items()]
    content = "path,label,split\n" + "".join(lines)
    (folder / "table.csv").write_text(content, encoding="utf-8")
    return str(folder / "table.csv")


def good_rows(num_train: int = 4, num_test: int = 3) -> dict[str, tuple[bytes | None, str, str]]:
    """Rows of three images of each class."""
    classes = [f"t{i}" for i in range(num_train)] + [f"u{i}" for i in range(num_test)]
    return {
        f"{label}_{i}.png": (
            png(noise(12, 16, seed=10 * k + i)),
            label,
            "train" if label[0] == "t" else "test",
        )
        for k, label in enumerate(classes)
        for i in range(3)
    }


def config(table: str, **changes: Any) -> ConfigDict:
    made = digits.get_config()
    settings = {"dataset.name": "manifest", "dataset.manifest": table, "sampling.batch_size": 8}
    settings |= {"eval.batch_size": 8, "sampling.images_per_class": 2, "eval.ks": (1, 2)}
    made.update_from_flattened_dict(settings | changes)
    return made


def read_problems(workdir: Path) -> dict[str, tuple[str, str, str, str]]:
    """Returns split, class, problem and detail by file name."""
    with (workdir / "check_data.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "split", "class", "severity", "problem", "detail"]
    assert all((row[3] == "error") == (row[4] == "cannot be read") for row in rows[1:])
    return {Path(row[0]).name: tuple(row[1:3] + row[4:]) for row in rows[1:]}


def test_every_problem_is_named_with_a_remedy(tmp_path, capsys):
    picture = jpeg(noise(40, 40))
    bad = {
        "cut.jpg": (picture[: len(picture) // 2], "t0", "train"),
        "empty.jpg": (b"", "t1", "train"),
        "page.jpg": (b"<html>404</html>", "t2", "train"),
        "missing.jpg": (None, "t3", "train"),
        "webp.jpg": (WEBP, "t0", "train"),
        "deep.png": (png(noise(12, 12).astype(np.uint16) * 257), "t1", "train"),
        "alone.png": (png(noise(12, 12, seed=900)), "u9", "test"),
        "copy.png": (good_rows()["t0_0.png"][0], "u0", "test"),
        "two_classes.png": (good_rows()["t1_1.png"][0], "t2", "train"),
        "tiny.png": (png(noise(6, 20, seed=901)), "t3", "train"),
        "twice.png": (good_rows()["u1_0.png"][0], "u1", "test"),
    }
    table = write_table(tmp_path, good_rows() | bad)
    assert not check_data.check_data(config(table), str(tmp_path / "run"))
    problems = read_problems(tmp_path / "run")
    assert set(problems) == set(bad)
    for name in ("cut.jpg", "empty.jpg", "page.jpg", "missing.jpg"):
        assert problems[name][2] == "cannot be read"
    assert "Input is empty" in problems["empty.jpg"][3]
    assert problems["webp.jpg"] == ("train", "t0", "the name says another format", "it is WebP")
    assert problems["deep.png"][2:] == ("more than 8 bits a channel", "16 bits")
    assert problems["alone.png"][:2] == ("test", "u9")
    assert problems["alone.png"][2] == "a test image without another image of its class to find"
    assert problems["copy.png"][2] == "the same picture is in two splits"
    assert problems["copy.png"][3].endswith("t0_0.png (train, t0)")
    assert problems["two_classes.png"][2] == "the same picture has two classes"
    assert problems["twice.png"][2] == "the same picture is there twice in a test"
    assert problems["tiny.png"][2:] == ("a side is shorter than dataset.crop", "20 x 6")
    output = capsys.readouterr().out
    assert all(name in output for name in bad)
    assert "error     4 images: cannot be read; replace or remove them" in output
    assert "result    training would fail" in output


def test_pixel_limit_is_the_same_as_in_training(tmp_path, capsys):
    large = {"large.png": (png(noise(40, 30)), "t0", "train")}
    limited = config(write_table(tmp_path, good_rows() | large), **{"dataset.max_pixels": 1199})
    assert not check_data.check_data(limited, str(tmp_path / "run"))
    reason = "It has 30 x 40 pixels, more than dataset.max_pixels=1,199; make it smaller"
    assert reason in read_problems(tmp_path / "run")["large.png"][3]
    with pytest.raises(ValueError, match=f"large.png: {reason}"):
        inputs.load_splits(limited.dataset)
    images = inputs.load_index(limited.dataset).train
    reader = Network(limited, devices.create_mesh()).stream(images)
    with pytest.raises(ValueError, match=f"large.png: {reason}"):
        list(reader.eval_batches(np.arange(len(images))[None]))
    for allowed in (0, 1200):
        limited.dataset.max_pixels = allowed
        assert inputs.load_splits(limited.dataset)[1] == 0
    limited.update_from_flattened_dict(
        {"dataset.max_pixels": 1199, "dataset.skip_unreadable": True}
    )
    splits, num_skipped = inputs.load_splits(limited.dataset)
    assert (len(splits.train), num_skipped) == (12, 1)


def test_check_data_needs_no_weights(tmp_path):
    table = write_table(tmp_path, good_rows())
    assert check_data.check_data(config(table, **{"model.batch_norm": "frozen"}), str(tmp_path))


def test_skipped_files_are_no_error(tmp_path, capsys):
    bad = {"empty.png": (b"", "t1", "train")}
    table = write_table(tmp_path, good_rows() | bad)
    settings = {"dataset.skip_unreadable": True}
    assert check_data.check_data(config(table, **settings), str(tmp_path))
    output = capsys.readouterr().out
    assert "warning   1 image: cannot be read" in output
    assert "result    training can begin\n" in output


def test_class_without_a_readable_image_is_an_error(tmp_path, capsys):
    rows = good_rows() | {f"t0_{i}.png": (b"", "t0", "train") for i in range(3)}
    settings = {"dataset.skip_unreadable": True}
    assert not check_data.check_data(config(write_table(tmp_path, rows), **settings), str(tmp_path))
    assert "none in 1 classes, the first is 't0'" in capsys.readouterr().out


def test_table_of_good_data_shows_no_problems(tmp_path, capsys):
    table = write_table(tmp_path, good_rows())
    assert check_data.check_data(config(table), str(tmp_path))
    output = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()}
    assert rows["train"] == ["12", "0", "4", "3", "3", "3", "12-16", "3"]
    assert rows["test"] == ["9", "0", "3", "3", "3", "3", "12-16", "3"]
    assert "result    training can begin; all is well" in output
    assert read_problems(tmp_path) == {}


def test_data_that_training_refuses_is_an_error(tmp_path, capsys):
    table = write_table(tmp_path, good_rows(num_train=2))
    assert not check_data.check_data(config(table), str(tmp_path))
    output = capsys.readouterr().out
    assert "error     Every cluster needs two classes with two images" in output
    with (tmp_path / "check_data.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["severity"], row["image"]) == ("error", "")
    assert row["problem"].startswith("Every cluster needs two classes with two images")
    assert "result    training would fail\n" in output


def test_query_without_a_positive_is_named(tmp_path):
    rows = {
        name: (content, label, "query" if name.endswith("0.png") else "gallery")
        if split == "test"
        else (content, label, split)
        for name, (content, label, split) in good_rows().items()
    }
    rows["lost.png"] = (png(noise(9, 9, seed=902)), "u9", "query")
    table = write_table(tmp_path, rows)
    assert check_data.check_data(config(table), str(tmp_path))
    assert read_problems(tmp_path)["lost.png"][2].startswith("a test image without another image")


def test_repeated_files_are_all_listed_and_an_error(tmp_path, capsys):
    rows = good_rows() | {
        "again.png": (None, "u0", "test"),
        "copy.png": (good_rows()["u1_0.png"][0], "u1", "test"),
    }
    table = write_table(tmp_path, rows)
    os.link(tmp_path / "t0_0.png", tmp_path / "again.png")
    with open(table, "a") as file:
        file.write("./u2_0.png,u2,test\nt1_0.png,t1,train\n")
    assert not check_data.check_data(config(table), str(tmp_path / "run"))
    output = capsys.readouterr().out
    same = "the same file is in two splits, in two classes or twice in a test"
    assert f"error     2 images: {same}" in output
    assert f"{tmp_path}/again.png (test, u0): like {tmp_path}/t0_0.png (train, t0)" in output
    with (tmp_path / "run" / "check_data.csv").open(newline="") as file:
        problems = {row["image"]: row["problem"] for row in csv.DictReader(file)}
    assert problems == {
        f"{tmp_path}/again.png": same,
        f"{tmp_path}/u2_0.png": same,
        f"{tmp_path}/t1_0.png": "the same picture is there twice in training",
        f"{tmp_path}/copy.png": "the same picture is there twice in a test",
    }


def test_five_examples_of_a_kind_are_printed_and_all_are_in_the_file(tmp_path, capsys):
    rows = {f"x{i:02}.png": (png(noise(6, 6, seed=i)), f"t{i % 4}", "train") for i in range(25)}
    table = write_table(tmp_path, good_rows() | rows)
    check_data.check_data(config(table), str(tmp_path))
    output = capsys.readouterr().out
    assert "note      25 images: a side is shorter than dataset.crop" in output
    assert "x04.png" in output
    assert "x05.png" not in output
    assert "... and 20 more in check_data.csv" in output
    assert len(read_problems(tmp_path)) == 25


def write_folder(top: Path) -> None:
    """Writes a folder of images with findings of every kind but an absent file."""
    for seed, (name, (content, label, split)) in enumerate(good_rows().items()):
        path = top / split / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if seed < 7:
            (path.parent / f"scan{seed}.HEIC").write_bytes(b"heic")
    picture = iter(jpeg(noise(20, 20, seed=seed)) for seed in range(100, 200))
    copied = [(top / "train" / "t0" / f"t0_{i}.png").read_bytes() for i in range(3)]
    files = {
        "train/t0/broken.jpg": b"",
        "train/t0/again.png": copied[0],
        "train/t1/t0.png": copied[1],
        "test/u0/t0.png": copied[2],
        "test/u1/again.png": (top / "test" / "u1" / "u1_0.png").read_bytes(),
        "test/u9/alone.jpg": next(picture),
        "train/t9/alone.jpg": next(picture),
        "train/T1/0.jpg": next(picture),
        "train/T1/1.jpg": next(picture),
        "train/t0/small.png": png(noise(4, 4)),
        "train/t0/deep.png": png(noise(12, 12).astype(np.uint16) * 257),
        "train/t0/really_jpeg.png": next(picture),
        "loose.jpg": next(picture),
        "validation/v0/0.jpg": next(picture),
        "train/t0/more/below/0.jpg": next(picture),
        "train/t0/without_suffix": next(picture),
        "train/t0/Makefile": b"all:",
        "train/t0/.hidden.jpg": next(picture),
        "train/t0/notes.txt": b"notes",
        "test/u0/film.mp4": b"film",
        ".cache/0.jpg": next(picture),
    }
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    os.link(top / "test" / "u0" / "u0_0.png", top / "test" / "u2" / "link.png")


def folder_config(top: Path, **changes: Any) -> ConfigDict:
    return config("", **{"dataset.name": "folder", "dataset.root": str(top)} | changes)


_ORDER = (
    *(("error", "cannot be read", 1), ("error", "the same file is in two splits", 1)),
    ("warning", "the same picture is in two splits", 1),
    ("warning", "the same picture is there twice in a test", 1),
    ("warning", "the same picture has two classes", 1),
    ("warning", "the name is that of another class", 1),
    ("warning", "a test image without another image of its class", 1),
    ("warning", "the only training image of its class", 1),
    ("warning", "ignored, an image that is not directly in a class folder", 3),
    ("warning", "ignored, an image of a format that is not read", 7),
    ("warning", "ignored, an image whose name has no suffix", 1),
    ("note", "the same picture is there twice in training", 1),
    ("note", "a side is shorter than dataset.crop", 1),
    ("note", "more than 8 bits a channel", 1),
    ("note", "the name says another format", 1),
    ("note", "ignored, since the name begins with a dot", 1),
    ("note", "ignored, no image by its name", 3),
)


def test_findings_come_in_the_order_of_their_harm_with_counts(tmp_path, capsys):
    write_folder(tmp_path / "images")
    assert not check_data.check_data(folder_config(tmp_path / "images"), str(tmp_path))
    output = capsys.readouterr().out
    printed = [x for x in output.splitlines() if x.startswith(("error", "warning", "note"))]
    assert len(printed) == len(_ORDER)
    for line, (severity, what, count) in zip(printed, _ORDER, strict=True):
        assert line.startswith(f"{severity:9} {count} ")
        assert f": {what}" in line
    with (tmp_path / "check_data.csv").open(newline="") as file:
        rows = [(row["severity"], row["problem"]) for row in csv.DictReader(file)]
    expected = [(severity, what) for severity, what, count in _ORDER for _ in range(count)]
    assert len(rows) == len(expected)
    for (severity, problem), (expected_severity, what) in zip(rows, expected, strict=True):
        assert severity == expected_severity
        assert problem.startswith(what)


def test_skipped_images_stand_with_those_that_are_lost(tmp_path, capsys):
    write_folder(tmp_path / "images")
    (tmp_path / "images" / "test" / "u2" / "link.png").unlink()
    skips = folder_config(tmp_path / "images", **{"dataset.skip_unreadable": True})
    assert check_data.check_data(skips, str(tmp_path))
    output = capsys.readouterr().out
    before, after = output.split("warning   1 image: cannot be read; replace or remove them; ")
    assert "a test image without another image of its class" in before
    assert "the only training image of its class" in after


def test_ignored_files_are_counted_by_suffix_and_listed(tmp_path, capsys):
    write_folder(tmp_path / "images")
    check_data.check_data(folder_config(tmp_path / "images"), str(tmp_path))
    output = capsys.readouterr().out
    assert "7 files (.heic: 7): ignored, an image of a format that is not read" in output
    assert "1 file (JPEG: 1): ignored, an image whose name has no suffix" in output
    assert "3 files (.mp4: 1, no suffix: 1, .txt: 1): ignored, no image by its name" in output
    with (tmp_path / "check_data.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["problem"].startswith("ignored")]
    found = {os.path.relpath(row["image"], tmp_path / "images") for row in rows}
    assert found == {
        *(f"train/t0/scan{i}.HEIC" for i in range(3)),
        *(f"train/t1/scan{i}.HEIC" for i in range(3, 6)),
        *("train/t2/scan6.HEIC", "loose.jpg", "validation/v0/0.jpg", "train/t0/more/below/0.jpg"),
        *("train/t0/without_suffix", "train/t0/Makefile", "train/t0/.hidden.jpg"),
        *("train/t0/notes.txt", "test/u0/film.mp4"),
    }
    assert not any(row["split"] or row["class"] for row in rows)


def test_notes_alone_leave_all_well(tmp_path, capsys):
    for name, (content, label, split) in good_rows().items():
        path = tmp_path / "images" / split / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "images" / "README.txt").write_text("photographs")
    assert check_data.check_data(folder_config(tmp_path / "images"), str(tmp_path))
    assert "result    training can begin; all is well\n" in capsys.readouterr().out


def test_images_in_memory_are_checked_too(tmp_path, capsys):
    assert check_data.check_data(digits.get_config(), str(tmp_path))
    assert "901" in capsys.readouterr().out


def test_exit_code_says_whether_training_would_fail(tmp_path):
    flags = ["--mode=check_data", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    flags += ["--config.dataset.name=manifest", "--config.eval.ks=1,2"]
    flags += ["--config.sampling.batch_size=8", "--config.sampling.images_per_class=2"]
    table = write_table(tmp_path, good_rows())
    completed = launch(*flags, f"--config.dataset.manifest={table}")
    assert (completed.returncode, completed.stderr) == (0, "")

    table = write_table(tmp_path, good_rows() | {"\u00e9x.png": (None, "t0", "train")})
    # An ASCII locale and a terminal that accepts only ASCII.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    env |= {"PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set this variable in this process
    completed = subprocess.run(
        [sys.executable, "launch.py", *flags, f"--config.dataset.manifest={table}"],
        cwd=_ROOT,
        text=True,
        capture_output=True,
        check=False,
        env=env,
    )
    assert (completed.returncode, completed.stderr) == (1, "")
    assert r"\xe9x.png" in completed.stdout
