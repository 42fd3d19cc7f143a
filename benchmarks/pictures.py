r"""Pictures of the augmentations, and what they cost: docs/augment_STRATEGY.jpg.

    PYTHONPATH=. python benchmarks/pictures.py          # writes the pictures, in half a minute
    PYTHONPATH=. python benchmarks/pictures.py --time   # times the strategies, in two minutes

Every example is made by the pipeline, at 224 x 224 pixels, from one of the two photographs that
come with scikit-learn, and shown at half its size. All pictures have the same crops and flips.
"""

import argparse
import pathlib
from functools import partial

import numpy as np
import sklearn
from compare import Job, compare

from dcjax.data import augment, crops, pipeline, strategies
from dcjax.data.datasets.image_set import from_classes
from dcjax.data.quiet_tensorflow import tf
from dcjax.division import sampling

PHOTOGRAPHS = [
    str(pathlib.Path(sklearn.__file__).parent / "datasets" / "images" / name)
    for name in ("china.jpg", "flower.jpg")
]
DOCS = pathlib.Path(__file__).parents[1] / "docs"
ROWS, COLUMNS, SHOWN, GAP = 4, 8, 112, 2  # the last two in pixels
SIZE, RESIZE = 224, 256


def examples(strategy: str, number: int) -> list[np.ndarray]:
    """Returns an epoch of so many images uint8[number, 224, 224, 3], in batches, on one thread."""
    augmentation = crops.Augmentation(size=SIZE, resize=RESIZE, strategy=strategy)
    images = from_classes(np.repeat(PHOTOGRAPHS, number // 2), np.zeros(number))
    rows = np.arange(number, dtype=np.int32).reshape(-1, 1, COLUMNS)
    block = sampling.Block(rows, np.zeros(rows.shape[:2], np.int32))
    stream = pipeline.Stream(images, augmentation, seed=0, num_threads=1)
    return [batch["image"][0] for batch in stream.train_batches([block], epoch=0)]


def picture(strategy: str) -> np.ndarray:
    """Returns rows of examples uint8[height, width, 3], white between them."""
    around = [(0, 0), (GAP, 0), (GAP, 0), (0, 0)]
    rows = [
        np.pad([augment.resize(x, SHOWN, SHOWN) for x in row], around, constant_values=255)
        for row in examples(strategy, ROWS * COLUMNS)
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[GAP:, GAP:]


def epoch(strategy: str, number: int) -> Job:
    """Prepares epochs of one strategy."""
    return lambda: examples(strategy, number)


def main() -> None:
    """Writes the pictures, or times the strategies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", action="store_true", help="time the strategies instead")
    args = parser.parse_args()
    if args.time:
        number = 640
        contestants = {name: partial(epoch, name, number) for name in strategies.STRATEGIES}
        title = f"{number} photographs of 640 x 427 pixels, decoded and augmented on one thread"
        compare(title, contestants, same_job=False, work=number, unit="images")
        return
    for strategy in strategies.STRATEGIES:
        path = DOCS / f"augment_{strategy}.jpg"
        path.write_bytes(tf.io.encode_jpeg(picture(strategy), quality=85).numpy())
        print(f"wrote {path.relative_to(DOCS.parent)}, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
