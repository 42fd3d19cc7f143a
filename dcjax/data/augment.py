"""Augments images in TensorFlow, one by one, as `crops` and `strategies` have drawn.

Images are uint8[h, w, 3] in, uint8[size, size, 3] out.
"""

from collections.abc import Callable
from typing import Any

from dcjax.data import crops, distortions, strategies
from dcjax.data.quiet_tensorflow import tf

Draws = dict[str, Any]
Augment = Callable[[tf.Tensor, Draws], tf.Tensor]
# From the size of an image, int32[2], to the top left corner and the sides of a box, int32[2] each.
FindBox = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

_STEPS: dict[str, Callable[[tf.Tensor, Any], tf.Tensor]] = {
    "flip": lambda image, draws: tf.reverse(image, [1]),
    "shift_rotate": distortions.shift_rotate,
    "holes": distortions.holes,
    "blur": distortions.blur,
    "brightness_contrast": distortions.brightness_contrast,
    "color_jitter": distortions.color_jitter,
    "grey": distortions.grey,
}


def draw(
    augmentation: crops.Augmentation,
    shape: tuple[int, ...],
    *,
    seed: int,
    epoch: int,
    block: int = 0,
) -> Draws:
    """Draws for a block of an epoch's plan, of this shape, [s, C, B].

    Returns:
      For each step of the strategy a named tuple of arrays that begin with the block's shape.
    """
    name, size = augmentation.strategy, augmentation.size
    crop = crops.draw(augmentation, shape, seed=seed, epoch=epoch, block=block)
    others = strategies.draw(name, shape, size=size, seed=seed, epoch=epoch, block=block)
    return {"crop": crop, "flip": strategies.Switch(crop.flip), **others}


def create(augmentation: crops.Augmentation) -> Augment:
    """Returns the function (image, draws) -> image that applies the steps of the strategy.

    The image is that of the file, or the resized one if `augmentation.crops_resized`; the draws are
    those of `draw` for it. Steps that are not applied cost nothing.
    """
    finish = create_for_box(augmentation)

    def augment(image: tf.Tensor, draws: Draws) -> tf.Tensor:
        corner, sides = find_box(augmentation, draws)(height_width(image))
        if cuts_first(augmentation):
            return finish(cut(image, corner, sides), draws)
        return finish(_cut_turned(image, draws["shift_rotate"], corner, sides), draws)

    return augment


def create_for_box(augmentation: crops.Augmentation) -> Augment:
    """Returns the function (box, draws) -> image that applies the steps after the cut of a box."""
    steps = strategies.STRATEGIES[augmentation.strategy]
    others, size = steps[steps.index("crop") + 1 :], augmentation.size

    def augment(image: tf.Tensor, draws: Draws) -> tf.Tensor:
        if augmentation.crop != "resize_then_random":
            image = resize(image, size, size)
        for step in others:
            image = _apply_step(step, image, draws[step])
        return image

    return augment


def cuts_first(augmentation: crops.Augmentation) -> bool:
    """Whether a box is cut before anything else, so that no other pixels are needed."""
    return strategies.STRATEGIES[augmentation.strategy][0] == "crop"


def find_box(augmentation: crops.Augmentation, draws: Draws) -> FindBox:
    """Returns the function from the size of an image to the box of its training crop."""
    crop = draws["crop"]
    if augmentation.crop != "resize_then_random":
        return lambda whole: random_resized_box(augmentation, whole, crop)
    sides = tf.constant([augmentation.size, augmentation.size])
    return lambda whole: (_corner(crop.place, whole - sides), sides)


def _apply_step(step: str, image: tf.Tensor, draws: Any) -> tf.Tensor:
    return tf.cond(draws.applied, lambda: _STEPS[step](image, draws), lambda: image)


def _cut_turned(
    image: tf.Tensor, draws: strategies.ShiftRotate, corner: tf.Tensor, sides: tf.Tensor
) -> tf.Tensor:
    # Only the pixels of the crop are computed.
    return tf.cond(
        draws.applied,
        lambda: distortions.shift_rotate_box(image, draws, corner, sides),
        lambda: cut(image, corner, sides),
    )


