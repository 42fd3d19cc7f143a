"""Random images with labels, for timing what does not depend on what they show."""

import numpy as np


def random_batches(size: int, batch_size: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 images [repeats, batch, size, size, 3] and labels, two of each class."""
    images = np.random.default_rng(0).integers(0, 256, (repeats, batch_size, size, size, 3))
    return images.astype(np.uint8), np.arange(batch_size) // 2
