"""Imports TensorFlow for this package, without its start-up messages."""

import contextlib

from dcjax.distributed import machine

with machine.quiet_import():
    import tensorflow as tf

__all__ = ["hide_devices", "tf"]


def hide_devices() -> None:
    """Hides GPUs from TensorFlow in this process, if it has not used them yet.

    For programs that use them in JAX only: TensorFlow may allocate all of their memory.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
