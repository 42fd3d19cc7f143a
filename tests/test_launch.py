"""The command line: what is wrong is said in one line, what is right runs to the end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


def _launch(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launch.py", *flags],
        cwd=_ROOT,
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.bach_size=3"], ["bach_size"]),
        (["--config.sampling.bach_size=3"], ["batch_size", "bach_size"]),
        (["--config.sampling.batch_size=many"], ["sampling.batch_size", "many"]),
        (["--config.model.dropout=no"], ["model.dropout", "no"]),
        (["--mode=dance"], ["mode", "train", "evaluate"]),
        (["stray"], ["stray"]),
        (["--confg=configs/digits.py"], ["confg"]),
    ],
)
def test_a_wrong_flag_ends_in_one_line_with_code_2(flags: list[str], words: list[str]) -> None:
    ended = _launch("--config=configs/digits.py", *flags)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert all(word in line for word in words)


def test_a_missing_config_ends_in_one_line_with_code_2() -> None:
    ended = _launch("--config=configs/nothing.py")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "configs/nothing.py" in line


def test_no_config_says_what_to_give() -> None:
    ended = _launch()
    assert ended.returncode == 2
    assert "--config=configs/" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.dataset.name=moon"], ["moon", "cub", "digits"]),
        (["--config.dataset.name=cub", "--config.dataset.root=/nowhere"], ["/nowhere", "root"]),
        (["--mode=evaluate", "--workdir=/nowhere"], ["/nowhere", "--workdir"]),
        (["--mode=evaluate", "--profile"], ["--profile", "training"]),
    ],
)
def test_bad_data_ends_in_one_line_with_code_1(
    flags: list[str], words: list[str], tmp_path: Path
) -> None:
    ended = _launch("--config=configs/digits.py", f"--workdir={tmp_path}", *flags)
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("launch.py: ")
    assert all(word in line for word in words)


def test_cub_trains_and_is_evaluated_at_a_small_size_by_flags_alone(write_tree, tmp_path) -> None:
    classes = [*range(1, 9), *range(101, 105)]
    files = [(f"{c:03}.Bird/{c}_{i}.png", c) for c in classes for i in range(6)]
    lists = {
        "images.txt": "".join(f"{i} {name}\n" for i, (name, _) in enumerate(files, 1)),
        "image_class_labels.txt": "".join(f"{i} {c}\n" for i, (_, c) in enumerate(files, 1)),
        "classes.txt": "".join(f"{c} {c:03}.Bird\n" for c in classes),
    }
    root = write_tree(lists | {f"images/{name}": None for name, _ in files})
    workdir = tmp_path / "run"
    small = {
        "dataset.root": root,
        "dataset.complete": "false",
        "dataset.resize": 16,
        "dataset.crop": 16,
        "model.backbone": "resnet_small",
        "model.num_stages": 1,
        "model.width": 4,
        "model.batch_norm": "train",
        "model.embedding_dim": 16,
        "division.every_epochs": 1,
        "division.freeze_backbone_epochs": 0,
        "division.max_clusters": 2,
        "sampling.batch_size": 8,
        "train.num_epochs": 2,
        "eval.batch_size": 8,
        "eval.nmi_runs": 2,
    }
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    trained = _launch("--config=configs/cub.py", f"--workdir={workdir}", *flags)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    told = ["48 images of 8 classes", "24 images of 4 classes", "K = 2", "Result on unseen classes"]
    assert all(words in trained.stdout for words in told)

    evaluated = _launch("--mode=evaluate", f"--workdir={workdir}")
    assert evaluated.returncode == 0, evaluated.stderr
    last = next(line for line in trained.stdout.splitlines() if "last epoch (2)" in line)
    scores = re.findall(r"\d\.\d{4}", last)
    assert len(scores) == 8
    assert re.findall(r"\d\.\d{4}", evaluated.stdout) == scores
