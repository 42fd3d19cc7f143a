"""Omniglot (Lake et al. 2015): handwritten characters; evaluation alphabets are the test part.

The super-class of a character is its alphabet.
"""

import numpy as np

from dcjax.data.datasets.files import find_root, parse_errors
from dcjax.data.datasets.image_set import Splits, split_by_class
from dcjax.data.datasets.request import Request

_FILE = "omniglot_105.npz"
_SIDE = 105


def load(request: Request) -> Splits:
    """Loads 964 characters to train on and 659 of other alphabets, ink white (255) on black."""
    path = find_root(request.root, "omniglot", marker=_FILE) / _FILE
    with parse_errors(path), path.open("rb") as content, np.load(content) as file:
        bits, classes = file["ink_bits"], file["label"].astype(np.int64)
        names = dict(enumerate(file["class_name"].tolist()))
        is_train = file["class_part"][classes] == 0
        ink = np.unpackbits(bits, axis=1, count=_SIDE * _SIDE)
    pixels = (ink * np.uint8(255)).reshape(-1, _SIDE, _SIDE, 1)
    alphabets = {i: name.split("/")[0] for i, name in names.items()}
    return split_by_class(pixels, classes, is_train, names=names, super_classes=alphabets)
