"""Runs launch.py in processes of its own that have imported the large libraries already."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

_ROOT = Path(__file__).parents[1]
_LARGE = ["tensorflow", "jax", "flax.linen", "optax", "orbax.checkpoint", "sklearn.cluster"]
_LARGE += ["ml_collections.config_flags", "absl.app", "scipy.optimize"]
# Processes are forked from one that has imported these and done nothing else: JAX and TensorFlow
# have no threads there yet. `machine.py` says why these variables are set before an import.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LARGE)
_BEFORE_IMPORT = {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def launch(
    *flags: str, folder: Path = _ROOT, seconds: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python launch.py` with flags in a folder, and returns how it ended.

    What Python and JAX read when they are started cannot be given as `environment`.
    """
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place) / "output", Path(place) / "errors"
        process = _CONTEXT.Process(target=_run, args=(flags, folder, environment, output, errors))
        with mock.patch.dict(os.environ, _BEFORE_IMPORT):
            process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return subprocess.CompletedProcess(
            flags, process.exitcode or 0, output.read_text(), errors.read_text()
        )


def _run(
    flags: tuple[str, ...], folder: Path, environment: dict[str, str], output: Path, errors: Path
) -> None:
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [str(_ROOT), *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    sys.argv[1:] = flags
    runpy.run_path(os.path.relpath(_ROOT / "launch.py", folder), run_name="__main__")
