"""Crops, resizing and flips against slow NumPy versions and against what they promise."""

import numpy as np
import pytest

from dcjax import augment
from dcjax.augment import tf


def places(height: int, width: int) -> np.ndarray:
    """An image whose pixels say where they are: (row, column, 0)."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def slow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resizing, as two products with matrices of triangular weights."""

    def weights(new: int, old: int) -> np.ndarray:
        scale = old / new
        centers = (np.arange(new)[:, None] + 0.5) * scale
        distance = np.abs(np.arange(old)[None] + 0.5 - centers) / max(scale, 1)
        triangle = np.maximum(0, 1 - distance)
        return triangle / triangle.sum(1, keepdims=True)

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("hr,rwc,vw->hvc", rows, image.astype(float), columns)


def seeds(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**31, (n, 2)).astype(np.int32)


def assert_is_part(crop: np.ndarray) -> tuple[int, int, int, int]:
    """Checks that a crop of `places` is one block of it, and returns top, left, height, width."""
    top, left = (int(x) for x in crop[0, 0, :2])
    height, width = crop.shape[:2]
    inside = places(top + height, left + width)[top:, left:]
    np.testing.assert_array_equal(crop, inside)
    return top, left, height, width


@pytest.mark.parametrize(("height", "width"), [(37, 50), (61, 20), (20, 20), (8, 11)])
def test_shorter_side_is_resized_with_antialias_and_the_other_follows(height, width):
    image = noise(height, width)
    resized = augment.resize_shorter_side(image, 20).numpy()
    short, long = min(height, width), max(height, width)
    expected = (20, int(20 * long / short))
    assert resized.shape[:2] == (expected if height <= width else expected[::-1])
    assert resized.dtype == np.uint8
    np.testing.assert_allclose(resized, slow_resize(image, *resized.shape[:2]), atol=0.51)


def test_resizing_to_the_same_size_changes_nothing():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def resize(image):  # a size that is not known beforehand, as in the pipeline
        return augment.resize_shorter_side(image, 20)

    image = noise(20, 33)
    np.testing.assert_array_equal(resize(image), image)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(6, 8, 1, 2), (7, 9, 2, 2), (4, 5, 0, 0)]
)
def test_center_crop_halves_the_rest_as_the_papers_transform(height, width, top, left):
    crop = augment.center_crop(places(height, width), 4).numpy()
    assert assert_is_part(crop) == (top, left, 4, 4)


def test_random_flip_mirrors_half_of_the_images():
    image = noise(5, 4)
    flipped = [augment.random_flip(image, seed).numpy() for seed in seeds(200)]
    mirrored = sum(np.array_equal(x, image[:, ::-1]) for x in flipped)
    assert mirrored + sum(np.array_equal(x, image) for x in flipped) == 200
    assert 70 < mirrored < 130


def test_resize_then_random_crop_reaches_every_place():
    found = set()
    for seed in seeds(100):
        crop = augment.resize_then_random_crop(places(6, 7), seed, resize=6, size=4).numpy()
        found.add(assert_is_part(crop)[:2])
    assert found == {(top, left) for top in range(3) for left in range(4)}


def test_resize_then_random_crop_resizes_first():
    crop = augment.resize_then_random_crop(noise(12, 18), seeds(1)[0], resize=6, size=6).numpy()
    full = slow_resize(noise(12, 18), 6, 9)
    assert any(np.allclose(crop, full[:, left : left + 6], atol=0.51) for left in range(4))


def test_random_resized_crop_draws_area_aspect_and_place(monkeypatch):
    monkeypatch.setattr(augment, "_resize", lambda image, height, width: image)
    options = {"size": 8, "scale": (0.1, 0.5), "ratio": (0.5, 2.0)}
    crops = [
        assert_is_part(augment.random_resized_crop(places(100, 80), seed, **options).numpy())
        for seed in seeds(300)
    ]
    top, left, height, width = np.array(crops).T
    area, log_ratio = height * width / 8000, np.log(width / height)
    assert 0.095 < area.min() < 0.12
    assert 0.46 < area.max() < 0.505
    assert abs(area.mean() - 0.3) < 0.03
    # Uniform in the logarithm: as many wide crops as tall ones.
    assert -0.75 < log_ratio.min() < -0.6
    assert 0.6 < log_ratio.max() < 0.75
    assert abs(log_ratio.mean()) < 0.1
    for corner, free in ((top, 100 - height), (left, 80 - width)):
        place = corner / np.maximum(free, 1)
        assert place.min() < 0.05
        assert place.max() > 0.95
        assert abs(place.mean() - 0.5) < 0.06


def test_random_resized_crop_falls_back_on_the_centre(monkeypatch):
    monkeypatch.setattr(augment, "_resize", lambda image, height, width: image)
    options = {"size": 8, "scale": (1.0, 1.0)}  # as large as the image, but of another aspect
    wide = augment.random_resized_crop(places(20, 20), seeds(1)[0], ratio=(2.0, 2.5), **options)
    assert assert_is_part(wide.numpy()) == (5, 0, 10, 20)
    tall = augment.random_resized_crop(places(20, 20), seeds(1)[0], ratio=(0.2, 0.5), **options)
    assert assert_is_part(tall.numpy()) == (0, 5, 20, 10)


def test_random_resized_crop_resizes_what_it_cropped():
    options = {"size": 6, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    crop = augment.random_resized_crop(noise(15, 15), seeds(1)[0], **options).numpy()
    np.testing.assert_allclose(crop, slow_resize(noise(15, 15), 6, 6), atol=0.51)


@pytest.mark.parametrize("crop", ["random_resized", "resize_then_random"])
def test_create_depends_on_image_and_seed_alone(crop):
    make = {"size": 8, "resize": 10, "scale": (0.2, 1.0), "ratio": (0.75, 4 / 3)}
    first, again = (augment.create(crop, flip=True, **make) for _ in range(2))
    image, (one, two) = noise(20, 30), seeds(2)
    assert first(image, one).shape == (8, 8, 3)
    np.testing.assert_array_equal(first(image, one), again(image, one))
    assert not np.array_equal(first(image, one), first(image, two))


def test_create_flips_only_when_asked():
    make = {"size": 6, "resize": 6, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    image = noise(6, 6)
    for flip in (False, True):
        crop = augment.create("random_resized", flip=flip, **make)
        mirrored = [np.array_equal(crop(image, s), image[:, ::-1]) for s in seeds(20)]
        assert any(mirrored) == flip


def test_create_states_its_requirements():
    make = {"size": 8, "resize": 10, "scale": (0.2, 1.0), "ratio": (0.75, 4 / 3), "flip": True}
    with pytest.raises(ValueError, match=r"'centre'; known crops are random_resized, resize_then"):
        augment.create("centre", **make)
    with pytest.raises(ValueError, match=r"resize >= size, got resize=7 and size=8"):
        augment.create("resize_then_random", **{**make, "resize": 7})
    with pytest.raises(ValueError, match=r"got scale=\(0.0, 1.0\)"):
        augment.create("random_resized", **{**make, "scale": (0.0, 1.0)})
    with pytest.raises(ValueError, match=r"got ratio=\(2.0, 1.0\)"):
        augment.create("random_resized", **{**make, "ratio": (2.0, 1.0)})
