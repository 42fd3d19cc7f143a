"""The command line: user errors end in one line; valid commands run to the end."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import flax
import jax
import pytest
from forks import launch

import dcjax

_ROOT = Path(__file__).parents[2]


def _start(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs launch.py in a new process, as a user does."""
    return subprocess.run(
        [sys.executable, "launch.py", *flags],
        cwd=_ROOT,
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.bach_size=3"], ["bach_size"]),
        (["--config.trian.num_epochs=2"], ["trian.num_epochs", "nearest is train.num_epochs"]),
        (
            ["--config.model.own.x=1"],
            ["model.own.x", "it is model.custom.x now, which the config does not have"],
        ),
        (["--config.train=5"], ["config.train", "group", "train.num_epochs"]),
        (["--config.seed=1", "--config.seed=2"], ["--config.seed=1", "--config.seed=2"]),
        (["--config.eval.ks", "x", "y"], ["'y'"]),
        (["--config"], ["--config"]),
        (["--config=configs/digits.py:more"], ["get_config", "configs/digits.py:more"]),
        (["--virtual_devices=-1"], ["--virtual_devices", "1024"]),
        (["--config.sampling.bach_size=3"], ["batch_size", "bach_size"]),
        (["--config.sampling.batch_size=many"], ["sampling.batch_size", "many"]),
        (["--config.model.dropout=no"], ["model.dropout", "no"]),
        (["--mode=report", "--distributed=on"], ["--distributed=on", "one process"]),
        (["--mode=check_data", "--num_processes=2"], ["--num_processes", "one process"]),
        (["--mode=dance"], ["mode", "train", "evaluate"]),
        (["stray"], ["stray"]),
        (["--confg=configs/digits.py"], ["confg"]),
        (
            ["--config=configs/ablations/p21_table_2.py:moon"],
            ["launch.py: Unknown experiment 'moon'", "cub"],
        ),
    ],
)
def test_wrong_flag_ends_in_one_line_with_code_2(flags: list[str], words: list[str]) -> None:
    completed = launch("--config=configs/digits.py", *flags)
    assert completed.returncode == 2
    (line,) = completed.stderr.strip().splitlines()
    assert all(word in line for word in words)


@pytest.mark.parametrize("place", ["configs/nothing.py", "configs/", "README.md", ""])
def test_missing_config_ends_in_one_line_with_code_2(place: str) -> None:
    completed = launch(f"--config={place}")
    assert completed.returncode == 2
    (line,) = completed.stderr.strip().splitlines()
    assert repr(place) in line
    assert "configs/" in line


def test_error_without_config_says_which_flag_to_give() -> None:
    completed = _start()
    assert completed.returncode == 2
    assert "--config=configs/" in completed.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--config.dataset.name=moon"], 2, ["dataset.name", "moon", "cub", "digits"]),
        (["--config.devices.cluster_parallel=-1"], 2, ["devices.cluster_parallel", "-1"]),
        (["--config.model.width=1000000000000", "--mode=check_data"], 2, ["model.width"]),
        (["--workdir=s3://bucket/run"], 2, ["s3://bucket/run", "gs://BUCKET/FOLDER"]),
        (["--mode=evaluate", "--profile"], 2, ["--profile", "--mode=train"]),
        (["--mode=check_data", "--profile"], 2, ["--profile", "--mode=train"]),
        (["--trust_custom_code"], 2, ["--trust_custom_code", "--mode=evaluate"]),
        (["--images=a"], 2, ["--images", "--mode=embed", "--mode=train"]),
        (["--output=a"], 2, ["--output", "--mode=embed or --mode=score or --mode=export"]),
        (["--mode=embed", "--ks=1"], 2, ["--ks", "--mode=score", "--mode=embed"]),
        (["--mode=embed", "--images="], 2, ["--images", "''"]),
        (["--mode=embed", "--workdir=a", "--workdir=b"], 2, ["one --workdir", "a, b"]),
        (["--mode=embed"], 1, ["No checkpoint in", "/run", "--workdir"]),
        (["--mode=score", "--embeddings=x.npy"], 2, ["--workdir", "--mode=score"]),
        (["--mode=export", "--workdir=/nowhere"], 1, ["/nowhere", "--workdir"]),
        (["--mode=check_data", "--workdir=a", "--workdir=b"], 2, ["one --workdir", "a, b"]),
        (["--seeds=0,1"], 2, ["--seeds", "--sweep"]),
        (["--sweep", "--mode=evaluate"], 2, ["--sweep", "--mode"]),
        (["--sweep", "--until=decided", "--margin=1"], 2, ["got no --budget"]),
        (["--until=decided"], 2, ["Only a sweep takes --until"]),
        (["--sweep"], 2, ["sweep()", "configs/digits.py"]),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], 2, ["HOST:PORT", "here"]),
        (["--config.dataset.name=cub", "--config.dataset.root=/nowhere"], 1, ["/nowhere", ".tgz"]),
        (["--mode=evaluate", "--workdir=/nowhere,/naught"], 1, ["/nowhere, /naught", "--workdir"]),
        (["--workdir=README.md/run"], 1, ["--workdir=README.md/run", "folder"]),
    ],
)
def test_user_errors_end_in_one_line_with_their_exit_code(
    flags: list[str], code: int, words: list[str], tmp_path: Path
) -> None:
    if not any(flag.startswith("--workdir") for flag in flags):
        flags = [*flags, f"--workdir={tmp_path}/run"]
    completed = launch("--config=configs/digits.py", *flags)
    assert completed.returncode == code
    (line,) = completed.stderr.strip().splitlines()
    assert line.startswith("launch.py: ")
    assert all(word in line for word in words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, ["--embeddings=FILE", "got none"]),
        (["--embeddings=a,b,c"], 2, ["--embeddings=FILE,GALLERY", "a,b,c"]),
        (["--embeddings=a.npy", "--ks=1,0"], 2, ["--ks", "1,0"]),
        (["--embeddings=a.npy", "--config.eval.ks=(1,)"], 2, ["eval.ks", "--ks", "eval.protocol"]),
        (["--embeddings=a.npy", "--config.eval.gallery_draws=0"], 2, ["eval.gallery_draws"]),
        (["--embeddings=a.h5"], 2, [".parquet", ".npy", "a.h5"]),
        (["--embeddings=a.npy"], 1, ["a.npy", "correct --embeddings"]),
    ],
)
def test_what_cannot_be_scored_ends_in_one_line_with_its_code(
    flags: list[str], code: int, words: list[str]
) -> None:
    ended = launch("--mode=score", *flags)
    assert ended.returncode == code
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("launch.py: ")
    assert all(word in line for word in words)


