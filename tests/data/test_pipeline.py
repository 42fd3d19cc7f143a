"""Pixels depend only on seed, epoch and position in the plan; unreadable files are named."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from pictures import decoded, noise, twelve_files

from dcjax.data import augment, crops, datasets, pipeline, readers
from dcjax.data.datasets.image_set import ImageSet, from_classes
from dcjax.data.quiet_tensorflow import tf
from dcjax.data.strategies import STRATEGIES
from dcjax.division.sampling import Block


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    return twelve_files(tmp_path)


@pytest.fixture
def steps() -> Block:
    """Five steps of two cluster batches of three images."""
    rows = np.random.default_rng(0).integers(0, 12, (5, 2, 3)).astype(np.int32)
    clusters = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [0, 3]], np.int32)
    return Block(rows, clusters)


CROP = crops.Augmentation(
    "random_resized",
    size=8,
    resize=10,
    scale=(0.2, 1.0),
    ratio=(0.75, 1.5),
    flip=True,
    strategy="standard",
)


def stream(images, *, seed=0, num_threads=2, **changes):
    augmentation = dataclasses.replace(CROP, **changes)
    return pipeline.Stream(images, augmentation, seed=seed, num_threads=num_threads)


def read(images, *blocks, epoch=3, **changes):
    return list(stream(images, **changes).train_batches(blocks, epoch=epoch))


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys() == {"image", "label", "cluster"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_batches_follow_the_plan(pictures, steps, monkeypatch):
    def center(augmentation):
        return lambda image, draws: augment.center_crop(image, 8)

    monkeypatch.setattr(augment, "create", center)
    batches = read(pictures, steps, strategy="geom")  # which needs whole images
    assert len(batches) == 5
    for batch, rows, clusters in zip(batches, steps.rows, steps.clusters, strict=True):
        assert batch["image"].shape == (2, 3, 8, 8, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["cluster"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], pictures.labels[rows])
        np.testing.assert_array_equal(batch["cluster"], clusters)
        for c, b in np.ndindex(2, 3):
            image = augment.center_crop(decoded(pictures.images[rows[c, b]]), 8)
            np.testing.assert_array_equal(batch["image"][c, b], image)


@pytest.mark.parametrize(
    ("num_threads", "strategy"), [(1, "standard"), (None, "geom"), (8, "color_heavy")]
)
def test_pixels_do_not_depend_on_the_number_of_threads(pictures, steps, num_threads, strategy):
    batches = read(pictures, steps, strategy=strategy)
    assert_same(batches, read(pictures, steps, strategy=strategy, num_threads=num_threads))


@pytest.mark.parametrize("strategy", ["standard", "geom", "color_heavy"])
def test_reading_can_start_at_any_step(pictures, steps, strategy):
    reader = stream(pictures, strategy=strategy)
    batches = list(reader.train_batches([steps], epoch=3))
    for first_step in (1, 4):
        later = reader.train_batches([steps.skip(first_step)], epoch=3)
        assert_same(later, batches[first_step:])


def test_no_steps_give_no_batches(pictures):
    assert read(pictures) == []


def test_blocks_of_a_plan_have_different_crops(pictures, steps):
    blocks = [
        Block(steps.rows[start : start + 2], steps.clusters[start : start + 2], number)
        for number, start in enumerate((0, 2, 4))
    ]
    reader = stream(pictures)
    every = list(reader.train_batches(blocks, epoch=3))
    for batch, other in zip(every, reader.train_batches([steps], epoch=3), strict=True):
        np.testing.assert_array_equal(batch["label"], other["label"])
    for first_step in (0, 1, 2, 4):
        number, skipped = divmod(first_step, 2)
        later = blocks[number].skip(skipped), *blocks[number + 1 :]
        assert_same(reader.train_batches(later, epoch=3), every[first_step:])
    again = blocks[0], blocks[0]._replace(number=1)
    first, second, third, fourth = (
        batch["image"] for batch in reader.train_batches(again, epoch=3)
    )
    assert not np.array_equal(first, third)
    assert not np.array_equal(second, fourth)


@pytest.mark.parametrize("change", [{"epoch": 4}, {"seed": 1}])
def test_pixels_differ_between_epochs_and_seeds(pictures, steps, change):
    for batch, other in zip(read(pictures, steps), read(pictures, steps, **change), strict=True):
        same = (batch["image"] == other["image"]).all(axis=(2, 3, 4))
        assert not same.any()


def test_repeated_image_is_cropped_differently_each_time(pictures):
    block = Block(np.zeros((1, 1, 8), np.int32), np.zeros((1, 1), np.int32))
    crops = read(pictures, block)[0]["image"][0]
    assert len(np.unique(crops.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize(
    ("strategy", "crop"),
    [
        *((strategy, "random_resized") for strategy in STRATEGIES),
        ("standard", "resize_then_random"),
        ("geom", "resize_then_random_resized"),
    ],
)
def test_pixels_follow_from_the_draws(pictures, steps, strategy, crop):
    changes = {"strategy": strategy, "crop": crop}
    augmentation = dataclasses.replace(CROP, **changes)
    draws = augment.draw(augmentation, steps.rows.shape, seed=0, epoch=3)
    apply = augment.create(augmentation)
    for step, batch in enumerate(read(pictures, steps, **changes)):
        for c, b in np.ndindex(2, 3):
            image = decoded(pictures.images[steps.rows[step, c, b]])
            if crop != "random_resized":
                image = augment.resize_shorter_side(image, CROP.resize)
            one = tf.nest.map_structure(lambda x, at=(step, c, b): x[at], draws)
            np.testing.assert_array_equal(batch["image"][c, b], apply(image, one))


def test_augmentation_is_traced_once_per_run(pictures, steps, monkeypatch):
    calls, create = [], augment.create

    def counting(augmentation):
        apply = create(augmentation)

        def augmented(image, draws):
            calls.append(image.shape)
            return apply(image, draws)

        return augmented

    monkeypatch.setattr(augment, "create", counting)
    images = stream(pictures, strategy="geom")  # which needs whole images
    for epoch in range(3):
        list(images.train_batches([steps], epoch=epoch))
    assert len(calls) == 1
    assert calls[0].as_list() == [None, None, 3]


def test_reading_starts_before_the_first_batch_is_requested(pictures, steps, monkeypatch):
    began = threading.Event()

    def create(augmentation):
        def notify(image):
            began.set()
            return image

        return lambda image, draws: tf.numpy_function(notify, [image], tf.uint8)

    monkeypatch.setattr(augment, "create", create)
    batches = stream(pictures, strategy="geom").train_batches([steps], epoch=0)
    assert began.wait(timeout=60)
    batches.close()


def test_images_in_memory_give_the_pixels_of_files(write_tree, steps, tmp_path):
    pixels = np.stack([noise(9, 9, seed=i) for i in range(12)])
    files = {f"{i}.png": tf.io.encode_png(x).numpy() for i, x in enumerate(pixels)}
    root = write_tree(files)
    labels = np.arange(12)
    on_disk = from_classes([f"{root}/{name}" for name in files], labels)
    assert_same(read(from_classes(pixels, labels), steps), read(on_disk, steps))


def test_evaluation_keeps_order_and_exact_pixels_and_fills_the_last_batch():
    digits = datasets.load("digits", root="").query.select(range(10))
    rows = readers.rows_to_embed(len(digits), 4)
    batches = list(stream(digits, resize=8, size=8).eval_batches(rows))
    assert [batch.shape for batch in batches] == [(4, 8, 8, 3)] * 3
    images = np.concatenate(batches)
    for channel in range(3):
        np.testing.assert_array_equal(images[:10, ..., channel], digits.images[..., 0])
    np.testing.assert_array_equal(images[10:], images[[9, 9]])


def test_rows_to_embed_are_in_order_on_each_device():
    assert readers.rows_to_embed(5, 2).tolist() == [[0, 1], [2, 3], [4, 4]]
    shared = readers.rows_to_embed(14, 8, num_devices=4)
    assert shared.tolist() == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 13, 13]]


@pytest.mark.parametrize(("height", "width"), [(31, 20), (20, 47)])
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(tmp_path, height, width):
    path = str(tmp_path / "x.png")
    tf.io.write_file(path, tf.io.encode_png(noise(height, width)))
    images = from_classes([path], [0])
    (batch,) = stream(images, resize=16, size=11).eval_batches(readers.rows_to_embed(1, 1))
    short, long = min(height, width), max(height, width)
    new = (16, int(16 * long / short)) if height <= width else (int(16 * long / short), 16)
    resized = tf.image.resize(noise(height, width), new, antialias=True).numpy().round()
    top, left = round((new[0] - 11) / 2), round((new[1] - 11) / 2)
    np.testing.assert_array_equal(batch[0], resized[top : top + 11, left : left + 11])


def test_resized_images_are_uncropped_and_have_the_predicted_sizes(pictures):
    images = stream(pictures, resize=16)
    resized = list(images.resized_images())
    for image, path in zip(resized, pictures.images, strict=True):
        expected = augment.resize_shorter_side(decoded(path), 16)
        np.testing.assert_array_equal(image, expected)
    sizes = images.resized_sizes()
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [list(image.shape[:2]) for image in resized]
    grey = from_classes(np.zeros((3, 9, 12, 1), np.uint8), [0, 0, 1])
    assert stream(grey, resize=18).resized_sizes().tolist() == [[18, 24]] * 3


@pytest.mark.parametrize(
    ("height", "width", "longest"),
    [(2001, 1, 1008), (20, 1400, 1120)],
)
def test_only_the_centre_of_a_sliver_is_enlarged(tmp_path, monkeypatch, height, width, longest):
    monkeypatch.setattr(crops, "_MOST_PIXELS", 2**12)
    pixels = noise(height, width)
    tf.io.write_file(path := str(tmp_path / "x.png"), tf.io.encode_png(pixels))
    images = from_classes([path], [0])
    (batch,) = stream(images, resize=16, size=11).eval_batches(readers.rows_to_embed(1, 1))
    short, long = min(height, width), max(height, width)
    new = (16, 16 * long // short) if height < width else (16 * long // short, 16)
    resized = tf.image.resize(pixels, new, antialias=True).numpy().round()
    top, left = (round((side - 11) / 2) for side in new)
    expected = resized[top : top + 11, left : left + 11]
    assert np.abs(batch[0] - expected).max() <= 1  # float32 rounding far from the origin
    for crop in ("resize_then_random", "resize_then_random_resized"):
        reader = stream(images, resize=16, size=11, crop=crop)
        (uncropped,) = reader.resized_images()
        assert reader.resized_sizes().tolist() == [list(uncropped.shape[:2])]
        assert sorted(uncropped.shape[:2]) == [16, longest]
        block = Block(np.zeros((1, 1, 8), np.int32), np.zeros((1, 1), np.int32))
        (step,) = reader.train_batches([block], epoch=0)
        assert step["image"].shape == (1, 8, 11, 11, 3)


def truncate(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_file_damaged_during_a_run_is_named_without_a_traceback(pictures, steps):
    truncate(pictures.images[steps.rows[2, 1, 0]])
    batches = stream(pictures).train_batches([steps.skip(2)], epoch=0)
    with pytest.raises(ValueError, match=r"Cannot read image .*\.jpg: jpeg.* Replace") as caught:
        next(batches)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert pictures.images[steps.rows[2, 1, 0]] in str(caught.value)
    assert not any(word in str(caught.value) for word in ("{{", "[Op:", "Iterator", "\n"))
    with pytest.raises(ValueError, match="Cannot read image"):
        list(stream(pictures).eval_batches(readers.rows_to_embed(len(pictures), 5)))


def test_plan_for_other_images_is_an_error(steps):
    images = from_classes(np.zeros((2, 9, 9, 1), np.uint8), [0, 1])
    with pytest.raises(tf.errors.OpError, match="out of bounds"):  # a bug, not the fault of a file
        read(images, steps)
