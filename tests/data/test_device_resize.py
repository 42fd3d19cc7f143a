"""Crops that JAX computes are those of the pipeline."""

import functools

import jax
import numpy as np
import pytest

from dcjax.data import augment, device_resize


@pytest.mark.parametrize(
    ("height", "width"),
    [(64, 64), (300, 401), (31, 47), (47, 31), (224, 56), (57, 56), (3, 2), (1, 900), (48, 48)],
)
def test_crops_equal_those_of_the_pipeline(height: int, width: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    crop = jax.jit(functools.partial(device_resize.center_crops, resize=56, size=48))
    found = np.asarray(crop(images)).astype(int)
    if height == width == 48:  # crops already
        np.testing.assert_array_equal(found, images)
        return
    resized = (augment.resize_shorter_side(image, 56) for image in images)
    expected = np.stack([augment.center_crop(image, 48).numpy() for image in resized])
    difference = np.abs(found - expected.astype(int))
    assert difference.max() <= 1  # where a mean is near a half
    assert np.mean(difference > 0) < 0.001
