"""Distortions against pixels computed by hand and against slow plain Python."""

import math

import numpy as np
import pytest
import slow_distortions
from pictures import noise

from dcjax.data import distortions, strategies
from dcjax.data.quiet_tensorflow import tf

LEVELS = [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]]
STILL = {"applied": True, "angle": np.float32(0), "shift": np.zeros(2, np.float32)}
UNCHANGED = {
    "applied": True,
    "brightness": np.float32(1),
    "contrast": np.float32(1),
    "saturation": np.float32(1),
    "hue": np.uint8(0),
    "order": np.arange(4, dtype=np.int32),
}


def rgb(grey) -> np.ndarray:
    """An image with these grey levels."""
    return np.repeat(np.array(grey, np.uint8)[..., None], 3, axis=-1)


def rotate(image: np.ndarray, **changes) -> np.ndarray:
    draws = strategies.ShiftRotate(**STILL | changes)
    return distortions.shift_rotate(image, draws).numpy()[..., 0]


def jitter(pixels: list, **changes) -> list:
    draws = strategies.ColorJitter(**UNCHANGED | changes)
    return distortions.color_jitter(np.array([pixels], np.uint8), draws).numpy()[0].tolist()


def draw_step(strategy: str, step: str, n: int) -> list:
    """Draws one step of a strategy for n images."""
    drawn = strategies.draw(strategy, (n,), size=30, seed=0, epoch=0)[step]
    return [type(drawn)(*one) for one in zip(*drawn, strict=True)]


def assert_close(pixels, others, *, share: float = 0, max_difference: int = 0) -> None:
    """Asserts that at most this share of the pixels differs, by at most `max_difference` levels."""
    apart = np.abs(np.asarray(pixels).astype(int) - others)
    assert apart.max() <= max_difference
    assert np.mean(apart > 0) <= share


def test_integer_shift_reflects_without_repeating_the_edge():
    down = rotate(rgb(LEVELS), shift=np.float32([2 / 4, 0]))
    assert down.tolist() == [[70, 80, 90], [40, 50, 60], [10, 20, 30], [40, 50, 60]]
    left = rotate(rgb(LEVELS), shift=np.float32([0, -1 / 3]))
    assert left[0].tolist() == [20, 30, 20]
    far = rotate(rgb(LEVELS), shift=np.float32([0, 5 / 3]))  # reflected twice
    assert far[0].tolist() == [20, 10, 20]


def test_quarter_turn_is_counter_clockwise_about_half_the_size():
    image = rotate(rgb(LEVELS[:3]), angle=np.float32(math.pi / 2))
    # About 1.5: row 1 was column 2, and row 0 was column 3, which reflects to column 1.
    assert image.tolist() == [[20, 50, 80], [30, 60, 90], [20, 50, 80]]


def test_half_pixel_shift_gives_the_mean_of_neighbours():
    image = rotate(rgb(LEVELS), shift=np.float32([0.5 / 4, 0]))
    assert image[:, 0].tolist() == [25, 25, 55, 85]
    image = rotate(rgb([[0, 3], [6, 9]]), shift=np.float32([-0.25 / 2, 0]))
    assert image[0].tolist() == [2, 4]  # 1.5 and 4.5


@pytest.mark.parametrize(("height", "width"), [(14, 23), (5, 31), (1, 9)])
def test_rotated_images_equal_those_of_plain_python(height, width):
    image = noise(height, width)
    for draws in draw_step("geom", "shift_rotate", 5):
        expected = slow_distortions.shift_rotate(image, draws)
        assert_close(distortions.shift_rotate(image, draws), expected, share=0.01, max_difference=1)


def test_box_of_a_rotated_image_equals_the_crop_of_the_full_rotation():
    image = noise(25, 31)
    for draws in draw_step("geom", "shift_rotate", 5):
        box = distortions.shift_rotate_box(image, draws, tf.constant([3, 7]), tf.constant([11, 9]))
        rotated = distortions.shift_rotate(image, draws).numpy()
        assert_close(box, rotated[3:14, 7:16], share=0.01, max_difference=1)


