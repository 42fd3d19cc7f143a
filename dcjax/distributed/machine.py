"""Process-wide settings that must be made before JAX or TensorFlow is imported.

Only a program may make them, so `launch.py` does. The library never does, but for the messages of
TensorFlow while it is imported.
"""

import contextlib
import glob
import logging
import os
import pathlib
import sys
from collections.abc import Iterator

_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/accel*", "/dev/vfio/[0-9]*")
# TensorFlow prints a long message if it uses oneDNN, whatever the level of its log.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
# TensorFlow imports Keras, which takes a third of the time and is not used here, unless this asks
# for legacy Keras, which is not installed. It looks again if a program uses tf.keras.
_WITHOUT_KERAS = {"TF_USE_LEGACY_KERAS": "1"}
_leaves_devices_to_jax = False


def use_utf8() -> None:
    """Restarts the program in Python's UTF-8 mode if the encoding of the locale is ASCII.

    TensorFlow and Orbax use UTF-8 for names of files; Python would refuse letters beyond ASCII.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def accelerators() -> list[str]:
    """Returns the device files of GPUs and TPUs."""
    return [path for pattern in _ACCELERATORS for path in glob.glob(pattern)]


def choose_platform(virtual_devices: int) -> None:
    """Selects the CPU if there is no accelerator, or if virtual devices are wanted."""
    if virtual_devices:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_NUM_CPU_DEVICES"] = str(virtual_devices)
    elif not accelerators():  # jax[cuda] would warn that there is no GPU
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def keep_quiet() -> None:
    """Silences start-up messages of libraries, and logged errors that are raised or counted anyway.

    JAX would set the level of TensorFlow's log when it is imported.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("absl").addFilter(is_not_of_orbax)


def leave_devices_to_jax() -> None:
    """Keeps GPUs from TensorFlow, which may allocate all of their memory, when it is imported."""
    global _leaves_devices_to_jax
    _leaves_devices_to_jax = True


def leaves_devices_to_jax() -> bool:
    """Returns whether TensorFlow is to see no GPU."""
    return _leaves_devices_to_jax


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Imports TensorFlow in the block quickly and silently; the environment is as before after it.

    TensorFlow reads these variables once, so it stays without oneDNN, as in `launch.py`, unless the
    program has imported it before or has set them.
    """
    wanted = _QUIET | _WITHOUT_KERAS
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns whether a log record is not of Orbax, which also raises the errors that it logs."""
    return "orbax" not in pathlib.PurePath(record.pathname).parts


def keep_compilations() -> None:
    """Enables JAX's compilation cache on disk, for later runs."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):  # not so for a user without a home
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "dcjax"))
        # Small programs too, of which a start has dozens: JAX keeps those that took a second.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
