"""The device cache gives the pixels of the pipeline from device memory, with one compilation."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from dcjax.data import crops, device_cache, pipeline, readers
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.image_set import from_classes
from dcjax.data.quiet_tensorflow import tf
from dcjax.distributed import devices
from dcjax.division.sampling import Block

CROP = crops.Augmentation(
    "resize_then_random_resized",
    size=24,
    resize=40,
    scale=(0.1, 1.0),
    ratio=(0.75, 4 / 3),
    flip=True,
    strategy="standard",
)
AS_IT_IS = dataclasses.replace(CROP, crop="resize_then_random")


def mesh(num_devices: int = 1) -> jax.sharding.Mesh:
    return devices.create_mesh(jax.devices()[:num_devices])


def pictures(folder, sizes) -> ImageSet:
    """PNG files of noise in two classes."""
    paths = [str(folder / f"{i}.png") for i in range(len(sizes))]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
        tf.io.write_file(path, tf.io.encode_png(pixels))
    return from_classes(paths, np.arange(len(sizes)) % 2)


@pytest.fixture
def resized(tmp_path) -> ImageSet:
    """Images whose shorter side has the resize size: square, tall, wide and odd ones."""
    return pictures(tmp_path, [(40, 40), (40, 61), (75, 40), (40, 41), (90, 40), (53, 40)])


@pytest.fixture
def any_size(tmp_path) -> ImageSet:
    """Images that must be resized first."""
    return pictures(tmp_path, [(31, 31), (64, 99), (20, 50), (81, 45), (41, 40)])


def stream(images, augmentation=CROP) -> pipeline.Stream:
    return pipeline.Stream(images, augmentation, seed=0, num_threads=2)


def cache(images, augmentation=CROP, num_devices=1) -> device_cache.Cache:
    (made,) = device_cache.create([stream(images, augmentation)], mesh(num_devices))
    return made


def block(images, num_steps=6, shape=(2, 8)) -> Block:
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(images), (num_steps, *shape)).astype(np.int32)
    return Block(rows, generator.integers(0, 4, rows.shape[:2]).astype(np.int32))


def largest_difference(batches, others) -> int:
    """Asserts that all but the pixels is equal, and returns the largest difference of pixels."""
    largest = 0
    for batch, other in itertools.zip_longest(batches, others):
        assert batch.keys() == other.keys()
        for key in ("label", "cluster"):
            assert batch[key].dtype == other[key].dtype == np.int32
            np.testing.assert_array_equal(batch[key], other[key])
        image, other_image = np.asarray(batch["image"]), np.asarray(other["image"])
        assert image.dtype == other_image.dtype == np.uint8
        assert image.shape == other_image.shape
        apart = np.abs(image.astype(int) - other_image)
        assert np.mean(apart > 0) < 0.02  # sums close to a half may round differently
        largest = max(largest, int(apart.max()))
    return largest


# Shrinks a lot, shrinks a little, mostly enlarges.
@pytest.mark.parametrize(("size", "flip"), [(7, True), (24, False), (40, True)])
def test_resized_crops_agree_with_the_pipeline_within_a_grey_level(resized, size, flip):
    augmentation, steps = dataclasses.replace(CROP, size=size, flip=flip), block(resized)
    batches = stream(resized, augmentation).train_batches([steps], epoch=1)
    assert (
        largest_difference(cache(resized, augmentation).train_batches([steps], epoch=1), batches)
        <= 1
    )


@pytest.mark.parametrize(("size", "max_difference"), [(7, 1), (40, 0)])
def test_largest_crop_agrees_and_is_exact_at_the_output_size(resized, size, max_difference):
    augmentation = dataclasses.replace(CROP, size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    square, steps = (
        resized.select([0]),
        Block(np.zeros((1, 1, 9), int), np.zeros((1, 1), np.int32)),
    )
    batches = stream(square, augmentation).train_batches([steps], epoch=0)
    assert (
        largest_difference(cache(square, augmentation).train_batches([steps], epoch=0), batches)
        <= max_difference
    )


@pytest.mark.parametrize(("images", "size"), [("resized", 24), ("any_size", 40)])
def test_pixels_that_are_not_resized_again_are_exact(images, size, request):
    images = request.getfixturevalue(images)
    augmentation, steps = dataclasses.replace(AS_IT_IS, size=size), block(images)
    files, held = stream(images, augmentation), cache(images, augmentation)
    batches = files.train_batches([steps], epoch=1)
    assert largest_difference(held.train_batches([steps], epoch=1), batches) == 0
    rows = readers.rows_to_embed(len(images), 4)
    for batch, other in itertools.zip_longest(held.eval_batches(rows), files.eval_batches(rows)):
        np.testing.assert_array_equal(batch, other)


def test_images_of_any_size_are_cropped_after_resizing(any_size):
    steps = block(any_size)
    batches = stream(any_size).train_batches([steps], epoch=0)
    assert largest_difference(cache(any_size).train_batches([steps], epoch=0), batches) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_memory_are_cached_too(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 30, 45, channels)).astype(np.uint8)
    images = from_classes(pixels, np.zeros(5))
    held, files = cache(images, AS_IT_IS), stream(images, AS_IT_IS)
    steps = block(images)
    batches = files.train_batches([steps], epoch=0)
    assert largest_difference(held.train_batches([steps], epoch=0), batches) == 0


def test_cache_does_not_depend_on_the_block_size_used_to_fill_it(resized, monkeypatch):
    rows = readers.rows_to_embed(len(resized), 6)
    expected = list(cache(resized, AS_IT_IS).eval_batches(rows))
    for lines in (1, 50, 333):
        monkeypatch.setattr(device_cache, "_LINES_AT_ONCE", lines)
        np.testing.assert_array_equal(list(cache(resized, AS_IT_IS).eval_batches(rows)), expected)


def test_reading_can_start_at_any_step(resized):
    held, steps = cache(resized), block(resized)
    every = list(held.train_batches([steps], epoch=2))
    for first_step in (0, 1, 5):
        later = held.train_batches([steps.skip(first_step)], epoch=2)
        assert largest_difference(later, every[first_step:]) == 0


def test_pixels_differ_between_epochs(resized):
    held, steps = cache(resized), block(resized)
    (one, *_), (other, *_) = (held.train_batches([steps], epoch=epoch) for epoch in (0, 1))
    assert not (np.asarray(one["image"]) == other["image"]).all(axis=(2, 3, 4)).any()


def test_each_device_crops_its_own_shard(resized):
    held, steps = cache(resized, num_devices=4), block(resized)
    alone = cache(resized).train_batches([steps], epoch=0)
    batches = list(held.train_batches([steps], epoch=0))
    assert largest_difference(batches, alone) == 0
    shardings = devices.batch_shardings(mesh(4))
    for batch in batches:
        assert batch["image"].sharding.is_equivalent_to(shardings["image"], ndim=5)
        (placed,) = devices.prefetch([batch], shardings)
        assert placed["image"] is batch["image"]  # nothing is transferred
    places = held._places(*(np.zeros(shape, int) for shape in ((1, 8), (1, 8, 4), (1, 8))))
    compiled = jax.jit(held._crop_train).lower(held.lines, places).compile().as_text()
    assert not [word for word in ("all-", "collective", "permute") if f" {word}" in compiled]
    (batch, *_) = held.eval_batches(readers.rows_to_embed(len(resized), 4, 4))
    assert batch.sharding.is_equivalent_to(devices.rows_sharding(mesh(4)), ndim=4)


def test_nothing_is_compiled_after_the_first_batches(resized, caplog):
    held = cache(resized)
    rows, compiled = readers.rows_to_embed(len(resized), 4), []
    with jax.log_compiles(True):
        for epoch, num_steps in enumerate([3, 5, 2]):
            assert (
                len(list(held.train_batches([block(resized, num_steps)], epoch=epoch))) == num_steps
            )
            assert len(list(held.eval_batches(rows))) == 2
            compiled.append(sum("Compiling" in record.getMessage() for record in caplog.records))
    assert compiled[0] == compiled[2] > 0


def test_no_memory_is_wasted_between_images(any_size):
    sizes = stream(any_size).resized_sizes()
    least = int(sizes.prod(axis=1).sum()) * 3
    held = cache(any_size).lines.nbytes
    assert least <= held < least + device_cache._LINES_AT_ONCE * 40 * 3


def test_insufficient_memory_is_reported_before_any_image_is_decoded(resized, monkeypatch):
    monkeypatch.setattr(device_cache, "free_bytes", lambda mesh: 2**30)
    monkeypatch.setattr(pipeline.Stream, "resized_images", None)
    small, large = (
        stream(from_classes(np.zeros((n, 2, 300, 1), np.uint8), np.zeros(n))) for n in (10, 2000)
    )
    with pytest.raises(TypeError):  # fits, and so decoding would start
        device_cache.create([small, small], mesh())
    message = (
        r"dataset.cache=device needs 1,380 MiB .* 2010 images at 40 pixels, got 1,024 MiB; set "
        r"dataset.cache=none, or a smaller dataset.resize\."
    )
    with pytest.raises(ValueError, match=message):
        device_cache.create([small, large], mesh())


def test_free_memory_is_that_of_the_fullest_device_or_the_machine():
    machine = device_cache.free_bytes(mesh())
    assert 2**27 < machine < 2**50
    assert device_cache.free_bytes(mesh(4)) == pytest.approx(machine / 4, rel=0.01)
