"""Draws have the probabilities and ranges of the paper's table, and their own random stream."""

import numpy as np
import pytest
from scipy import stats

from dcjax.data import strategies
from dcjax.data.strategies import STRATEGIES

NUMBER = 4000


def draw(strategy: str, shape=(NUMBER,), *, size: int = 224, seed: int = 0, epoch: int = 0):
    return strategies.draw(strategy, shape, size=size, seed=seed, epoch=epoch)


def are_equally_likely(counts) -> bool:
    """Whether counts are equal up to chance (p > 0.001)."""
    return bool(stats.chisquare(counts).pvalue > 1e-3)


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    """Whether the values are uniform between the two bounds and reach both."""
    ends, near = [values.min(), values.max()], (high - low) / 400
    np.testing.assert_allclose(ends, [low, high], atol=near)
    inside = low - 1e-5 < ends[0] and ends[1] < high + 1e-5
    return bool(inside) and are_equally_likely(np.histogram(values, bins=20, range=(low, high))[0])


def test_steps_have_the_order_of_the_table():
    assert STRATEGIES == {
        "standard": ("crop", "flip"),
        "geom": ("shift_rotate", "crop", "flip", "holes", "blur"),
        "geom_color": ("crop", "brightness_contrast", "flip", "shift_rotate", "holes", "blur"),
        "color_heavy": ("crop", "flip", "color_jitter", "grey"),
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_steps_are_applied_with_the_probabilities_of_the_table(strategy):
    drawn = draw(strategy)
    assert drawn.keys() == set(STRATEGIES[strategy]) - {"crop", "flip"}
    for step, draws in drawn.items():
        probability = {"color_jitter": 0.8, "grey": 0.2}.get(step, 0.5)
        times = int(draws.applied.sum())
        assert stats.binomtest(times, NUMBER, probability).pvalue > 1e-3
    applied = np.array([draws.applied for draws in drawn.values()])
    if len(applied) > 1:  # each independently
        np.testing.assert_allclose(np.corrcoef(applied), np.eye(len(applied)), atol=0.06)


def test_angles_and_shifts_lie_in_the_ranges_of_the_table():
    draws = draw("geom")["shift_rotate"]
    assert draws.angle.dtype == draws.shift.dtype == np.float32
    assert is_uniform(np.rad2deg(draws.angle), -45, 45)
    for axis in (0, 1):
        assert is_uniform(draws.shift[:, axis], -0.0625, 0.0625)
    assert abs(np.corrcoef(draws.shift.T)[0, 1]) < 0.06


@pytest.mark.parametrize(("size", "side"), [(224, 40), (112, 20), (28, 5), (8, 1)])
def test_one_to_five_holes_lie_inside_the_crop(size, side):
    boxes = draw("geom_color", size=size)["holes"].boxes
    assert boxes.shape == (NUMBER, 5, 4)
    assert boxes.dtype == np.int32
    is_hole = boxes[..., 2] > 0
    assert are_equally_likely(np.bincount(is_hole.sum(axis=1), minlength=6)[1:])
    assert is_hole[:, 0].all()
    assert (boxes[is_hole][:, 2:] == side).all()
    assert (boxes[~is_hole][:, 2:] == 0).all()
    corners = boxes[..., :2].reshape(-1, 2)
    assert corners.min() == 0
    assert corners.max() == size - side
    for corner in corners.T:
        assert are_equally_likely(np.bincount(corner))


def test_blur_kernel_sizes_are_equally_likely():
    kernel = draw("geom")["blur"].kernel
    assert kernel.dtype == np.int32
    assert strategies.BLUR_KERNELS == (3, 5, 7)
    assert are_equally_likely(np.bincount(kernel))


def test_brightness_and_contrast_lie_in_the_ranges_of_the_table():
    draws = draw("geom_color")["brightness_contrast"]
    assert draws.factor.dtype == draws.offset.dtype == np.float32
    assert is_uniform(draws.factor, 0.8, 1.2)
    assert is_uniform(draws.offset, -51, 51)
    assert abs(np.corrcoef(draws.factor, draws.offset)[0, 1]) < 0.06


def test_colour_changes_lie_in_the_ranges_of_the_table_in_any_order():
    draws = draw("color_heavy")["color_jitter"]
    factors = np.array([draws.brightness, draws.contrast, draws.saturation])
    assert factors.dtype == np.float32
    assert all(is_uniform(x, 0.6, 1.4) for x in factors)
    np.testing.assert_allclose(np.corrcoef(factors), np.eye(3), atol=0.06)
    assert draws.hue.dtype == np.uint8
    counts = np.bincount(draws.hue.astype(np.int8) + 25, minlength=51)  # -25 to 25
    # Truncated towards 0: 0 is twice as likely, and the ends, from 25 to 25.5, half as likely.
    assert are_equally_likely(counts / np.array([0.5, *[1] * 24, 2, *[1] * 24, 0.5]))
    assert (np.sort(draws.order) == np.arange(4)).all()
    orders, counts = np.unique(draws.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert are_equally_likely(counts)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"standard"}))
def test_draws_depend_on_seed_epoch_and_place_in_the_plan(strategy):
    first, again, epoch, seed = (
        draw(strategy, (6, 2, 50), seed=seed, epoch=epoch)
        for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    for step, draws in first.items():
        for x, same, *others in zip(draws, again[step], epoch[step], seed[step], strict=True):
            np.testing.assert_array_equal(x, same)
            assert x.shape[:3] == (6, 2, 50)
            assert len(np.unique(x.reshape(600, -1), axis=0)) > 1
            assert not any(np.array_equal(x, other) for other in others)
