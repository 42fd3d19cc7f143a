"""Distortions against pixels computed by hand and against slow plain versions."""

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
    """An image of these grey levels."""
    return np.repeat(np.array(grey, np.uint8)[..., None], 3, axis=-1)


def turned(image: np.ndarray, **changes) -> np.ndarray:
    draws = strategies.ShiftRotate(**STILL | changes)
    return distortions.shift_rotate(image, draws).numpy()[..., 0]


def jittered(pixels: list, **changes) -> list:
    draws = strategies.ColorJitter(**UNCHANGED | changes)
    return distortions.color_jitter(np.array([pixels], np.uint8), draws).numpy()[0].tolist()


def some(strategy: str, step: str, n: int) -> list:
    """The draws of n images for one step."""
    drawn = strategies.draw(strategy, (n,), size=30, seed=0, epoch=0)[step]
    return [type(drawn)(*one) for one in zip(*drawn, strict=True)]


def same(pixels, others, *, share: float = 0, most: int = 0) -> None:
    """At most this share of the pixels is apart, and by so many grey levels at most."""
    apart = np.abs(np.asarray(pixels).astype(int) - others)
    assert apart.max() <= most
    assert np.mean(apart > 0) <= share


def test_a_shift_of_whole_pixels_shows_the_mirror_that_does_not_repeat_the_edge():
    down = turned(rgb(LEVELS), shift=np.float32([2 / 4, 0]))
    assert down.tolist() == [[70, 80, 90], [40, 50, 60], [10, 20, 30], [40, 50, 60]]
    left = turned(rgb(LEVELS), shift=np.float32([0, -1 / 3]))
    assert left[0].tolist() == [20, 30, 20]
    far = turned(rgb(LEVELS), shift=np.float32([0, 5 / 3]))  # beyond the mirror's mirror
    assert far[0].tolist() == [20, 10, 20]


def test_a_quarter_turn_goes_counter_clockwise_about_half_of_the_size():
    image = turned(rgb(LEVELS[:3]), angle=np.float32(math.pi / 2))
    # About 1.5: row 1 was column 2, and row 0 column 3, which is column 1 in the mirror.
    assert image.tolist() == [[20, 50, 80], [30, 60, 90], [20, 50, 80]]


def test_between_pixels_lie_their_means():
    image = turned(rgb(LEVELS), shift=np.float32([0.5 / 4, 0]))
    assert image[:, 0].tolist() == [25, 25, 55, 85]
    image = turned(rgb([[0, 3], [6, 9]]), shift=np.float32([-0.25 / 2, 0]))
    assert image[0].tolist() == [2, 4]  # 1.5 and 4.5


@pytest.mark.parametrize(("height", "width"), [(14, 23), (5, 31), (1, 9)])
def test_turned_images_are_those_of_plain_python(height, width):
    image = noise(height, width)
    for draws in some("geom", "shift_rotate", 5):
        expected = slow_distortions.shift_rotate(image, draws)
        same(distortions.shift_rotate(image, draws), expected, share=0.01, most=1)


def test_a_box_of_the_turned_image_is_cut_from_the_whole():
    image = noise(25, 31)
    for draws in some("geom", "shift_rotate", 5):
        box = distortions.shift_rotate_box(image, draws, tf.constant([3, 7]), tf.constant([11, 9]))
        whole = distortions.shift_rotate(image, draws).numpy()
        same(box, whole[3:14, 7:16], share=0.01, most=1)


def test_holes_are_black_and_nothing_else_is():
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
def test_blurred_images_are_those_of_plain_python(kernel, height, width):
    image, draws = noise(height, width), strategies.Blur(True, np.int32(kernel))
    same(distortions.blur(image, draws), slow_distortions.blur(image, draws))


def test_a_blurred_point_is_a_square_that_the_mirror_doubles():
    image = np.zeros((6, 6), np.uint8)
    image[1, 1] = 90
    blurred = distortions.blur(rgb(image), strategies.Blur(True, np.int32(0)))[..., 0]
    assert blurred.numpy()[:4, :4].tolist() == [
        [40, 20, 20, 0],
        [20, 10, 10, 0],
        [20, 10, 10, 0],
        [0, 0, 0, 0],
    ]


def test_brightness_and_contrast_are_a_line_cut_off_at_both_ends():
    draws = strategies.BrightnessContrast(True, np.float32(1.25), np.float32(-10.5))
    image = distortions.brightness_contrast(rgb([[0, 8, 9, 100, 212, 213, 255]]), draws)
    assert image[0, :, 0].numpy().tolist() == [0, 0, 0, 114, 254, 255, 255]


def test_each_change_of_colour_is_that_of_pil():
    pixels = [[200, 0, 0], [200, 100, 100]]
    half = np.float32(0.5)
    assert jittered(pixels, brightness=np.float32(1.4)) == [[255, 0, 0], [255, 140, 140]]
    # Lumas of 59.8 and 129.9, both rounded, and their mean: 95. The first red: 95 + 105 / 2.
    assert jittered(pixels, contrast=half) == [[147, 47, 47], [147, 97, 97]]
    assert jittered(pixels, saturation=half) == [[130, 30, 30], [165, 115, 115]]
    # 85 of 255 steps are a third of the circle; there are 256 bytes, so back is one more.
    assert jittered(pixels, hue=np.uint8(85)) == [[0, 200, 0], [100, 200, 100]]
    assert jittered(pixels, hue=np.uint8(256 - 86)) == [[0, 0, 200], [100, 100, 200]]


def test_changes_of_colour_come_in_the_order_that_was_drawn():
    changes = {"brightness": np.float32(1.5), "saturation": np.float32(0)}
    bright_first, grey_first = np.int32([0, 1, 2, 3]), np.int32([2, 1, 3, 0])
    # The luma of (255, 0, 0) is 76, that of (200, 0, 0) is 60.
    assert jittered([[200, 0, 0]], order=bright_first, **changes) == [[76, 76, 76]]
    assert jittered([[200, 0, 0]], order=grey_first, **changes) == [[90, 90, 90]]


def test_jittered_and_grey_images_are_those_of_plain_python():
    image = noise(40, 50)
    for draws in some("color_heavy", "color_jitter", 8):
        expected = slow_distortions.color_jitter(image, draws)
        # The hue of a few colours is one step on, which is some grey levels.
        same(distortions.color_jitter(image, draws), expected, share=0.01, most=12)
    same(distortions.grey(image, strategies.Switch(True)), slow_distortions.grey(image))
