"""Draws follow the recipe; boxes lie inside the image and agree with slow plain Python."""

import math

import numpy as np
import pytest

from dcjax.data import crops

MAKE = {
    "crop": "random_resized",
    "size": 8,
    "resize": 10,
    "scale": (0.1, 0.5),
    "ratio": (0.5, 2.0),
    "flip": True,
    "strategy": "standard",
}


def recipe(**changes) -> crops.Augmentation:
    return crops.Augmentation(**MAKE | changes)


def some_sizes(n: int, high: int = 300) -> np.ndarray:
    return np.random.default_rng(1).integers(1, high, (n, 2)).astype(np.int32)


def draw(augmentation, n: int) -> crops.Draws:
    return crops.draw(augmentation, (n,), seed=0, epoch=0)


def test_draws_have_the_distribution_of_the_recipe():
    draws = draw(recipe(), 2000)
    assert draws.factors.shape == (2000, 10, 2)
    assert draws.factors.dtype == draws.place.dtype == np.float32
    height, width = np.moveaxis(draws.factors.astype(float), -1, 0)
    for values, low, high in (
        (height * width, 0.1, 0.5),
        # Uniform in the logarithm: wide and tall crops are equally likely.
        (np.log(width / height), -math.log(2), math.log(2)),
        (draws.place, 0, 1),
    ):
        shares = np.histogram(values, bins=10, range=(low, high))[0] / values.size
        assert shares.sum() > 0.999  # except for float32 rounding at both ends
        np.testing.assert_allclose(shares, 0.1, atol=0.02)
    assert abs(np.mean(draws.flip) - 0.5) < 0.04
    assert abs(np.corrcoef(draws.place.T)[0, 1]) < 0.05
    assert abs(np.corrcoef((height * width)[:, 0], draws.place[:, 0])[0, 1]) < 0.05


def test_draws_depend_on_seed_epoch_and_place_in_the_plan():
    first, again, epoch, seed = (
        crops.draw(recipe(), (3, 1, 4), seed=seed, epoch=epoch)
        for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(np.unique(first.place.reshape(-1, 2), axis=0)) == 12
    for other in (epoch, seed):
        assert not (first.place == other.place).any()
        assert not (first.factors == other.factors).any()


def test_draws_equal_those_of_earlier_versions():
    augmentation = recipe(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    draws = crops.draw(augmentation, (2, 1, 2), seed=3, epoch=5)
    np.testing.assert_allclose(draws.factors[1, 0, 1, 0], [0.6616283, 0.5526678], rtol=1e-6)
    np.testing.assert_allclose(
        draws.place[1, 0], [[0.6240396, 0.3088217], [0.5853788, 0.0776590]], rtol=1e-6
    )
    assert draws.flip.tolist() == [[[False, False]], [[True, False]]]


def test_flips_are_drawn_only_if_enabled():
    assert draw(recipe(), 50).flip.any()
    assert not draw(recipe(flip=False), 50).flip.any()


def slow_box(height: int, width: int, draws: crops.Draws, ratio) -> list[int]:
    """The first candidate that fits, or the centre, in plain Python."""
    for high, wide in draws.factors.tolist():
        high, wide = (round(x * math.sqrt(height * width)) for x in (high, wide))
        if 0 < high <= height and 0 < wide <= width:
            top, left = draws.place.tolist()
            return [int(top * (height - high + 1)), int(left * (width - wide + 1)), high, wide]
    high = max(1, min(height, round(width * (1 / ratio[0]))))
    wide = max(1, min(width, round(height * ratio[1])))
    return [(height - high) // 2, (width - wide) // 2, high, wide]


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 4 / 3)), ((0.5, 1.0), (2.0, 5.0))]
)
def test_boxes_equal_those_of_plain_python_and_lie_inside(scale, ratio):
    augmentation = recipe(scale=scale, ratio=ratio)
    sizes, draws = some_sizes(500), draw(augmentation, 500)
    boxes = crops.boxes(augmentation, sizes, draws)
    assert boxes.dtype == np.int32
    for i, (height, width) in enumerate(sizes.tolist()):
        one = crops.Draws(*(x[i] for x in draws))
        assert boxes[i].tolist() == slow_box(height, width, one, ratio)
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()


def test_boxes_of_a_plan_equal_those_of_its_images():
    augmentation, sizes = recipe(), some_sizes(24).reshape(2, 3, 4, 2)
    draws = crops.draw(augmentation, (2, 3, 4), seed=0, epoch=0)
    flat = crops.Draws(*(x.reshape(24, *x.shape[3:]) for x in draws))
    np.testing.assert_array_equal(
        crops.boxes(augmentation, sizes, draws).reshape(24, 4),
        crops.boxes(augmentation, sizes.reshape(24, 2), flat),
    )


