"""Writes the crops that tests compare the pipeline with: whole images decoded, cut and resized.

Needs what dcjax needs, and is run only to make the file anew:

    python benchmarks/golden_crops.py

tests/golden/crops.npz: a few small files, as bytes, the crops that the pipeline made of them while
it decoded whole images with TensorFlow and resized with `tf.image.resize`, and their centre crops.
Here Pillow decodes.
"""

import io
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from dcjax.data import crops

FILE = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "crops.npz"
SIZE, RESIZE = 20, 24
STEPS, SEED, EPOCH = 4, 0, 0
ORIENTATION = 0x0112  # Exif tag


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Returns a picture with the spectrum of photographs, amplitude 1 / frequency."""
    noise = np.random.default_rng(seed).normal(size=(3, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    pixels = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    pixels = np.clip(128 + 50 * pixels / pixels.std(), 0, 255)
    return Image.fromarray(np.moveaxis(pixels, 0, -1).astype(np.uint8))


def files() -> dict[str, bytes]:
    """Returns encoded pictures of several kinds, larger and smaller than the crops, by name."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "half the colours": (picture(90, 120, 0), "JPEG", {"quality": 90}),
        "all colours": (picture(101, 75, 1), "JPEG", {"quality": 80, "subsampling": "4:4:4"}),
        "progressive": (picture(17, 29, 2), "JPEG", {"progressive": True}),
        "turned": (picture(64, 90, 3), "JPEG", {"exif": turned}),
        "grey": (picture(53, 53, 4).convert("L"), "JPEG", {}),
        "PNG": (picture(40, 31, 5), "PNG", {}),
    }
    encoded = {}
    for name, (image, form, options) in made.items():
        file = io.BytesIO()
        image.save(file, form, **options)
        encoded[name] = file.getvalue()
    return encoded


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes in the way that the bound on pixels is about."""
    resized = tf.image.resize(image, [height, width], antialias=True)
    return resized.numpy().round().astype(np.uint8)


def cut(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns the pixels of a box: top, left, height, width."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def train_crops(images: list[np.ndarray], crop: str) -> np.ndarray:
    """Returns the crops of the steps of an epoch, each of all images, uint8[steps, 1, N, ...]."""
    augmentation = crops.Augmentation(crop, SIZE, RESIZE)
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    draws = crops.draw(augmentation, (STEPS, 1, len(images)), seed=SEED, epoch=EPOCH)
    boxes = crops.boxes(augmentation, np.broadcast_to(sizes, (STEPS, 1, *sizes.shape)), draws)
    made = np.zeros((STEPS, 1, len(images), SIZE, SIZE, 3), np.uint8)
    for place in np.ndindex(made.shape[:3]):
        part = cut(images[place[2]], boxes[place])
        part = part if crop == "resize_then_random" else resize(part, SIZE, SIZE)
        made[place] = part[:, ::-1] if draws.flip[place] else part
    return made


def main() -> None:
    """Writes the file."""
    encoded = files()
    opened = (Image.open(io.BytesIO(content)) for content in encoded.values())
    images = [np.asarray(ImageOps.exif_transpose(image).convert("RGB")) for image in opened]
    sizes = crops.resize_sizes(np.array([image.shape[:2] for image in images]), RESIZE)
    resized = [resize(image, *size) for image, size in zip(images, sizes, strict=True)]
    boxes = crops.center_boxes(sizes, SIZE)
    found = {f"file/{name}": np.frombuffer(content, np.uint8) for name, content in encoded.items()}
    found["centre"] = np.stack([cut(*pair) for pair in zip(resized, boxes, strict=True)])
    for crop in crops.CROPS:
        found[f"crops/{crop}"] = train_crops(images if crop == "random_resized" else resized, crop)
    np.savez_compressed(FILE, allow_pickle=False, **found)


if __name__ == "__main__":
    main()
