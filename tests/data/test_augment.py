"""Crops, resizing and complete strategies against slow NumPy versions and their properties."""

import numpy as np
import pytest
import slow_distortions
from pictures import noise

from dcjax.data import augment, crops
from dcjax.data.quiet_tensorflow import tf
from dcjax.data.strategies import STRATEGIES

MAKE = {
    "crop": "random_resized",
    "size": 8,
    "resize": 10,
    "scale": (0.2, 1.0),
    "ratio": (0.75, 4 / 3),
    "flip": True,
    "strategy": "standard",
}


def coordinate_image(height: int, width: int) -> np.ndarray:
    """An image whose pixels hold their position: (row, column, 0)."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def slow_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resizing as two products with matrices of triangular weights."""

    def weights(new: int, old: int) -> np.ndarray:
        scale = old / new
        centers = (np.arange(new)[:, None] + 0.5) * scale
        distance = np.abs(np.arange(old)[None] + 0.5 - centers) / max(scale, 1)
        triangle = np.maximum(0, 1 - distance)
        return triangle / triangle.sum(1, keepdims=True)

    rows, columns = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("hr,rwc,vw->hvc", rows, image.astype(float), columns)


def recipe(**changes) -> crops.Augmentation:
    return crops.Augmentation(**MAKE | changes)


def draws(augmentation: crops.Augmentation, n: int) -> list[augment.Draws]:
    """The draws of n images, as a list."""
    drawn = augment.draw(augmentation, (n,), seed=0, epoch=0)
    return [{step: type(x)(*(y[i] for y in x)) for step, x in drawn.items()} for i in range(n)]


def slow_crop(augmentation: crops.Augmentation, image: np.ndarray, one: crops.Draws) -> np.ndarray:
    """The drawn crop, resized unless it has the output size already."""
    sizes = np.array(image.shape[:2], np.int32)
    top, left, height, width = crops.boxes(augmentation, sizes, one)
    box = image[top : top + height, left : left + width]
    return np.round(slow_resize(box, augmentation.size, augmentation.size)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(37, 50), (61, 20), (20, 20), (8, 11)])
def test_shorter_side_is_resized_with_antialias_and_the_other_follows(height, width):
    image = noise(height, width)
    resized = augment.resize_shorter_side(image, 20).numpy()
    expected = crops.resize_sizes(np.array([height, width], np.int32), 20)
    assert resized.shape[:2] == tuple(expected)
    assert resized.dtype == np.uint8
    np.testing.assert_allclose(resized, slow_resize(image, *resized.shape[:2]), atol=0.51)


def test_resizing_to_the_same_size_changes_nothing():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def resize(image):  # the size is unknown when traced, as in the pipeline
        return augment.resize_shorter_side(image, 20)

    image = noise(20, 33)
    np.testing.assert_array_equal(resize(image), image)


def test_resizing_keeps_constant_images_at_both_ends_of_the_range():
    for value in (0, 1, 254, 255):
        image = np.full((37, 23, 3), value, np.uint8)
        assert np.unique(augment.resize(image, 11, 29)).tolist() == [value]


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9), (4, 5), (15, 4)])
def test_center_crop_equals_that_of_crops(height, width):
    crop = augment.center_crop(coordinate_image(height, width), 4).numpy()
    ((top, left, *_),) = crops.center_boxes(np.array([[height, width]], np.int32), 4)
    np.testing.assert_array_equal(
        crop, coordinate_image(height, width)[top : top + 4, left : left + 4]
    )


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 4 / 3)), ((1.0, 1.0), (0.9, 1.1)), ((0.5, 1), (2, 5))]
)
def test_random_resized_boxes_equal_those_of_crops(scale, ratio):
    augmentation, n = recipe(scale=scale, ratio=ratio), 3000
    sizes = np.random.default_rng(2).integers(1, 2000, (n, 2)).astype(np.int32)
    drawn = crops.draw(augmentation, (n,), seed=0, epoch=0)

    def box(size, draws):  # in a graph that is optimised like the pipeline's
        return tf.concat(augment.random_resized_box(augmentation, size, draws), 0)

    dataset = tf.data.Dataset.from_tensor_slices((sizes, drawn)).map(box).batch(n)
    (boxes,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(boxes, crops.boxes(augmentation, sizes, drawn))


@pytest.mark.parametrize("crop", crops.CROPS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_go_through_the_steps_of_their_strategy_in_order(strategy, crop):
    augmentation, source = recipe(crop=crop, strategy=strategy, size=12, resize=16), noise(18, 25)
    apply, steps = augment.create(augmentation), STRATEGIES[strategy]
    apart = []
    for one in draws(augmentation, 16):
        image = source
        for step in steps:
            if step == "crop":
                image = slow_crop(augmentation, image, one["crop"])
            elif one[step].applied:
                image = getattr(slow_distortions, step)(image, one[step])
        apart.append(np.abs(apply(source, one).numpy().astype(int) - image))
    # Sums close to a half may round differently, hues may differ by a step, and so may the results.
    assert np.mean(np.array(apart) > 1) < 0.005
    assert np.max(apart) < 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_step_changes_exactly_the_images_it_is_applied_to(strategy):
    augmentation, source = recipe(strategy=strategy), noise(18, 25)
    apply = augment.create(augmentation)
    (one,) = draws(augmentation, 1)
    off = {step: x._replace(applied=False) for step, x in one.items() if step != "crop"}
    plain = apply(source, off | {"crop": one["crop"]}).numpy()
    np.testing.assert_array_equal(plain, slow_crop(augmentation, source, one["crop"]))
    for step, x in off.items():
        changed = off | {step: x._replace(applied=True), "crop": one["crop"]}
        assert not np.array_equal(apply(source, changed), plain)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategy_does_not_change_the_draws_of_crops_and_flips(strategy):
    drawn = augment.draw(recipe(strategy=strategy), (2, 3, 4), seed=1, epoch=2)
    expected = crops.draw(recipe(), (2, 3, 4), seed=1, epoch=2)
    for x, y in zip(drawn["crop"], expected, strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(drawn["flip"].applied, expected.flip)
