"""Imports TensorFlow for all who read images, and leaves its settings to the program."""

import contextlib

import tensorflow as tf

__all__ = ["hide_devices", "tf"]


def hide_devices() -> None:
    """Hides GPUs from TensorFlow in this whole process, if it has not used them yet.

    For a program in which they belong to JAX alone: else, TensorFlow may take all their memory.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