def test_boxes_have_the_drawn_area_aspect_and_place():
    augmentation = recipe()
    sizes = np.tile(np.array([100, 80], np.int32), (2000, 1))
    top, left, height, width = crops.boxes(augmentation, sizes, draw(augmentation, 2000)).T
    area, log_ratio = height * width / 8000, np.log(width / height)
    assert 0.095 < area.min() < 0.105
    assert 0.49 < area.max() < 0.505
    assert abs(area.mean() - 0.3) < 0.01
    assert -0.75 < log_ratio.min() < -0.65
    assert 0.65 < log_ratio.max() < 0.75
    for corner, free in ((top, 100 - height), (left, 80 - width)):
        assert corner.min() == 0
        assert (corner == free).any()
        assert abs(((corner + 0.5) / (free + 1)).mean() - 0.5) < 0.02


def test_boxes_fall_back_on_the_centre():
    for ratio, box in (((2.0, 2.5), [5, 0, 10, 20]), ((0.2, 0.5), [0, 5, 20, 10])):
        augmentation = recipe(
            scale=(1.0, 1.0), ratio=ratio
        )  # of another aspect ratio than the image
        sizes = np.full((1, 2), 20, np.int32)
        assert crops.boxes(augmentation, sizes, draw(augmentation, 1)).tolist() == [box]


def test_resize_then_random_reaches_every_position():
    augmentation = recipe(crop="resize_then_random", size=4, resize=6)
    sizes = np.tile(np.array([6, 7], np.int32), (200, 1))
    boxes = crops.boxes(augmentation, sizes, draw(augmentation, 200))
    distinct_boxes = {tuple(box) for box in boxes.tolist()}
    assert distinct_boxes == {(top, left, 4, 4) for top in range(3) for left in range(4)}


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(6, 8, 1, 2), (7, 9, 2, 2), (4, 5, 0, 0)]
)
def test_center_boxes_round_the_margin_as_the_papers_transform(height, width, top, left):
    boxes = crops.center_boxes(np.array([[height, width]], np.int32), 4)
    assert boxes.tolist() == [[top, left, 4, 4]]


def test_crops_of_resized_images_equal_those_of_images_of_that_size():
    sizes = some_sizes(50, high=60)
    augmentation, resized = recipe(crop="resize_then_random_resized"), crops.resize_sizes(sizes, 10)
    assert augmentation.crops_resized
    assert recipe(crop="resize_then_random").crops_resized
    assert not recipe().crops_resized
    draws = draw(augmentation, 50)
    expected = crops.boxes(recipe(), resized, draws)
    np.testing.assert_array_equal(crops.boxes(augmentation, resized, draws), expected)


def test_resized_gives_the_shorter_side_the_requested_length():
    sizes = np.array([[37, 50], [61, 20], [20, 20], [8, 11]], np.int32)
    assert crops.resize_sizes(sizes, 20).tolist() == [[20, 27], [61, 20], [20, 20], [20, 27]]


def test_resized_bounds_the_longer_side_of_slivers_only():
    slivers = np.array([[1, 2000], [3000, 1], [2, 10**7]], np.int32)
    assert crops.resize_sizes(slivers, 256).tolist() == [[256, 16384], [16384, 256], [256, 16384]]
    others = np.array([[1, 64], [200, 12800], [256, 10**5], [300, 10**5]], np.int32)
    assert crops.resize_sizes(others, 256).max(axis=1).tolist() == [16384, 16384, 10**5, 85333]
    assert crops.resize_sizes(np.array([2, 300], np.int32), 40).tolist() == [40, 6000]


@pytest.mark.parametrize("change", [{}, {"scale": (1.0, 1.0)}, {"ratio": (0.1, 0.3)}])
def test_longest_side_is_a_tight_bound_of_box_lengths(change):
    augmentation = recipe(**change)
    for size in some_sizes(40, high=60):
        sizes = np.tile(size, (300, 1))
        longest = crops.boxes(augmentation, sizes, draw(augmentation, 300))[:, 2:].max()
        assert longest <= crops.longest_side(augmentation, sizes) <= sizes.max()
    panorama = np.array([[256, 2560], [256, 256]], np.int32)
    standard = recipe(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    assert crops.longest_side(standard, panorama) == int(256 * math.sqrt(10 * 4 / 3)) + 1
    as_it_is = recipe(crop="resize_then_random")
    assert crops.longest_side(as_it_is, panorama) == as_it_is.size


def test_augmentation_states_its_requirements():
    with pytest.raises(ValueError, match=r"'centre'; known are random_resized, resize_then"):
        recipe(crop="centre")
    with pytest.raises(ValueError, match=r"'mild'; known are standard, geom, geom_color, color_h"):
        recipe(strategy="mild")
    with pytest.raises(ValueError, match=r"resize >= size, got resize=7 and size=8"):
        recipe(resize=7)
    with pytest.raises(ValueError, match=r"got scale=\(0.0, 1.0\)"):
        recipe(scale=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"got ratio=\(2.0, 1.0\)"):
        recipe(ratio=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"two numbers each, got scale=\(0.1,\)"):
        recipe(scale=(0.1,))
