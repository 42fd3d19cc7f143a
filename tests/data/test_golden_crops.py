"""Crops keep the pixels that they had when whole images were decoded and resized by TensorFlow."""

from pathlib import Path

import numpy as np
import pytest

from dcjax.data import crops, pictures, pipeline, readers
from dcjax.data.datasets.image_set import ImageSet, from_classes
from dcjax.division.sampling import Block

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "crops.npz")
SIZE, RESIZE = 20, 24
MOST_CHANGED = 0.001  # share of the values that may differ by more than one grey level


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """The files that benchmarks/golden_crops.py made."""
    names = [name for name in GOLDEN.files if name.startswith("file/")]
    paths = [tmp_path / f"{i}.jpg" for i in range(len(names))]
    for path, name in zip(paths, names, strict=True):
        path.write_bytes(GOLDEN[name].tobytes())
    return from_classes([str(path) for path in paths], np.zeros(len(paths)))


def stream(images: ImageSet, crop: str) -> pipeline.Stream:
    return pipeline.Stream(images, crops.Augmentation(crop, SIZE, RESIZE), seed=0, num_threads=2)


def assert_same_pixels(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert (difference > 1).mean() <= MOST_CHANGED


@pytest.mark.parametrize("crop", crops.CROPS)
def test_training_crops_keep_their_pixels(images, crop):
    expected = GOLDEN[f"crops/{crop}"]
    rows = np.broadcast_to(np.arange(len(images), dtype=np.int32), expected.shape[:3])
    block = Block(rows, np.zeros(rows.shape[:2], np.int32))
    batches = stream(images, crop).train_batches([block], epoch=0)
    assert_same_pixels(np.stack([batch["image"] for batch in batches]), expected)


def test_centre_crops_keep_their_pixels_in_the_pipeline_and_in_an_embedder(images):
    rows = readers.rows_to_embed(len(images), len(images))
    (batch,) = stream(images, "random_resized").eval_batches(rows)
    assert_same_pixels(batch, GOLDEN["centre"])
    reader = pictures.CropReader(resize=RESIZE, size=SIZE)
    (batch,) = reader.batches(images.images.tolist(), len(images))
    assert_same_pixels(batch, GOLDEN["centre"])
