"""Processes in which the large libraries are already imported, since importing takes seconds."""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

_ROOT = Path(__file__).parents[1]
_LARGE = ["tensorflow", "jax", "flax.linen", "optax", "orbax.checkpoint", "sklearn.cluster"]
_LARGE += ["ml_collections.config_flags", "absl.app", "scipy.optimize"]
_OURS = ["dcjax.modes.train", "configs.default"]
# The parent has imported these modules and done nothing else, so JAX and TensorFlow have no threads
# there yet. `dcjax/distributed/machine.py` says why the variables are set before the imports.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LARGE + _OURS)
_BEFORE_IMPORT = {
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


class Fork:
    """A process that runs a function of a module."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts it."""
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name) / name for name in ("output", "errors")]
        self._process = _CONTEXT.Process(target=_run, args=(self._texts, function, arguments))
        with mock.patch.dict(os.environ, _BEFORE_IMPORT):
            self._process.start()

    def wait_for(self, text: str, seconds: float = 240) -> str:
        """Waits until the output has a text, and returns the output."""
        end = time.monotonic() + seconds
        while text not in (output := self._texts[0].read_text() if self._texts[0].exists() else ""):
            if not self._process.is_alive() or time.monotonic() > end:
                raise AssertionError(f"No {text!r} in {output!r}; {self.finish(0)}")
            time.sleep(0.05)
        return output

    def interrupt(self) -> None:
        """Sends SIGINT, as Ctrl-C does."""
        os.kill(self._process.pid or 0, signal.SIGINT)

    def finish(self, seconds: float = 240) -> tuple[int, str, str]:
        """Waits, kills the process after `seconds`; returns exit code, output and errors."""
        try:
            self._process.join(seconds)
        finally:  # also when the test is interrupted
            self._process.kill()
            self._process.join()
        output, errors = (path.read_text() for path in self._texts)
        self._folder.cleanup()
        return self._process.exitcode or 0, output, errors


def start(*flags: str) -> Fork:
    """Starts `python launch.py` with flags."""
    return Fork(_launch, flags, _ROOT, {})


def launch(
    *flags: str, folder: Path = _ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python launch.py` with flags in a folder, and returns the completed process.

    Variables that Python and JAX read when they start cannot be set by `environment`.
    """
    ended = Fork(_launch, flags, folder, environment).finish()
    return subprocess.CompletedProcess(flags, *ended)


def _launch(flags: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [str(_ROOT), *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    sys.argv[1:] = flags
    import dcjax

    # The parent has imported it from the folder where the tests were started.
    assert Path(dcjax.__file__).is_relative_to(_ROOT)
    runpy.run_path(os.path.relpath(_ROOT / "launch.py", folder), run_name="__main__")


def _run(texts: list[Path], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # what the parent has imported, half a million objects
    for number, path in enumerate(texts, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # not done by a process of multiprocessing
