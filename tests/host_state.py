"""Loads a run and checks that the process state is unchanged: python FILE WORKDIR.

Libraries are imported before the first snapshot, since imports may change the state.
"""

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import absl.logging
import flax.linen  # noqa: F401
import jax
import numpy as np
import orbax.checkpoint  # noqa: F401
import rich  # noqa: F401
import sklearn.cluster  # noqa: F401
import tensorboardX  # noqa: F401
import tensorflow as tf
import tensorflow_datasets  # noqa: F401
import threadpoolctl


def loggers() -> dict[str, Any]:
    loggers = {name: logging.getLogger(name) for name in ["", *logging.root.manager.loggerDict]}
    return {
        name: (x.level, x.disabled, x.propagate, list(x.filters), list(x.handlers))
        for name, x in loggers.items()
    }


def snapshot() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "umask": (os.umask(0o22), os.umask(0o22))[1],
        "loggers": loggers(),
        "logging": (logging.root.manager.disable, absl.logging.get_verbosity()),
        "warnings": list(warnings.filters),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "threads": [(x["filepath"], x["num_threads"]) for x in threadpoolctl.threadpool_info()],
        "jax": dict(jax.config.values),
        "tensorflow": (
            tf.config.get_visible_devices(),
            tf.config.threading.get_inter_op_parallelism_threads(),
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.functions_run_eagerly(),
            tf.random.get_global_generator().state.numpy().tolist(),
        ),
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "numpy": (np.geterr(), np.get_printoptions()),
        "python": (locale.setlocale(locale.LC_ALL), sys.getrecursionlimit(), gc.isenabled()),
    }


if __name__ == "__main__":
    jax.devices()
    before = snapshot()
    import dcjax

    embedder = dcjax.load(sys.argv[1])
    embedder(np.zeros((3, 8, 8, 3), np.uint8))
    embedder.evaluate()
    try:
        dcjax.load(f"{sys.argv[1]}/nowhere")
    except FileNotFoundError:
        after = snapshot()
    # Loggers of modules imported in between have Python's initial state.
    new = after["loggers"].keys() - before["loggers"].keys()
    assert all(after["loggers"].pop(name) == (0, False, True, [], []) for name in new)
    for key, value in before.items():
        assert after[key] == value, (key, value, after[key])
