"""Imports TensorFlow for this package, without changing its settings."""

import contextlib

import tensorflow as tf

__all__ = ["hide_devices", "tf"]


def hide_devices() -> None:
    """Hides GPUs from TensorFlow in this process, if it has not used them yet.

    For programs that use them in JAX only: TensorFlow may allocate all of their memory.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
