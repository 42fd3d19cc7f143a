"""A look at the data names every bad file and says what to do; it fails where training would."""

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
from dcjax.experiment import build, inputs
from dcjax.modes import check_data

_ROOT = Path(__file__).parents[2]


def png(pixels: np.ndarray) -> bytes:
    return tf.io.encode_png(pixels).numpy()


def jpeg(pixels: np.ndarray) -> bytes:
    return tf.io.encode_jpeg(pixels).numpy()


WEBP = bytes.fromhex(  # 8 x 8 pixels of one grey, without loss
    "524946461e000000574542505650384c110000002f07c001000750ad6a55abff8188e87f0000"
)


def write_table(folder: Path, rows: dict[str, tuple[bytes | None, str, str]]) -> str:
    """Writes files (None: none) and their table of path, label and split."""
    for name, (content, _, _) in rows.items():
        if content is not None:
            (folder / name).write_bytes(content)
    lines = [f"{name},{label},{split}\n" for name, (_, label, split) in rows.items()]
    content = "path,label,split\n" + "".join(lines)
    (folder / "table.csv").write_text(content, encoding="utf-8")
    return str(folder / "table.csv")


def good(num_train: int = 4, num_test: int = 3) -> dict[str, tuple[bytes | None, str, str]]:
    """Three images of each class."""
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


