"""Pixels depend on seed, epoch and place alone; files that cannot be read are named."""

import base64
from pathlib import Path

import numpy as np
import pytest

from dcjax import augment, datasets, pipeline
from dcjax.augment import tf
from dcjax.datasets.image_set import ImageSet, from_classes
from dcjax.sampling import Plan

CMYK = Path(__file__).parent / "golden" / "cmyk.jpg"  # 8 x 8 pixels of cyan
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    """Twelve JPEG files of four classes; the first three take much longer to decode."""
    paths = [str(tmp_path / f"{i}.jpg") for i in range(12)]
    for i, path in enumerate(paths):
        size = (400, 500) if i < 3 else (20 + i, 30 - i)
        tf.io.write_file(path, tf.io.encode_jpeg(noise(*size, seed=i)))
    return from_classes(paths, np.arange(12) % 4)


@pytest.fixture
def plan() -> Plan:
    """Five steps of two cluster batches of three images."""
    rows = np.random.default_rng(0).integers(0, 12, (5, 2, 3)).astype(np.int32)
    clusters = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [0, 3]], np.int32)
    return Plan(rows=rows, clusters=clusters)


CROP = augment.create(
    "random_resized", size=8, resize=10, scale=(0.2, 1.0), ratio=(0.75, 1.5), flip=True
)


def read(images, plan, **changes):
    options = {"augment": CROP, "seed": 0, "epoch": 3, "num_threads": 2} | changes
    return list(pipeline.train_batches(images, plan, **options))


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys() == {"image", "label", "cluster"}
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_batches_follow_the_plan(pictures, plan):
    def whole(image, seed):
        return augment.center_crop(image, 8)

    batches = read(pictures, plan, augment=whole)
    assert len(batches) == 5
    for batch, rows, clusters in zip(batches, plan.rows, plan.clusters, strict=True):
        assert batch["image"].shape == (2, 3, 8, 8, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == batch["cluster"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], pictures.labels[rows])
        np.testing.assert_array_equal(batch["cluster"], clusters)
        for c, b in np.ndindex(2, 3):
            image = augment.center_crop(pipeline.decode(pictures.images[rows[c, b]]), 8)
            np.testing.assert_array_equal(batch["image"][c, b], image)


@pytest.mark.parametrize("num_threads", [1, 8, None])
def test_pixels_do_not_depend_on_the_number_of_threads(pictures, plan, num_threads):
    assert_same(read(pictures, plan), read(pictures, plan, num_threads=num_threads))


@pytest.mark.parametrize("first_step", [1, 4, 5])
def test_reading_may_begin_at_any_step(pictures, plan, first_step):
    assert_same(read(pictures, plan)[first_step:], read(pictures, plan, first_step=first_step))


@pytest.mark.parametrize("change", [{"epoch": 4}, {"seed": 1}])
def test_another_epoch_or_seed_gives_other_pixels(pictures, plan, change):
    for batch, other in zip(read(pictures, plan), read(pictures, plan, **change), strict=True):
        same = (batch["image"] == other["image"]).all(axis=(2, 3, 4))
        assert not same.any()


def test_an_image_that_comes_twice_is_cropped_twice(pictures):
    plan = Plan(rows=np.zeros((1, 1, 8), np.int32), clusters=np.zeros((1, 1), np.int32))
    crops = read(pictures, plan)[0]["image"][0]
    assert len(np.unique(crops.reshape(8, -1), axis=0)) == 8


def test_the_augmentation_is_traced_once(pictures, plan):
    calls = []

    def counting(image, seed):
        calls.append(image.shape)
        return CROP(image, seed)

    read(pictures, plan, augment=counting)
    assert len(calls) == 1
    assert calls[0].as_list() == [None, None, 3]


def test_images_in_memory_give_the_pixels_of_files(write_tree, plan, tmp_path):
    pixels = np.stack([noise(9, 9, seed=i) for i in range(12)])
    files = {f"{i}.png": tf.io.encode_png(x).numpy() for i, x in enumerate(pixels)}
    root = write_tree(files)
    labels = np.arange(12)
    on_disk = from_classes([f"{root}/{name}" for name in files], labels)
    assert_same(read(from_classes(pixels, labels), plan), read(on_disk, plan))


def test_evaluation_keeps_order_and_exact_pixels_and_fills_the_last_batch():
    digits = datasets.load("digits", root="").query.select(range(10))
    batches = list(pipeline.eval_batches(digits, batch_size=4, resize=8, crop=8, num_threads=2))
    assert [batch["image"].shape for batch in batches] == [(4, 8, 8, 3)] * 3
    images = np.concatenate([batch["image"] for batch in batches])
    for channel in range(3):
        np.testing.assert_array_equal(images[:10, ..., channel], digits.images[..., 0])
    np.testing.assert_array_equal(images[10:], images[[9, 9]])


@pytest.mark.parametrize(("height", "width"), [(31, 20), (20, 47), (13, 13)])
def test_evaluation_resizes_the_shorter_side_and_takes_the_centre(tmp_path, height, width):
    path = str(tmp_path / "x.png")
    tf.io.write_file(path, tf.io.encode_png(noise(height, width)))
    images = from_classes([path], [0])
    (batch,) = pipeline.eval_batches(images, batch_size=1, resize=16, crop=11, num_threads=1)
    short, long = min(height, width), max(height, width)
    new = (16, int(16 * long / short)) if height <= width else (int(16 * long / short), 16)
    resized = tf.image.resize(noise(height, width), new, antialias=True).numpy().round()
    top, left = round((new[0] - 11) / 2), round((new[1] - 11) / 2)
    np.testing.assert_array_equal(batch["image"][0], resized[top : top + 11, left : left + 11])


