"""Pictures of noise, as arrays and as files."""

from pathlib import Path

import numpy as np

from dcjax import decoding
from dcjax.datasets.image_set import ImageSet, from_classes
from dcjax.quiet_tensorflow import tf


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def decoded(path: str) -> np.ndarray:
    return decoding.decode(tf.io.read_file(path)).numpy()


def twelve_files(folder: Path) -> ImageSet:
    """Twelve JPEG files of four classes; the first three take much longer to decode."""
    paths = [str(folder / f"{i}.jpg") for i in range(12)]
    for i, path in enumerate(paths):
        size = (400, 500) if i < 3 else (20 + i, 30 - i)
        tf.io.write_file(path, tf.io.encode_jpeg(noise(*size, seed=i)))
    return from_classes(paths, np.arange(12) % 4)
