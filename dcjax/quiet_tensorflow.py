"""Imports TensorFlow for all who read images: without its greetings, and off the devices."""

import contextlib
import os

# Before the import: TensorFlow greets at length, and tells of errors that are raised anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

__all__ = ["tf"]

# The devices belong to JAX. A caller who has used TensorFlow before has made his choice.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")