def test_holes_are_black_and_other_pixels_unchanged():
    boxes = np.array([[0, 0, 2, 2], [1, 1, 2, 2], [3, 2, 1, 2], [0, 3, 0, 0]], np.int32)
    image = distortions.holes(rgb(np.full((4, 5), 9)), strategies.Holes(True, boxes))
    assert image.numpy()[..., 0].tolist() == [
        [0, 0, 9, 9, 9],
        [0, 0, 0, 9, 9],
        [9, 0, 0, 9, 9],
        [9, 9, 0, 0, 9],
    ]


@pytest.mark.parametrize("kernel", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(9, 13), (2, 3), (1, 1)])
def test_blurred_images_equal_those_of_plain_python(kernel, height, width):
    image, draws = noise(height, width), strategies.Blur(True, np.int32(kernel))
    assert_close(distortions.blur(image, draws), slow_distortions.blur(image, draws))


def test_blurred_point_is_a_square_doubled_by_the_mirror_at_the_edge():
    image = np.zeros((6, 6), np.uint8)
    image[1, 1] = 90
    blurred = distortions.blur(rgb(image), strategies.Blur(True, np.int32(0)))[..., 0]
    assert blurred.numpy()[:4, :4].tolist() == [
        [40, 20, 20, 0],
        [20, 10, 10, 0],
        [20, 10, 10, 0],
        [0, 0, 0, 0],
    ]


def test_brightness_and_contrast_are_linear_and_clipped():
    draws = strategies.BrightnessContrast(True, np.float32(1.25), np.float32(-10.5))
    image = distortions.brightness_contrast(rgb([[0, 8, 9, 100, 212, 213, 255]]), draws)
    assert image[0, :, 0].numpy().tolist() == [0, 0, 0, 114, 254, 255, 255]


def test_each_colour_change_equals_that_of_pil():
    pixels = [[200, 0, 0], [200, 100, 100]]
    half = np.float32(0.5)
    assert jitter(pixels, brightness=np.float32(1.4)) == [[255, 0, 0], [255, 140, 140]]
    # Lumas of 59.8 and 129.9, both rounded, and their mean: 95. The first red: 95 + 105 / 2.
    assert jitter(pixels, contrast=half) == [[147, 47, 47], [147, 97, 97]]
    assert jitter(pixels, saturation=half) == [[130, 30, 30], [165, 115, 115]]
    # 85 of 255 steps are a third of the circle; a byte has 256 values, so the way back is one more.
    assert jitter(pixels, hue=np.uint8(85)) == [[0, 200, 0], [100, 200, 100]]
    assert jitter(pixels, hue=np.uint8(256 - 86)) == [[0, 0, 200], [100, 100, 200]]


def test_colour_changes_are_applied_in_the_drawn_order():
    changes = {"brightness": np.float32(1.5), "saturation": np.float32(0)}
    bright_first, grey_first = np.int32([0, 1, 2, 3]), np.int32([2, 1, 3, 0])
    # The luma of (255, 0, 0) is 76, that of (200, 0, 0) is 60.
    assert jitter([[200, 0, 0]], order=bright_first, **changes) == [[76, 76, 76]]
    assert jitter([[200, 0, 0]], order=grey_first, **changes) == [[90, 90, 90]]


def test_jittered_and_grey_images_equal_those_of_plain_python():
    image = noise(40, 50)
    for draws in draw_step("color_heavy", "color_jitter", 8):
        expected = slow_distortions.color_jitter(image, draws)
        # The hue of a few colours differs by one step, which is a few grey levels.
        assert_close(
            distortions.color_jitter(image, draws), expected, share=0.01, max_difference=12
        )
    assert_close(distortions.grey(image, strategies.Switch(True)), slow_distortions.grey(image))
