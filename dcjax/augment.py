"""Augmentations of the Standard recipe (PAMI 2021, section 4.2): crop and flip, image by image.

Every function is stateless: its pixels depend on the image and the seed alone. Images are
uint8[h, w, 3] in, uint8[size, size, 3] out; a seed is int32[2]. This is also the module that
imports TensorFlow for the pipeline, so that it is quieted in one place.
"""

import contextlib
import os
from collections.abc import Callable

# Before the import: TensorFlow greets at length, and tells of errors that are raised anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

# The devices belong to JAX. A caller who has used TensorFlow before has made his choice.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_CROPS = ("random_resized", "resize_then_random")
_ATTEMPTS = 10


def create(
    crop: str,
    *,
    size: int,
    resize: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
) -> Augment:
    """Returns the function (image, seed) -> image that crops and then flips.

    Args:
      crop: "random_resized" (as both releases do) or "resize_then_random" (as both papers say).
      size: Side of the output in pixels.
      resize: Shorter side before a "resize_then_random" crop, in pixels.
      scale: Least and greatest area of a "random_resized" crop, as a share of the image.
      ratio: Least and greatest width / height of a "random_resized" crop.
      flip: Whether to mirror every second image, left to right.
    """
    if crop not in _CROPS:
        raise ValueError(f"Unknown crop {crop!r}; known crops are {', '.join(_CROPS)}.")
    if len(scale) != 2 or len(ratio) != 2:
        raise ValueError(f"Require two numbers each, got scale={scale} and ratio={ratio}.")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"Require 0 < scale[0] <= scale[1] <= 1, got scale={scale}.")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"Require 0 < ratio[0] <= ratio[1], got ratio={ratio}.")
    if crop == "resize_then_random" and resize < size:
        raise ValueError(f"Require resize >= size, got resize={resize} and size={size}.")

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.split(seed, 2)
        if crop == "random_resized":
            image = random_resized_crop(image, seeds[0], size=size, scale=scale, ratio=ratio)
        else:
            image = resize_then_random_crop(image, seeds[0], resize=resize, size=size)
        return random_flip(image, seeds[1]) if flip else image

    return augment


def random_resized_crop(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tf.Tensor:
    """Crops a random area of random aspect, then resizes it (Szegedy et al. 2015).

    The area is uniform in `scale`, the logarithm of the aspect is uniform in `ratio`. The first
    of ten draws that fits into the image counts; if none does, the centre is taken, as large as
    `ratio` allows.
    """
    seeds = tf.random.split(seed, 3)
    height, width = _height_width(image)
    area = tf.cast(height * width, tf.float32) * _uniform(seeds[0], [_ATTEMPTS], *scale)
    log_ratio = tf.math.log(tf.constant(ratio, tf.float32))
    aspect = tf.exp(_uniform(seeds[1], [_ATTEMPTS], log_ratio[0], log_ratio[1]))
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))  # argmax returns the first of equals
    free = tf.stack([height - heights[first], width - widths[first]])
    random_box = tf.concat([_corner(seeds[2], free), [heights[first], widths[first]]], 0)
    box = tf.cond(
        tf.reduce_any(fits), lambda: random_box, lambda: _central_box(height, width, ratio)
    )
    cropped = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], 3])
    return _resize(cropped, size, size)


def resize_then_random_crop(
    image: tf.Tensor, seed: tf.Tensor, *, resize: int, size: int
) -> tf.Tensor:
    """Resizes the shorter side to `resize` pixels, then crops size x size at a random place."""
    image = resize_shorter_side(image, resize)
    height, width = _height_width(image)
    corner = _corner(seed, tf.stack([height - size, width - size]))
    return tf.slice(image, tf.concat([corner, [0]], 0), [size, size, 3])


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors the image left to right with probability one half."""
    return tf.where(_uniform(seed, [], 0.0, 1.0) < 0.5, tf.reverse(image, [1]), image)


def resize_shorter_side(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes the shorter side to `size` and the other one to int(size * long / short)."""
    height, width = _height_width(image)
    shorter = tf.minimum(height, width)
    return _resize(image, size * height // shorter, size * width // shorter)


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Crops size x size from the middle; an odd rest is halved to the even corner."""
    height, width = _height_width(image)
    # tf.round, like Python's and so the papers' transform, rounds a half to the even number.
    corner = tf.cast(tf.round(tf.stack([height - size, width - size, 0]) / 2), tf.int32)
    return tf.slice(image, corner, [size, size, 3])


def _resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    resized = tf.image.resize(image, tf.stack([height, width]), "bilinear", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _central_box(height: tf.Tensor, width: tf.Tensor, ratio: tuple[float, float]) -> tf.Tensor:
    h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    wide = tf.minimum(width, tf.cast(tf.round(h * ratio[1]), tf.int32))
    high = tf.minimum(height, tf.cast(tf.round(w / ratio[0]), tf.int32))
    return tf.stack([(height - high) // 2, (width - wide) // 2, high, wide])


def _corner(seed: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    # Uniform in 0..free, both ends included.
    place = _uniform(seed, [2], 0.0, 1.0) * tf.cast(free + 1, tf.float32)
    return tf.minimum(tf.cast(place, tf.int32), free)


def _uniform(seed: tf.Tensor, shape: list[int], low: float, high: float) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, low, high)


def _height_width(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.shape(image)
    return shape[0], shape[1]
