"""Crops of pixels in memory equal those of the pipeline, and are made without TensorFlow."""

import dataclasses
import itertools

import numpy as np
import pytest

from dcjax.data import crops, pipeline, pixel_reader, readers
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.image_set import from_classes
from dcjax.distributed import devices
from dcjax.division.sampling import Block

_CROP = crops.Augmentation("resize_then_random", size=8, resize=11, flip=True, strategy="standard")


def _images(*shape: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (7, *shape)).astype(np.uint8)
    return from_classes(pixels, np.arange(7) % 2)


@pytest.mark.parametrize("shape", [(11, 15, 1), (14, 11, 3), (11, 11, 3)])
def test_crops_equal_those_of_the_pipeline(shape: tuple[int, ...]) -> None:
    images = _images(*shape)
    assert pixel_reader.can_read(images, _CROP)
    rows = np.random.default_rng(1).integers(0, 7, (4, 2, 6)).astype(np.int32)
    # A part of a block, for one of two processes.
    block = Block(rows, np.arange(8, dtype=np.int32).reshape(4, 2), number=3, skipped=2)
    share = devices.Share(slice(0, 1), slice(3, 6))
    read = pixel_reader.PixelReader(images, _CROP, seed=5, share=share)
    streamed = pipeline.Stream(images, _CROP, seed=5, num_threads=1, share=share)
    batches = [x.train_batches([block], epoch=2) for x in (read, streamed)]
    mirrored = set()
    for batch, other in itertools.zip_longest(*batches):
        assert batch.keys() == other.keys()
        for key, values in batch.items():
            assert values.dtype == other[key].dtype
            np.testing.assert_array_equal(values, other[key])
        mirrored.add(batch["image"].tobytes())
    assert len(mirrored) > 1
    evaluated = readers.rows_to_embed(7, 4)
    pairs = itertools.zip_longest(read.eval_batches(evaluated), streamed.eval_batches(evaluated))
    for crop, other in pairs:
        np.testing.assert_array_equal(crop, other)


def test_images_that_a_step_resizes_or_changes_are_left_to_the_pipeline() -> None:
    images = _images(11, 15, 3)
    features = ImageSet(np.ones((2, 3), np.float32), np.zeros(2, np.int32), ("",))
    files = ImageSet(np.array(["a.png"]), np.zeros(1, np.int32), ("",))
    for other in (_images(12, 15, 3), _images(10, 15, 3), features, files):
        assert not pixel_reader.can_read(other, _CROP)
    for changes in (
        {"crop": "random_resized"},
        {"crop": "resize_then_random_resized"},
        {"strategy": "geom"},
    ):
        assert not pixel_reader.can_read(images, dataclasses.replace(_CROP, **changes))
