"""Resizes the shorter side of images and crops the middle on the devices, as `augment` does.

For exported networks, whose images have a height and a width that are not known yet.
"""

import jax
import jax.numpy as jnp

from dcjax.data import crops


def center_crops(images: jax.Array, *, resize: int, size: int) -> jax.Array:
    """Returns the centre crops of images after their shorter side is resized.

    Only the pixels of the crop are computed, each as the mean under a triangle, rounded half to
    even. Images of size x size pixels are crops already, and returned as they are.

    Args:
      images: uint8 [n, h, w, 3]; n, h and w may be symbolic.
      resize: shorter side in pixels before the crop.
      size: side of the crop in pixels.

    Returns:
      uint8 [n, size, size, 3].
    """
    whole = jnp.stack([jnp.asarray(side, jnp.int32) for side in images.shape[1:3]])
    short = jnp.min(whole)
    # The same middle as `augment.resize_shorter_side` takes.
    longest = jnp.where(short < resize, crops.longest_aspect(resize) * short - whole % 2, whole)
    kept = jnp.minimum(whole, longest)
    sides = resize * kept // short
    scale = sides.astype(jnp.float32) / kept.astype(jnp.float32)
    corner = jnp.round((sides - size).astype(jnp.float32) / 2)
    shift = -corner - ((whole - kept) // 2).astype(jnp.float32) * scale
    is_crop = jnp.all(whole == size)
    resized = jax.image.scale_and_translate(
        images.astype(jnp.float32),
        (images.shape[0], size, size, 3),
        (1, 2),
        jnp.where(is_crop, 1.0, scale),
        jnp.where(is_crop, 0.0, shift),
        "bilinear",
        antialias=True,
    )
    return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)
