"""Imports TensorFlow for this package, without its start-up messages."""

import contextlib

from dcjax.distributed import machine

with machine.quiet_import():
    import tensorflow as tf

__all__ = ["tf"]

if machine.leaves_devices_to_jax():
    with contextlib.suppress(RuntimeError):  # it has used them already
        tf.config.set_visible_devices([], "GPU")
