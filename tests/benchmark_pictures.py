"""Pictures of small synthetic versions of the five benchmarks, the same in every layout.

A class has its own colours and stripes, under noise, so that even a tiny network can learn it.
"""

import colorsys
import dataclasses
import io
import math

import numpy as np
from PIL import Image

TEST_LISTS = ("small", "medium", "large")  # VehicleID: a third, two thirds and all of the vehicles
_LAST_CLASSES = {  # number of training and all classes; None: those to train on are among them
    "cub": (100, 200),
    "cars": (98, 196),
    "sop": (11318, 22634),
    "inshop": (None, 7982),
    "vid": (None, 26328),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a benchmark.

    Attributes:
      jpeg: its file.
      size: width and height in pixels.
      class_id: as the data set's lists write it, a number from 1 on.
      number: among those of its class, from 0 on.
      part: train, query or gallery of the protocol for metric learning; gallery in In-shop only.
      test_lists: the names of VehicleID's test lists that it is in.
    """

    jpeg: bytes
    size: tuple[int, int]
    class_id: int
    number: int
    part: str
    test_lists: tuple[str, ...]


def create(
    name: str,
    *,
    num_train_classes: int = 12,
    num_test_classes: int = 8,
    images_per_class: int = 8,
) -> list[Picture]:
    """Creates the pictures of a benchmark, the same ones at every call.

    Args:
      name: cub, cars, sop, inshop or vid.
      num_train_classes: their ids are distributed over the range of the benchmark's ids.
      num_test_classes: likewise.
      images_per_class: on average; each class has up to two more or fewer, and at least two.

    Returns:
      The pictures, in the order of their class ids.
    """
    rng = np.random.default_rng(list(_LAST_CLASSES).index(name))
    train, test = _class_ids(name, num_train_classes, num_test_classes, rng)
    taken = []
    for look, class_id in enumerate(train + test):
        trained, lists = look < len(train), _test_lists(look - len(train), len(test))
        for number in range(max(2, images_per_class + int(rng.integers(-2, 3)))):
            pixels = _pixels(look, rng)
            searched = name == "inshop" and number % 2
            taken.append(
                Picture(
                    jpeg=_encode(pixels),
                    size=(pixels.shape[1], pixels.shape[0]),
                    class_id=class_id,
                    number=number,
                    part="train" if trained else "gallery" if searched else "query",
                    test_lists=lists if name == "vid" and not trained else (),
                )
            )
    return sorted(taken, key=lambda picture: picture.class_id)


def _class_ids(
    name: str, num_train: int, num_test: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    last_train, last = _LAST_CLASSES[name]
    if last_train is None:
        ids = rng.permutation(np.linspace(2, last, num_train + num_test, dtype=int)).tolist()
        return ids[:num_train], ids[num_train:]
    train = np.linspace(1, last_train, num_train, dtype=int)
    return train.tolist(), np.linspace(last_train + 1, last, num_test, dtype=int).tolist()


def _test_lists(place: int, num_vehicles: int) -> tuple[str, ...]:
    """Returns the test lists that contain the vehicle at this position among all test vehicles."""
    lengths = [math.ceil(num_vehicles * thirds / 3) for thirds in (1, 2, 3)]
    return tuple(x for x, length in zip(TEST_LISTS, lengths, strict=True) if place < length)


def _pixels(look: int, rng: np.random.Generator) -> np.ndarray:
    """Draws uint8 [height, width, 3]: stripes in two colours, placed and lit at random."""
    height, width = rng.integers(24, 41, 2)
    turn = 0.618 * look  # multiples of the golden ratio, so that any two classes look different
    first, second = (np.array(colorsys.hsv_to_rgb(hue % 1, 0.7, 0.8)) for hue in (turn, 1.6 * turn))
    down, across = np.mgrid[:height, :width]
    along = across * np.cos(np.pi * turn) + down * np.sin(np.pi * turn)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (along / (5 + look % 4) + rng.random()))[..., None]
    image = (wave * first + (1 - wave) * second) * rng.uniform(0.6, 1.2)
    return np.clip(255 * image + rng.normal(0, 25, image.shape), 0, 255).astype(np.uint8)


def _encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
