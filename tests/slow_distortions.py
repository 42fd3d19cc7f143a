"""The steps of strategies pixel by pixel in plain Python, to test the fast versions against."""

import colorsys
import math

import numpy as np


def reflect(index: int, length: int) -> int:
    """Reflects an index at the first and the last pixel."""
    while not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
        index = 0 if length == 1 else index
    return index


def shift_rotate(image: np.ndarray, draws) -> np.ndarray:
    """Each pixel of the result is looked up in the source by OpenCV's inverted matrix."""
    height, width, _ = image.shape
    cosine, sine, x, y = math.cos(draws.angle), math.sin(draws.angle), width / 2, height / 2
    there = np.array(
        [
            [cosine, sine, x - cosine * x - sine * y + draws.shift[1] * width],
            [-sine, cosine, y + sine * x - cosine * y + draws.shift[0] * height],
            [0, 0, 1],
        ]
    )
    back, result = np.linalg.inv(there), np.zeros(image.shape)
    for row, column in np.ndindex(height, width):
        x, y, _ = back @ [column, row, 1]
        for i, j in np.ndindex(2, 2):
            near_x, near_y = math.floor(x) + i, math.floor(y) + j
            weight = (1 - abs(x - near_x)) * (1 - abs(y - near_y))
            pixel = image[reflect(near_y, height), reflect(near_x, width)]
            result[row, column] += weight * pixel
    return np.round(result).astype(np.uint8)


def holes(image: np.ndarray, draws) -> np.ndarray:
    image = image.copy()
    for top, left, height, width in draws.boxes:
        image[top : top + height, left : left + width] = 0
    return image


def blur(image: np.ndarray, draws) -> np.ndarray:
    kernel, result = (3, 5, 7)[draws.kernel], np.zeros(image.shape)
    for row, column in np.ndindex(*image.shape[:2]):
        for i, j in np.ndindex(kernel, kernel):
            y = reflect(row + i - kernel // 2, image.shape[0])
            x = reflect(column + j - kernel // 2, image.shape[1])
            result[row, column] += image[y, x]
    return np.round(result / kernel**2).astype(np.uint8)


def brightness_contrast(image: np.ndarray, draws) -> np.ndarray:
    return clip(image * draws.factor + draws.offset)


def color_jitter(image: np.ndarray, draws) -> np.ndarray:
    for change in draws.order:
        luma = grey(image).astype(np.float32)
        if change == 0:
            image = clip(draws.brightness * image)
        elif change == 1:
            mean = np.float32(math.floor(luma.mean(dtype=float) + 0.5))
            image = clip(mean + draws.contrast * (image - mean))
        elif change == 2:
            image = clip(luma + draws.saturation * (image - luma))
        else:
            image = np.apply_along_axis(shift_hue, 2, image, int(draws.hue))
    return image


def shift_hue(pixel: np.ndarray, steps: int) -> np.ndarray:
    """Shifts the hue; hue and saturation are bytes, as in PIL."""
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
    hue, saturation = (int(255 * hue) + steps) % 256, int(255 * saturation)
    return np.round(colorsys.hsv_to_rgb(hue / 255, saturation / 255, value)).astype(np.uint8)


def grey(image: np.ndarray, draws=None) -> np.ndarray:
    weights = [0.299, 0.587, 0.114]
    return np.repeat(np.round(image @ weights).astype(np.uint8)[..., None], 3, axis=2)


def flip(image: np.ndarray, draws) -> np.ndarray:
    return image[:, ::-1]


def clip(pixels: np.ndarray) -> np.ndarray:
    """Clips to bytes and truncates fractions."""
    return np.clip(pixels, 0, 255).astype(np.uint8)