def test_help_shows_the_flags() -> None:
    completed = _start("--help")
    assert completed.returncode == 0
    assert completed.stdout.startswith("python launch.py --config=")
    assert "\n  --config: " in completed.stdout


def test_version_flag_prints_versions_and_platform() -> None:
    completed = _start("--version")
    assert completed.returncode == 0
    first, second = completed.stdout.splitlines()
    versions = (f"dcjax {dcjax.__version__}", f"Python {platform.python_version()}")
    assert first.startswith(", ".join((*versions, f"jax {jax.__version__}, ")))
    assert first.endswith(f"flax {flax.__version__}")
    assert second == platform.platform()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--mode=dance"], 2),
        (["--a"], 2),
        (["--mode=score"], 2),
        (["--mode=embed", "--nmi"], 2),
    ],
)
def test_help_and_wrong_flags_import_no_large_library(
    flags: list[str], code: int, tmp_path: Path
) -> None:
    for name in ("jax", "flax", "orbax", "tensorflow"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('has been imported')")
    completed = _start(*flags, PYTHONPATH=str(tmp_path))
    assert completed.returncode == code, completed.stderr


_PARTS = """
import pathlib
from flax import linen as nn

class Backbone(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        raise {error}

def backbone(*, dtype):
    return Backbone()
"""


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("ValueError('wrong reshape')", "ValueError: wrong reshape"),
        ("OSError(2, 'no such file', 'weights')", "FileNotFoundError: "),
    ],
)
def test_traceback_of_custom_code_is_shown_and_logged(
    error: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "parts.py").write_text(_PARTS.format(error=error))
    flags = ["--config.model.backbone=parts:backbone", f"--workdir={tmp_path}/run"]
    completed = launch("--config=configs/digits.py", *flags, PYTHONPATH=str(tmp_path))
    assert completed.returncode == 1
    *trace, last = completed.stderr.strip().splitlines()
    assert last == f"launch.py: The traceback is kept in {tmp_path}/run/error.log."
    kept = (tmp_path / "run" / "error.log").read_text()
    for text in ("\n".join(trace), kept):
        assert f'File "{tmp_path}/parts.py", line 8, in __call__' in text
        assert name in text
    assert "launch.py --config=configs/digits.py --config.model.backbone=parts:backbone" in kept


def test_error_in_a_config_file_shows_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_like_it\n")
    completed = launch(f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run")
    assert completed.returncode == 1
    assert f'File "{tmp_path}/mine.py", line 1' in completed.stderr
    assert "No module named 'nothing_like_it'" in completed.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "config.json does not hold the settings"),
        ("[1]", "config.json does not hold the settings of a run (it holds a list"),
        ('{"a": ', "config.json does not hold the settings"),
    ],
)
def test_damaged_config_json_is_reported_in_one_line(
    content: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    completed = launch("--mode=evaluate", f"--workdir={tmp_path}")
    assert completed.returncode == 2
    (line,) = completed.stderr.strip().splitlines()
    assert words in line
    assert str(tmp_path) in line


def test_workdir_may_contain_a_comma_and_a_tilde(tmp_path: Path) -> None:
    (tmp_path / "one,two").mkdir()
    given = ["--workdir=~/one,two", "--workdir=~/three,~/four"]
    completed = launch("--mode=evaluate", *given, HOME=str(tmp_path))
    assert completed.returncode == 1
    assert "No checkpoint in ~/one,two, ~/three, ~/four; " in completed.stderr
    made = launch("--mode=check_data", "--config=configs/digits.py", given[0], HOME=str(tmp_path))
    assert made.returncode == 0
    assert (tmp_path / "one,two" / "check_data.csv").is_file()


def test_closed_output_pipe_is_no_error() -> None:
    sweep = f'"{sys.executable}" launch.py --config=configs/ablations/p21_table_1.py:digits --sweep'
    completed = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sweep} --dry_run --workdir=none | head -1"],
        cwd=_ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.startswith("python launch.py --config=configs/ablations/p21_table_1.py")


def test_device_flags_take_effect_although_configs_import_jax() -> None:
    program = (
        "import sys; from dcjax.modes import command_line; command_line._parse(sys.argv); "
        "import jax; print(jax.device_count('cpu'))"
    )
    flags = ["--config=configs/digits.py", "--virtual_devices=3"]
    command = [sys.executable, "-c", program, *flags]
    assert subprocess.check_output(command, cwd=_ROOT, text=True).strip() == "3"
