"""Which libraries each use of dcjax imports: what is large comes only where it is needed."""

import re
import subprocess
import sys
from pathlib import Path

import small_runs

_ROOT = Path(__file__).parents[1]
_LARGE = {
    *("flax", "jax", "keras", "matplotlib", "numpy", "optax", "orbax", "pyarrow", "scipy"),
    *("sklearn", "starlette", "tensorflow", "tensorflow_datasets"),
}
_SETTINGS = [f"--config.{key}={value}" for key, value in small_runs.TINY.items()]
_LINE = re.compile(r"import time: .*\| *([\w.]+)$", re.M)


def _imported(*arguments: str, code: int = 0) -> tuple[set[str], int]:
    """Returns the large libraries that a new Python imports, and the number of all modules."""
    # Python itself lists them, since a program that ends at a wrong flag runs nothing afterwards.
    command = [sys.executable, "-X", "importtime", *arguments]
    ended = subprocess.run(command, cwd=_ROOT, text=True, capture_output=True, check=False)
    modules = set(_LINE.findall(ended.stderr))
    assert ended.returncode == code, ended.stderr[-2000:]
    assert "site" in modules
    return _LARGE & {name.partition(".")[0] for name in modules}, len(modules)


def test_help_and_a_wrong_flag_import_no_large_library() -> None:
    for flags, code in ((["--help"], 0), (["--config=configs/digits.py", "--wrokdir=x"], 2)):
        libraries, num_modules = _imported("launch.py", *flags, code=code)
        assert not libraries
        assert num_modules < 500


def test_a_config_is_read_and_a_wrong_setting_is_found_without_jax() -> None:
    for flag in ("--config.trian.num_epochs=2", "--config.model.dropout=no"):
        libraries, num_modules = _imported("launch.py", "--config=configs/digits.py", flag, code=2)
        assert libraries == {"numpy"}
        assert num_modules < 900


def test_training_on_pixels_in_memory_imports_no_tensorflow(tmp_path: Path) -> None:
    flags = [*_SETTINGS, "--config.train.num_steps=1", f"--workdir={tmp_path}"]
    libraries, num_modules = _imported("launch.py", "--config=configs/digits.py", *flags)
    # Scikit-learn has the digits.
    assert libraries == {"flax", "jax", "numpy", "optax", "orbax", "scipy", "sklearn"}
    assert num_modules < 4000


def test_losses_come_with_jax_alone() -> None:
    assert _imported("-c", "import dcjax; dcjax.losses, dcjax.masks")[0] == {"jax", "numpy"}


def test_a_run_is_loaded_without_tensorflow() -> None:
    libraries, _ = _imported("-c", "import dcjax; dcjax.load")
    assert libraries == {"flax", "jax", "numpy", "optax", "orbax", "pyarrow", "scipy"}


def test_tensorflow_comes_without_keras_and_leaves_the_environment() -> None:
    text = (
        "import os; before = dict(os.environ);"
        "from dcjax.data.quiet_tensorflow import tf;"
        "assert dict(os.environ) == before and tf.image"
    )
    libraries, _ = _imported("-c", text)
    assert "tensorflow" in libraries
    assert "keras" not in libraries
