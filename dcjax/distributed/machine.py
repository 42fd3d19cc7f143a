"""What JAX and TensorFlow have to know of this machine before they are imported.

It holds for the whole process, so it is for a program to decide: `launch.py` calls this, the
package never does.
"""

import glob
import logging
import os
import pathlib
import sys

_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/accel*", "/dev/vfio/[0-9]*")


def use_utf8() -> None:
    """Starts the program anew in Python's UTF-8 mode, if the locale knows ASCII alone.

    Names of files, which are UTF-8 for TensorFlow and Orbax, could else not hold other letters.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def accelerators() -> list[str]:
    """Returns the device files of GPUs and TPUs."""
    return [path for pattern in _ACCELERATORS for path in glob.glob(pattern)]


def choose_platform(virtual_devices: int) -> None:
    """Computes on the CPU where nothing else is, or where virtual devices are asked for."""
    if virtual_devices:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_NUM_CPU_DEVICES"] = str(virtual_devices)
    elif not accelerators():  # for which jax[cuda] would look loudly
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def keep_quiet() -> None:
    """Keeps libraries from greeting, and from logging errors that are raised, or counted, anyway.

    TensorFlow greets at length where it has oneDNN.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # JAX would set it when it is imported
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.getLogger("absl").addFilter(is_not_of_orbax)


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns whether a line of the log is not Orbax's, which raises what it logs as errors."""
    return "orbax" not in pathlib.PurePath(record.pathname).parts


def keep_compilations() -> None:
    """Takes what XLA has compiled in an earlier run from a cache on disk."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):  # not so for a user without a home
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "dcjax"))