def listed(workdir: Path) -> dict[str, tuple[str, str, str, str]]:
    """Returns split, class, problem and detail by name of the file; only reading fails."""
    with (workdir / "check_data.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "split", "class", "severity", "problem", "detail"]
    assert all((row[3] == "error") == (row[4] == "cannot be read") for row in rows[1:])
    return {Path(row[0]).name: tuple(row[1:3] + row[4:]) for row in rows[1:]}


def test_every_problem_is_named_with_what_to_do(tmp_path, capsys):
    picture = jpeg(noise(40, 40))
    bad = {
        "cut.jpg": (picture[: len(picture) // 2], "t0", "train"),
        "empty.jpg": (b"", "t1", "train"),
        "page.jpg": (b"<html>404</html>", "t2", "train"),
        "missing.jpg": (None, "t3", "train"),
        "webp.jpg": (WEBP, "t0", "train"),
        "deep.png": (png(noise(12, 12).astype(np.uint16) * 257), "t1", "train"),
        "alone.png": (png(noise(12, 12, seed=900)), "u9", "test"),
        "copy.png": (good()["t0_0.png"][0], "u0", "test"),
        "two_classes.png": (good()["t1_1.png"][0], "t2", "train"),
        "tiny.png": (png(noise(6, 20, seed=901)), "t3", "train"),
        "twice.png": (good()["u1_0.png"][0], "u1", "test"),
    }
    table = write_table(tmp_path, good() | bad)
    assert not check_data.check_data(config(table), str(tmp_path / "run"))
    found = listed(tmp_path / "run")
    assert set(found) == set(bad)
    for name in ("cut.jpg", "empty.jpg", "page.jpg", "missing.jpg"):
        assert found[name][2] == "cannot be read"
    assert "Input is empty" in found["empty.jpg"][3]
    assert found["webp.jpg"] == ("train", "t0", "the name says another format", "it is WebP")
    assert found["deep.png"][2:] == ("more than 8 bits a channel", "16 bits")
    assert found["alone.png"][:3] == ("query", "u9", "the only image of its class")
    assert found["copy.png"][2] == "the same picture is in two splits"
    assert found["copy.png"][3].endswith("t0_0.png (train, t0)")
    assert found["two_classes.png"][2] == "the same picture has two classes"
    assert found["twice.png"][2] == "the same picture is there twice"
    assert found["tiny.png"][2:] == ("a side is shorter than dataset.crop", "20 x 6")
    told = capsys.readouterr().out
    assert all(name in told for name in bad)
    assert "error     4 images: cannot be read; replace or remove them" in told
    assert "result    training would fail" in told


def test_a_limit_on_pixels_is_that_of_training(tmp_path, capsys):
    large = {"large.png": (png(noise(40, 30)), "t0", "train")}
    limited = config(write_table(tmp_path, good() | large), **{"dataset.max_pixels": 1199})
    assert not check_data.check_data(limited, str(tmp_path / "run"))
    reason = "It has 30 x 40 pixels, more than dataset.max_pixels=1,199; make it smaller"
    assert reason in listed(tmp_path / "run")["large.png"][3]
    with pytest.raises(ValueError, match=f"large.png: {reason}"):
        inputs.load_splits(limited.dataset)
    images = inputs.load_index(limited.dataset).train
    reader = build.Network(limited, devices.create_mesh()).stream(images)
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


def test_no_weights_are_needed(tmp_path):
    table = write_table(tmp_path, good())
    assert check_data.check_data(config(table, **{"model.batch_norm": "frozen"}), str(tmp_path))


def test_what_is_left_out_is_no_error(tmp_path, capsys):
    bad = {"empty.png": (b"", "t1", "train")}
    table = write_table(tmp_path, good() | bad)
    settings = {"dataset.skip_unreadable": True}
    assert check_data.check_data(config(table, **settings), str(tmp_path))
    told = capsys.readouterr().out
    assert "warning   1 image: cannot be read" in told
    assert "result    training can begin\n" in told


def test_a_class_without_a_readable_image_is_an_error(tmp_path, capsys):
    rows = good() | {f"t0_{i}.png": (b"", "t0", "train") for i in range(3)}
    settings = {"dataset.skip_unreadable": True}
    assert not check_data.check_data(config(write_table(tmp_path, rows), **settings), str(tmp_path))
    assert "none in 1 classes, the first is 't0'" in capsys.readouterr().out


def test_good_data_are_told_so_in_a_table(tmp_path, capsys):
    table = write_table(tmp_path, good())
    assert check_data.check_data(config(table), str(tmp_path))
    told = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.split()}
    assert rows["train"] == ["12", "0", "4", "3", "3", "3", "12-16", "3"]
    assert rows["query"] == ["9", "0", "3", "3", "3", "3", "12-16", "3"]
    assert "result    training can begin; all is well" in told
    assert listed(tmp_path) == {}


def test_what_training_refuses_is_an_error(tmp_path, capsys):
    table = write_table(tmp_path, good(num_train=2))
    assert not check_data.check_data(config(table), str(tmp_path))
    told = capsys.readouterr().out
    assert "error     Every cluster needs two classes with two images" in told
    assert "result    training would fail\n" in told


def test_a_query_without_an_answer_is_named(tmp_path):
    rows = {
        name: (content, label, "query" if name.endswith("0.png") else "gallery")
        if split == "test"
        else (content, label, split)
        for name, (content, label, split) in good().items()
    }
    rows["lost.png"] = (png(noise(9, 9, seed=902)), "u9", "query")
    table = write_table(tmp_path, rows)
    assert check_data.check_data(config(table), str(tmp_path))
    assert listed(tmp_path)["lost.png"][2].startswith("a query without an image of its class")


def test_files_that_are_there_twice_are_all_listed_and_an_error(tmp_path, capsys):
    rows = good() | {
        "again.png": (None, "u0", "test"),
        "copy.png": (good()["u1_0.png"][0], "u1", "test"),
    }
    table = write_table(tmp_path, rows)
    os.link(tmp_path / "t0_0.png", tmp_path / "again.png")
    with open(table, "a") as file:
        file.write("./u2_0.png,u2,test\nt1_0.png,t1,train\n")
    assert not check_data.check_data(config(table), str(tmp_path / "run"))
    told = capsys.readouterr().out
    same = "the same file is in two splits, in two classes or twice in a test"
    assert f"error     2 images: {same}" in told
    assert f"{tmp_path}/again.png (query, u0): like {tmp_path}/t0_0.png (train, t0)" in told
    with (tmp_path / "run" / "check_data.csv").open(newline="") as file:
        found = {row["image"]: row["problem"] for row in csv.DictReader(file)}
    assert found == {
        f"{tmp_path}/again.png": same,
        f"{tmp_path}/u2_0.png": same,
        f"{tmp_path}/t1_0.png": "the same picture is there twice",
        f"{tmp_path}/copy.png": "the same picture is there twice",
    }


def test_many_problems_are_cut_short_but_for_the_file(tmp_path, capsys):
    rows = {f"x{i:02}.png": (png(noise(6, 6, seed=i)), f"t{i % 4}", "train") for i in range(25)}
    table = write_table(tmp_path, good() | rows)
    check_data.check_data(config(table), str(tmp_path))
    told = capsys.readouterr().out
    assert "x19.png" in told
    assert "x20.png" not in told
    assert "... and 5 more" in told
    assert len(listed(tmp_path)) == 25


def test_images_in_memory_are_looked_at_too(tmp_path, capsys):
    assert check_data.check_data(digits.get_config(), str(tmp_path))
    assert "901" in capsys.readouterr().out


def test_the_exit_code_tells_whether_training_would_fail(tmp_path):
    flags = ["--mode=check_data", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    flags += ["--config.dataset.name=manifest", "--config.eval.ks=1,2"]
    flags += ["--config.sampling.batch_size=8", "--config.sampling.images_per_class=2"]
    table = write_table(tmp_path, good())
    ended = launch(*flags, f"--config.dataset.manifest={table}")
    assert (ended.returncode, ended.stderr) == (0, "")

    table = write_table(tmp_path, good() | {"\u00e9x.png": (None, "t0", "train")})
    # A plain locale, and a terminal that takes nothing else.
    env = os.environ | {"JAX_PLATFORMS": "cpu", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    env |= {"PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it in this process
    ended = subprocess.run(
        [sys.executable, "launch.py", *flags, f"--config.dataset.manifest={table}"],
        cwd=_ROOT,
        text=True,
        capture_output=True,
        check=False,
        env=env,
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    assert r"\xe9x.png" in ended.stdout