def test_evaluation_cannot_crop_more_than_there_is(pictures):
    with pytest.raises(ValueError, match=r"crop <= resize, got crop=9 and resize=8"):
        next(pipeline.eval_batches(pictures, batch_size=1, resize=8, crop=9, num_threads=1))


@pytest.fixture
def odd_files(write_tree) -> dict[str, str]:
    """Files of many kinds, all named .jpg: those that can be read and those that cannot."""
    image = noise(64, 64)
    jpeg, grey = (tf.io.encode_jpeg(x).numpy() for x in (image, image[..., :1]))
    png = tf.io.encode_png(image).numpy()
    files = {
        "good-grey.jpg": grey,
        "good-cmyk.jpg": CMYK.read_bytes(),
        "good-gif.jpg": GIF,
        "good-png.jpg": png,
        "good-alpha.jpg": tf.io.encode_png(noise(8, 32).reshape(8, 24, 4)).numpy(),
        "good-bytes-after-the-end.jpg": jpeg + b"camera's notes",
        "bad-half.jpg": jpeg[: len(jpeg) // 2],
        "bad-png-half.jpg": png[: len(png) // 2],
        "bad-empty.jpg": b"",
        "bad-page.jpg": b"<html>404</html>",
    }
    root = write_tree(files)
    return {name: f"{root}/{name}" for name in [*files, "bad-missing.jpg"]}


@pytest.mark.parametrize("thorough", [False, True])
def test_unreadable_files_are_found(odd_files, thorough):
    images = from_classes(list(odd_files.values()), [0] * len(odd_files))
    found = pipeline.find_unreadable(images, thorough=thorough)
    assert [list(odd_files)[i] for i in found] == [n for n in odd_files if n.startswith("bad")]


def test_only_a_thorough_look_sees_damage_inside(tmp_path):
    jpeg = bytearray(tf.io.encode_jpeg(noise(64, 64)).numpy())
    jpeg[300:-2] = jpeg[300:600]
    (tmp_path / "x.jpg").write_bytes(jpeg)
    images = from_classes([str(tmp_path / "x.jpg")], [0])
    assert pipeline.find_unreadable(images, thorough=False) == []
    assert pipeline.find_unreadable(images, thorough=True) == [0]


def test_odd_but_good_files_have_three_channels(odd_files):
    for name, path in odd_files.items():
        if name.startswith("good"):
            assert pipeline.decode(path).shape[2:] == (3,)
    assert pipeline.decode(odd_files["good-cmyk.jpg"])[0, 0].numpy().tolist() == [0, 255, 255]


def test_jpeg_is_decoded_as_other_libraries_do(pictures):
    content = tf.io.read_file(pictures.images[5])
    accurate = tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()
    assert not np.array_equal(accurate, tf.io.decode_jpeg(content).numpy())
    np.testing.assert_array_equal(pipeline.decode(pictures.images[5]), accurate)


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_readable_names_bad_files_or_skips_and_counts_them(pictures):
    assert pipeline.readable(pictures, skip_unreadable=False) == (pictures, 0)
    cut(pictures.images[5])
    with pytest.raises(ValueError, match=r"(?s)1 of 12 images.*skip_unreadable=True.*/5.jpg: jpeg"):
        pipeline.readable(pictures, skip_unreadable=False)
    kept, num_bad = pipeline.readable(pictures, skip_unreadable=True)
    assert num_bad == 1
    assert kept.images.tolist() == pictures.images[[0, 1, 2, 3, 4, *range(6, 12)]].tolist()
    assert kept.labels.tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 1, 2, 3]
    assert kept.class_names == pictures.class_names


def test_a_class_must_keep_a_readable_image(pictures):
    for i in (1, 5, 9):
        cut(pictures.images[i])
    with pytest.raises(ValueError, match=r"none in 1 classes, the first is '1'"):
        pipeline.readable(pictures, skip_unreadable=True)


def test_images_in_memory_are_always_readable():
    images = from_classes(np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    assert pipeline.readable(images, skip_unreadable=True) == (images, 0)


def test_a_file_that_breaks_during_a_run_is_named_without_a_trace(pictures, plan):
    cut(pictures.images[plan.rows[2, 1, 0]])
    batches = pipeline.train_batches(
        pictures, plan, augment=CROP, seed=0, epoch=0, num_threads=2, first_step=2
    )
    with pytest.raises(ValueError, match=r"Cannot read image .*\.jpg: jpeg.* Replace") as caught:
        next(batches)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert pictures.images[plan.rows[2, 1, 0]] in str(caught.value)
    assert not any(word in str(caught.value) for word in ("{{", "[Op:", "Iterator", "\n"))
    with pytest.raises(ValueError, match="Cannot read image"):
        list(pipeline.eval_batches(pictures, batch_size=5, resize=8, crop=8, num_threads=2))


def test_a_plan_for_other_images_is_an_error(plan):
    images = from_classes(np.zeros((2, 9, 9, 1), np.uint8), [0, 1])
    with pytest.raises(ValueError, match=r"^Cannot make a batch of images: .*out of bounds.*$"):
        read(images, plan)
