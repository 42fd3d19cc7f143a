"""The command line: what is wrong is said in one line, what is right runs to the end."""

import os
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
        (
            ["--config=configs/ablations/p21_table_2.py:moon"],
            ["launch.py: Unknown experiment 'moon'", "cub"],
        ),
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
        (["--config.dataset.name=cub", "--config.dataset.root=/nowhere"], ["/nowhere", ".tgz"]),
        (["--mode=evaluate", "--workdir=/nowhere"], ["/nowhere", "--workdir"]),
        (["--mode=evaluate", "--profile"], ["--profile", "training"]),
        (["--mode=check_data", "--profile"], ["--profile", "training"]),
        (["--mode=check_data", "--workdir=runs/a,runs/b"], ["one --workdir", "runs/b"]),
        (["--seeds=0,1"], ["--seeds", "--sweep"]),
        (["--sweep", "--mode=evaluate"], ["--sweep", "--mode"]),
        (["--sweep"], ["sweep()", "configs/digits.py"]),
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
