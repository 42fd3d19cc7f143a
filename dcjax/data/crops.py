"""Random crops: the draws of an epoch, and the boxes in images that follow from them.

The draws are made on the host, for a whole block of a plan at once, so that the pipeline and the
device cache cut the same boxes. A box is computed from a draw by operations whose rounding IEEE 754
defines (and without division: TensorFlow multiplies by the reciprocal), so that `augment`, which
processes one image at a time, computes the same boxes.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from dcjax.core import streams
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known
from dcjax.core.streams import Stream
from dcjax.data import strategies

CROPS = ("random_resized", "resize_then_random", "resize_then_random_resized")

# Bounds of an enlarged image, in pixels or by its aspect, whichever allows more; of a longer one
# only the middle is enlarged. A PNG of 1 x 2,000 pixels in 86 bytes would become 256 x 512,000.
_MOST_PIXELS, _MOST_ASPECT = 2**22, 64

_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random crop, a random flip, and the other steps of the strategy (P21, section 4.2).

    Attributes:
      crop: "random_resized" (as both releases do), "resize_then_random" (as both papers say), or
        "resize_then_random_resized" (the first one, of an image that was resized).
      size: Side of the output in pixels; 224 in both papers, after a resize to 256.
      resize: Shorter side in pixels before a crop that begins so, or a centre crop.
      scale: Least and greatest area of a crop that is resized, as a share of the image; as in both
        releases, like `ratio` and `flip`.
      ratio: Least and greatest width / height of a crop that is resized.
      flip: Whether to mirror every second image, left to right.
      strategy: One of `strategies.STRATEGIES`; P21 Table V has the best for each data set.
    """

    crop: str = "random_resized"
    size: int = 224
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    strategy: str = "standard"

    def __post_init__(self) -> None:
        """Checks that such crops can be made."""
        require_known("crop", self.crop, CROPS)
        require_known("strategy", self.strategy, strategies.STRATEGIES)
        scale, ratio = self.scale, self.ratio
        if len(scale) != 2 or len(ratio) != 2:
            raise InputError(f"Require two numbers each, got scale={scale} and ratio={ratio}.")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(f"Require 0 < scale[0] <= scale[1] <= 1, got scale={scale}.")
        if not 0 < ratio[0] <= ratio[1]:
            raise InputError(f"Require 0 < ratio[0] <= ratio[1], got ratio={ratio}.")
        if self.resize < self.size:
            raise InputError(
                f"Require resize >= size, got resize={self.resize} and size={self.size}."
            )

    @property
    def crops_resized(self) -> bool:
        """Whether crops are cut from the image with its shorter side resized, not as it is."""
        return self.crop != "random_resized"

    @property
    def most(self) -> tuple[float, float]:
        """The greatest height per width and width per height."""
        return 1 / self.ratio[0], self.ratio[1]


class Draws(NamedTuple):
    """What is random about crops.

    Attributes:
      factors: float32 [..., 10, 2], height and width of ten candidates, as shares of the square
        root of the image's area.
      place: float32 [..., 2] in [0, 1), of the top left corner among those that fit.
      flip: bool [...], whether to mirror.
    """

    factors: Any
    place: Any
    flip: Any


def draw(
    augmentation: Augmentation, shape: tuple[int, ...], *, seed: int, epoch: int, block: int = 0
) -> Draws:
    """Draws for a block of an epoch's plan, of this shape, [s, C, B].

    The area is uniform in `scale`, the logarithm of the aspect is uniform in `ratio`.
    """
    # For the whole block, so that draws do not depend on where reading begins.
    generator = streams.generator(seed, Stream.CROPS, epoch, block)
    place = generator.random((*shape, 2), np.float32)
    flip = generator.random(shape, np.float32) < 0.5
    area = generator.uniform(*augmentation.scale, size=(*shape, _ATTEMPTS))
    low, high = (math.log(ratio) for ratio in augmentation.ratio)
    aspect = np.exp(generator.uniform(low, high, size=area.shape))
    factors = np.sqrt(np.stack([area / aspect, area * aspect], axis=-1)).astype(np.float32)
    return Draws(factors, place, flip & augmentation.flip)


def boxes(augmentation: Augmentation, sizes: np.ndarray, draws: Draws) -> np.ndarray:
    """Returns the boxes of training crops.

    Args:
      augmentation: the recipe.
      sizes: int32 [..., 2], height and width of the images; of the resized ones if
        `augmentation.crops_resized`.
      draws: one for each of them.

    Returns:
      int32 [..., 4]: top, left, height, width.
    """
    if augmentation.crop == "resize_then_random":
        sides = np.full_like(sizes, augmentation.size)
        return _as_boxes(_corner(draws.place, sizes - sides), sides)
    root = np.sqrt(np.prod(sizes, axis=-1, dtype=np.float64))[..., None, None]
    candidates = np.round(root * draws.factors.astype(np.float64)).astype(np.int32)
    fits = np.all((candidates > 0) & (candidates <= sizes[..., None, :]), axis=-1)
    first = fits.argmax(axis=-1)[..., None, None]  # argmax returns the first of equals
    sides = np.take_along_axis(candidates, first, axis=-2)[..., 0, :]
    central = np.round(sizes[..., ::-1].astype(np.float64) * augmentation.most)
    central = np.clip(central.astype(np.int32), 1, sizes)
    any_fits = fits.any(axis=-1, keepdims=True)
    corner = np.where(any_fits, _corner(draws.place, sizes - sides), (sizes - central) // 2)
    return _as_boxes(corner, np.where(any_fits, sides, central))


def center_boxes(sizes: np.ndarray, size: int) -> np.ndarray:
    """Returns the boxes int32 [..., 4] of size x size in the middle of images int32 [..., 2].

    An odd rest is halved to the even corner.
    """
    # np.round, like Python's and so the papers' transform, rounds a half to the even number.
    return _as_boxes(np.round((sizes - size) / 2), np.full_like(sizes, size))


def longest_side(augmentation: Augmentation, sizes: np.ndarray) -> int:
    """Returns a bound on the sides of all boxes in images of these sizes, int32 [N, 2]."""
    if augmentation.crop == "resize_then_random":
        return augmentation.size
    stretch = max(augmentation.most)
    root = np.sqrt(np.prod(sizes, axis=-1, dtype=np.float64) * augmentation.scale[1] * stretch)
    drawn = np.maximum(root, sizes.min(axis=-1) * stretch) + 1  # either is rounded
    return int(np.minimum(sizes.max(axis=-1), drawn).max())


def resize_sizes(sizes: np.ndarray, resize: int) -> np.ndarray:
    """Returns the sizes int32 [..., 2] of images whose shorter side has become `resize`."""
    short = sizes.min(axis=-1, keepdims=True)
    # The same middle as `augment.resize_shorter_side` takes.
    longest = np.where(short < resize, longest_aspect(resize) * short - sizes % 2, sizes)
    return (resize * np.minimum(sizes, longest) // short).astype(np.int32)


def longest_aspect(resize: int) -> int:
    """Returns how many times as long as wide an image may be to be enlarged whole."""
    return max(_MOST_PIXELS // resize**2, _MOST_ASPECT)


def _corner(place: np.ndarray, free: np.ndarray) -> np.ndarray:
    # Uniform in 0..free, both ends included: in float64 the product is exact.
    return (place.astype(np.float64) * (free + 1)).astype(np.int32)


def _as_boxes(corner: np.ndarray, sides: np.ndarray) -> np.ndarray:
    return np.concatenate([corner, sides], axis=-1).astype(np.int32)
