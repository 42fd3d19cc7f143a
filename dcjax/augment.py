"""Cuts, resizes and mirrors images in TensorFlow, one by one, as `crops` has drawn.

Images are uint8[h, w, 3] in, uint8[size, size, 3] out. This is also the module that imports
TensorFlow for the pipeline, so that it is quieted in one place.
"""

import contextlib
import os
from collections.abc import Callable

from dcjax.crops import Augmentation, Draws

# Before the import: TensorFlow greets at length, and tells of errors that are raised anyway.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

# The devices belong to JAX. A caller who has used TensorFlow before has made his choice.
with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")

Augment = Callable[[tf.Tensor, Draws], tf.Tensor]


def create(augmentation: Augmentation) -> Augment:
    """Returns the function (image, draws) -> image that crops and then flips.

    The draws are those of one image: factors float32[10, 2], place float32[2], flip bool[].
    """
    size = augmentation.size

    def augment(image: tf.Tensor, draws: Draws) -> tf.Tensor:
        if augmentation.crop == "random_resized":
            image = resize(cut(image, *random_resized_box(augmentation, image, draws)), size, size)
        else:
            sides = tf.constant([size, size])
            image = cut(image, _corner(draws.place, height_width(image) - sides), sides)
        return tf.cond(draws.flip, lambda: tf.reverse(image, [1]), lambda: image)

    return augment


def random_resized_box(
    augmentation: Augmentation, image: tf.Tensor, draws: Draws
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns corner int32[2] and sides int32[2] of a random area of random aspect.

    The first of ten draws that fits into the image counts; if none does, the centre is taken, as
    large as `ratio` allows (Szegedy et al. 2015). `crops.boxes` does the same for many images.
    """
    whole = height_width(image)
    exact = tf.cast(whole, tf.float64)
    root = tf.sqrt(exact[0] * exact[1])
    candidates = tf.cast(tf.round(root * tf.cast(draws.factors, tf.float64)), tf.int32)
    fits = tf.reduce_all((candidates > 0) & (candidates <= whole), axis=1)
    sides = candidates[tf.argmax(fits)]  # argmax returns the first of equals
    most = tf.constant(augmentation.most, tf.float64)
    central = tf.clip_by_value(tf.cast(tf.round(exact[::-1] * most), tf.int32), 1, whole)
    any_fits = tf.reduce_any(fits)
    corner = tf.where(any_fits, _corner(draws.place, whole - sides), (whole - central) // 2)
    return corner, tf.where(any_fits, sides, central)


def resize_shorter_side(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes the shorter side to `size` and the other one to int(size * long / short)."""
    whole = height_width(image)
    sides = size * whole // tf.reduce_min(whole)
    return resize(image, sides[0], sides[1])


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Crops size x size from the middle; an odd rest is halved to the even corner."""
    # tf.round, like Python's and so the papers' transform, rounds a half to the even number.
    corner = tf.cast(tf.round((height_width(image) - size) / 2), tf.int32)
    return cut(image, corner, tf.constant([size, size]))


def cut(image: tf.Tensor, corner: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Returns the box of an image with this top left corner and these sides, int32[2] each."""
    return tf.slice(image, tf.concat([corner, [0]], 0), tf.concat([sides, [3]], 0))


def resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Resizes bilinearly, with antialias: means under a triangle, rounded half to even."""
    resized = tf.image.resize(image, tf.stack([height, width]), "bilinear", antialias=True)
    return tf.cast(tf.round(resized), tf.uint8)


def height_width(image: tf.Tensor) -> tf.Tensor:
    """Returns the size of an image, int32[2]."""
    return tf.shape(image)[:2]


def _corner(place: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    # Uniform in 0..free, both ends included: in float64 the product is exact.
    return tf.cast(tf.cast(place, tf.float64) * tf.cast(free + 1, tf.float64), tf.int32)
