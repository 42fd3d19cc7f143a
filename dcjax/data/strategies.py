"""The augmentation strategies of P21, Table V: their steps, and the random parameters of these.

The numbers are those of P21's code, which uses albumentations (0.5.2) for Geom and Geom+Color and
torchvision for Color Heavy. Like the crops, all parameters of an epoch are drawn on the host.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.core import streams
from dcjax.core.streams import Stream

# The steps of each strategy, in order; `crops` draws for the first two.
STRATEGIES = {
    "standard": ("crop", "flip"),
    "geom": ("shift_rotate", "crop", "flip", "holes", "blur"),
    "geom_color": ("crop", "brightness_contrast", "flip", "shift_rotate", "holes", "blur"),
    "color_heavy": ("crop", "flip", "color_jitter", "grey"),
}
BLUR_KERNELS = (3, 5, 7)  # pixels

_PROBABILITIES = {
    "shift_rotate": 0.5,
    "holes": 0.5,
    "blur": 0.5,
    "brightness_contrast": 0.5,
    "color_jitter": 0.8,
    "grey": 0.2,
}
_SHIFT = 0.0625  # at most, either way, as a share of height and of width
_ROTATION = 45  # degrees at most, either way
_MOST_HOLES = 5
_HOLE_SIDE = 40 / 224  # as a share of the crop's
_BRIGHTNESS_CONTRAST = 0.2  # at most, either way, as a share of white and of the contrast
_JITTER = 0.4  # at most, either way, as a share of brightness, contrast and saturation
_HUE = 0.1  # at most, either way, in turns of the colour circle

Generator = np.random.Generator
Shape = tuple[int, ...]


class ShiftRotate(NamedTuple):
    """A turn about the centre, and then a shift.

    Attributes:
      applied: bool [...].
      angle: float32 [...], counter-clockwise, in radians.
      shift: float32 [..., 2], down and to the right, as shares of height and width.
    """

    applied: Any
    angle: Any
    shift: Any


class Holes(NamedTuple):
    """Black squares.

    Attributes:
      applied: bool [...].
      boxes: int32 [..., 5, 4]: top, left, height, width; no height and no width if there are fewer.
    """

    applied: Any
    boxes: Any


class Blur(NamedTuple):
    """Means over squares.

    Attributes:
      applied: bool [...].
      kernel: int32 [...], which one of `BLUR_KERNELS`.
    """

    applied: Any
    kernel: Any


class BrightnessContrast(NamedTuple):
    """A linear change of all pixels.

    Attributes:
      applied: bool [...].
      factor: float32 [...].
      offset: float32 [...], in grey levels.
    """

    applied: Any
    factor: Any
    offset: Any


class ColorJitter(NamedTuple):
    """Four changes of colour, one after the other.

    Attributes:
      applied: bool [...].
      brightness: float32 [...], a factor like the next two.
      contrast: float32 [...].
      saturation: float32 [...].
      hue: uint8 [...], how far to go round the colour circle, in steps of which PIL has 255.
      order: int32 [..., 4], which of these four comes when.
    """

    applied: Any
    brightness: Any
    contrast: Any
    saturation: Any
    hue: Any
    order: Any


class Switch(NamedTuple):
    """A step that is taken or not, like a flip, or grey.

    Attributes:
      applied: bool [...].
    """

    applied: Any


def draw(
    strategy: str, shape: tuple[int, ...], *, size: int, seed: int, epoch: int, block: int = 0
) -> dict[str, Any]:
    """Draws for a block of an epoch's plan, of this shape, [s, C, B], and crops of this size.

    Returns:
      For each step but crop and flip its draws, whose arrays begin with the block's shape.
    """
    generator = streams.generator(seed, Stream.AUGMENTATION, epoch, block)
    steps = [step for step in STRATEGIES[strategy] if step in _DRAWS]
    return {
        step: _DRAWS[step](_draw_applied(step, generator, shape), generator, size) for step in steps
    }


def _draw_applied(step: str, generator: Generator, shape: Shape) -> npt.NDArray[np.bool_]:
    return generator.random(shape, np.float32) < _PROBABILITIES[step]


def _draw_shift_rotate(
    applied: npt.NDArray[np.bool_], generator: Generator, size: int
) -> ShiftRotate:
    angle = np.deg2rad(generator.uniform(-_ROTATION, _ROTATION, applied.shape))
    shift = generator.uniform(-_SHIFT, _SHIFT, (*applied.shape, 2))
    return ShiftRotate(applied, angle.astype(np.float32), shift.astype(np.float32))


def _draw_holes(applied: npt.NDArray[np.bool_], generator: Generator, size: int) -> Holes:
    side = round(_HOLE_SIDE * size)
    number = generator.integers(1, _MOST_HOLES + 1, applied.shape)
    corner = generator.integers(0, size - side + 1, (*applied.shape, _MOST_HOLES, 2))
    is_there = np.arange(_MOST_HOLES) < number[..., None]
    sides = np.repeat(side * is_there[..., None], 2, axis=-1)
    return Holes(applied, np.concatenate([corner, sides], axis=-1).astype(np.int32))


def _draw_blur(applied: npt.NDArray[np.bool_], generator: Generator, size: int) -> Blur:
    return Blur(applied, generator.integers(0, len(BLUR_KERNELS), applied.shape, np.int32))


def _draw_brightness_contrast(
    applied: npt.NDArray[np.bool_], generator: Generator, size: int
) -> BrightnessContrast:
    most = _BRIGHTNESS_CONTRAST
    factor = 1 + generator.uniform(-most, most, applied.shape)
    offset = 255 * generator.uniform(-most, most, applied.shape)
    return BrightnessContrast(applied, factor.astype(np.float32), offset.astype(np.float32))


def _draw_color_jitter(
    applied: npt.NDArray[np.bool_], generator: Generator, size: int
) -> ColorJitter:
    factors = generator.uniform(1 - _JITTER, 1 + _JITTER, (3, *applied.shape))
    brightness, contrast, saturation = factors.astype(np.float32)
    # As torchvision: whole steps, cut off towards zero; backwards is round the circle.
    hue = (255 * generator.uniform(-_HUE, _HUE, applied.shape)).astype(np.int32).astype(np.uint8)
    order = generator.permuted(np.tile(np.arange(4, dtype=np.int32), (*applied.shape, 1)), axis=-1)
    return ColorJitter(applied, brightness, contrast, saturation, hue, order)


def _draw_grey(applied: npt.NDArray[np.bool_], generator: Generator, size: int) -> Switch:
    return Switch(applied)


_DRAWS: dict[str, Callable[[npt.NDArray[np.bool_], Generator, int], Any]] = {
    "shift_rotate": _draw_shift_rotate,
    "holes": _draw_holes,
    "blur": _draw_blur,
    "brightness_contrast": _draw_brightness_contrast,
    "color_jitter": _draw_color_jitter,
    "grey": _draw_grey,
}
