"""Rotates, blurs and recolours images in TensorFlow, one by one, as `strategies` has drawn.

Images are uint8[h, w, 3] in and out. The pixels are those of the libraries that P21's code uses:
albumentations with OpenCV, and torchvision with PIL.
"""

import functools

from dcjax.data import strategies
from dcjax.data.quiet_tensorflow import tf


def shift_rotate(image: tf.Tensor, draws: strategies.ShiftRotate) -> tf.Tensor:
    """Turns an image about its centre and then shifts it; `shift_rotate_box` of the whole."""
    return shift_rotate_box(image, draws, tf.constant([0, 0]), tf.shape(image)[:2])


def shift_rotate_box(
    image: tf.Tensor, draws: strategies.ShiftRotate, corner: tf.Tensor, sides: tf.Tensor
) -> tf.Tensor:
    """Turns an image about its centre, then shifts it, bilinearly, and returns a box of that.

    Beyond its edges the image goes on reflected, the outermost pixels not repeated (reflect-101).

    Args:
      image: uint8[h, w, 3].
      draws: those of this image.
      corner: int32[2], top and left of the box.
      sides: int32[2], height and width of the box.
    """
    cosine, sine = tf.cos(draws.angle), tf.sin(draws.angle)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    center = size / 2  # as OpenCV counts, from the middle of the first pixel
    # Where the result's pixels come from: row = cosine * y + sine * x, column likewise.
    turn = tf.stack([[cosine, sine], [-sine, cosine]])
    moved = tf.cast(corner, tf.float32) - center - draws.shift * size
    start = tf.linalg.matvec(turn, moved) + center
    ends = turn * tf.cast(sides - 1, tf.float32)
    low = start + tf.reduce_sum(tf.minimum(ends, 0), axis=1)
    high = start + tf.reduce_sum(tf.maximum(ends, 0), axis=1)
    first, last = (tf.cast(tf.floor(x), tf.int32) for x in (low, high))
    row, column = tf.unstack(start - tf.cast(first, tf.float32))
    # None of the operation's fill modes is OpenCV's: REFLECT repeats the outermost pixels, WRAP
    # continues at the other side. For uint8 it would truncate.
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(_window(image, first, last + 2), tf.float32)[None],
        transforms=[[cosine, -sine, column, sine, cosine, row, 0.0, 0.0]],
        output_shape=sides,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return tf.cast(tf.round(turned[0]), tf.uint8)


def holes(image: tf.Tensor, draws: strategies.Holes) -> tf.Tensor:
    """Sets the pixels in boxes to black."""
    top, left, height, width = tf.unstack(draws.boxes[..., None], axis=1)
    row, column = (tf.range(side) for side in tf.unstack(tf.shape(image)[:2]))
    rows = tf.cast((row >= top) & (row < top + height), tf.float32)
    columns = tf.cast((column >= left) & (column < left + width), tf.float32)
    num_holes = tf.matmul(rows, columns, transpose_a=True)  # at each pixel
    return image * tf.cast(num_holes == 0, tf.uint8)[..., None]


def blur(image: tf.Tensor, draws: strategies.Blur) -> tf.Tensor:
    """Takes means over squares around each pixel, rounded; edges as in `shift_rotate_box`."""
    height, width = tf.unstack(tf.shape(image)[:2])

    # Sums of slices: tf.nn.depthwise_conv2d and tf.nn.avg_pool2d take four times as long.
    def means(kernel: int) -> tf.Tensor:
        reach = kernel // 2
        window = _window(image, [-reach, -reach], [height + reach, width + reach])
        window = tf.cast(window, tf.float32)
        rows = tf.add_n([window[i : i + height] for i in range(kernel)])
        sums = tf.add_n([rows[:, i : i + width] for i in range(kernel)])
        return tf.cast(tf.round(sums / kernel**2), tf.uint8)

    choices = [functools.partial(means, kernel) for kernel in strategies.BLUR_KERNELS]
    return tf.switch_case(tf.convert_to_tensor(draws.kernel), choices)


def brightness_contrast(image: tf.Tensor, draws: strategies.BrightnessContrast) -> tf.Tensor:
    """Multiplies and adds; truncates to integers, as all functions below."""
    return _to_uint8(tf.cast(image, tf.float32) * draws.factor + draws.offset)


def color_jitter(image: tf.Tensor, draws: strategies.ColorJitter) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in the order that was drawn."""
    changes = (_adjust_brightness, _adjust_contrast, _adjust_saturation, _adjust_hue)
    for one in tf.unstack(draws.order):
        choices = [functools.partial(change, image, draws) for change in changes]
        image = tf.switch_case(one, choices)
    return image


def grey(image: tf.Tensor, draws: strategies.Switch) -> tf.Tensor:
    """Sets all channels to the luma."""
    return tf.repeat(tf.cast(_luma(image), tf.uint8), 3, axis=2)


def _adjust_brightness(image: tf.Tensor, draws: strategies.ColorJitter) -> tf.Tensor:
    return _blend(0.0, image, draws.brightness)


def _adjust_contrast(image: tf.Tensor, draws: strategies.ColorJitter) -> tf.Tensor:
    # In float64, in which the sum is exact.
    mean = tf.floor(tf.reduce_mean(tf.cast(_luma(image), tf.float64)) + 0.5)
    return _blend(tf.cast(mean, tf.float32), image, draws.contrast)


def _adjust_saturation(image: tf.Tensor, draws: strategies.ColorJitter) -> tf.Tensor:
    return _blend(_luma(image), image, draws.saturation)


def _adjust_hue(image: tf.Tensor, draws: strategies.ColorJitter) -> tf.Tensor:
    # Not tf.image.adjust_hue: PIL has bytes for hue and saturation, and that shows. The hue of
    # tf.image.rgb_to_hsv is PIL's byte but for 0.3 % of all colours, where it is the next one.
    hsv = tf.image.rgb_to_hsv(tf.cast(image, tf.float32))
    units = tf.constant([255.0, 255.0, 1.0])
    zero = tf.zeros_like(draws.hue)
    moved = tf.cast(hsv * units, tf.uint8) + tf.stack([draws.hue, zero, zero])  # wraps round
    hsv = tf.cast(moved, tf.float32) / units
    return tf.cast(tf.round(tf.image.hsv_to_rgb(hsv)), tf.uint8)


def _luma(image: tf.Tensor) -> tf.Tensor:
    """Returns 0.299 R + 0.587 G + 0.114 B (ITU-R 601-2), rounded, as float32[h, w, 1]."""
    # PIL's integers, exact in float32; tf.image.rgb_to_grayscale differs for a quarter of all
    # colours.
    weights = tf.constant([19595.0, 38470.0, 7471.0])
    sums = tf.linalg.matvec(tf.cast(image, tf.float32), weights)
    return tf.floor(sums / 2**16 + 0.5)[..., None]


def _blend(other: tf.Tensor | float, image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Returns the mixture in which `share`, which may be above 1, is the image's."""
    return _to_uint8(other + share * (tf.cast(image, tf.float32) - other))


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)


def _window(
    image: tf.Tensor, start: tf.Tensor | list[int], stop: tf.Tensor | list[tf.Tensor]
) -> tf.Tensor:
    """Returns the pixels from `start` to `stop`, rows and columns, those reflected included."""
    for axis in (0, 1):
        last = tf.shape(image)[axis] - 1
        index = tf.range(start[axis], stop[axis]) % tf.maximum(2 * last, 1)
        image = tf.gather(image, tf.minimum(index, 2 * last - index), axis=axis)
    return image
