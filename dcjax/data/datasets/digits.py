"""Handwritten digits of scikit-learn's wheel: 1,797 images of 8 x 8, to try things offline."""

import numpy as np
from sklearn.datasets import load_digits

from dcjax.data.datasets.image_set import Splits, split_by_class
from dcjax.data.datasets.request import Request


def load(request: Request) -> Splits:
    """Loads digits 0-4 to train on and 5-9 to retrieve; they need no folder."""
    del request
    data = load_digits()
    pixels = np.round(data.images[..., None] * (255 / 16)).astype(np.uint8)
    return split_by_class(pixels, data.target, data.target < 5)