def random_resized_box(
    augmentation: crops.Augmentation, whole: tf.Tensor, draws: crops.Draws
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns corner int32[2] and sides int32[2] of a random area of random aspect.

    It is the first of ten draws that fits into the image; if none does, the largest central box
    that `ratio` allows (Szegedy et al. 2015). `crops.boxes` does the same for many images.
    """
    exact = tf.cast(whole, tf.float64)
    root = tf.sqrt(exact[0] * exact[1])
    candidates = tf.cast(tf.round(root * tf.cast(draws.factors, tf.float64)), tf.int32)
    fits = tf.reduce_all((candidates > 0) & (candidates <= whole), axis=1)
    sides = candidates[tf.argmax(fits)]  # argmax returns the first maximum
    most = tf.constant(augmentation.most, tf.float64)
    central = tf.clip_by_value(tf.cast(tf.round(exact[::-1] * most), tf.int32), 1, whole)
    any_fits = tf.reduce_any(fits)
    corner = tf.where(any_fits, _corner(draws.place, whole - sides), (whole - central) // 2)
    return corner, tf.where(any_fits, sides, central)


def resize_shorter_side(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes the shorter side to `size` and the other one to int(size * long / short).

    If an image is to be enlarged and its aspect exceeds `crops.longest_aspect`, both ends are cut
    off first.
    """
    whole = height_width(image)
    short = tf.reduce_min(whole)
    # An odd part of an odd length, so that the middle stays.
    longest = tf.where(short < size, crops.longest_aspect(size) * short - whole % 2, whole)
    kept = tf.minimum(whole, longest)
    sides = size * kept // short
    return resize(cut(image, (whole - kept) // 2, kept), sides[0], sides[1])


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Crops size x size from the middle; an odd rest is halved to the even corner."""
    # tf.round, like Python's and so the papers' transform, rounds a half to the even number.
    corner = tf.cast(tf.round((height_width(image) - size) / 2), tf.int32)
    return cut(image, corner, tf.constant([size, size]))


def cut(image: tf.Tensor, corner: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Returns the box of an image with this top left corner and these sides, int32[2] each."""
    return tf.slice(image, tf.concat([corner, [0]], 0), tf.concat([sides, [3]], 0))


def resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Resizes bilinearly, with antialias: means under a triangle, rounded half to even.

    The pixels are those of `tf.image.resize`, in half of the time: TensorFlow's kernel adds rows
    with vector instructions, and then the three channels of one pixel after the other without. Here
    it adds rows only; columns become rows in between.
    """
    whole = height_width(image)
    half = _resize_rows(tf.reshape(image, [whole[0], 3 * whole[1]]), height)
    columns = tf.reshape(tf.transpose(half), [whole[1], 3 * height])
    means = _resize_rows(columns, width)
    pixels = tf.cast(tf.round(means), tf.uint8)
    return tf.reshape(tf.transpose(tf.reshape(pixels, [3 * width, height])), [height, width, 3])


def _resize_rows(rows: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns so many means of rows [n, m], float32 [number, m]."""
    scale = tf.cast(number, tf.float32) / tf.cast(tf.shape(rows)[0], tf.float32)
    # One column of m channels.
    means = tf.raw_ops.ScaleAndTranslate(
        images=rows[None, :, None],
        size=tf.stack([number, 1]),
        scale=tf.stack([scale, 1.0]),
        translation=[0.0, 0.0],
        kernel_type="triangle",
        antialias=True,
    )
    return tf.squeeze(means, [0, 2])


def height_width(image: tf.Tensor) -> tf.Tensor:
    """Returns the size of an image, int32[2]."""
    return tf.shape(image)[:2]


def _corner(place: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    # Uniform in 0..free, both ends included: in float64 the product is exact.
    return tf.cast(tf.cast(place, tf.float64) * tf.cast(free + 1, tf.float64), tf.int32)
