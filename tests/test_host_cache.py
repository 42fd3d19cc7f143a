"""Caches in memory and on disk give the batches of the files, and never half of an image set."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import noise, twelve_files

from dcjax import crops, host_cache, pipeline
from dcjax.datasets.image_set import ImageSet, file_parts, from_classes
from dcjax.sampling import Plan

CROP = crops.Augmentation(
    "resize_then_random",
    size=8,
    resize=10,
    scale=(0.2, 1.0),
    ratio=(0.75, 1.5),
    flip=True,
    strategy="geom_color",
)
PLAN = Plan.of(
    rows=np.random.default_rng(0).integers(0, 12, (5, 2, 3)).astype(np.int32),
    clusters=np.zeros((5, 2), np.int32),
)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    return twelve_files(tmp_path)


def stream(images: ImageSet, resized: pipeline.Source | None = None, **changes) -> pipeline.Stream:
    augmentation = dataclasses.replace(CROP, **changes)
    return pipeline.Stream(images, augmentation, seed=0, num_threads=2, resized=resized)


def cached(images: ImageSet, folder: Path | None, **changes) -> pipeline.Stream:
    where = None if folder is None else str(folder)
    (decoded,) = host_cache.create([stream(images, **changes)], where)
    return stream(images, host_cache.source(decoded), **changes)


def assert_same(reader: pipeline.Stream, other: pipeline.Stream) -> None:
    pairs = zip(
        reader.train_batches(PLAN, epoch=3), other.train_batches(PLAN, epoch=3), strict=True
    )
    for batch, expected in pairs:
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])
    rows = pipeline.rows_to_embed(len(reader.images), 5)
    np.testing.assert_array_equal(
        np.concatenate(list(reader.eval_batches(rows))),
        np.concatenate(list(other.eval_batches(rows))),
    )


def forget(images: ImageSet) -> None:
    """Makes the files unreadable; what is known of them stays."""
    for path in images.images:
        state = os.stat(path)
        Path(path).write_bytes(b"x" * state.st_size)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("crop", ["resize_then_random", "resize_then_random_resized"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_are_those_of_the_files(pictures, tmp_path, on_disk, crop):
    reader = cached(pictures, tmp_path / "cache" if on_disk else None, crop=crop)
    again = cached(pictures, tmp_path / "cache" if on_disk else None, crop=crop)
    assert_same(reader, stream(pictures, crop=crop))
    assert_same(again, reader)


def test_pixels_in_memory_are_cached_too(tmp_path):
    images = from_classes(np.stack([noise(9, 12, seed=i) for i in range(12)]), np.arange(12))
    assert_same(cached(images, tmp_path), stream(images))
    other = from_classes(np.stack([noise(9, 12, seed=i + 1) for i in range(12)]), np.arange(12))
    assert_same(cached(other, tmp_path), stream(other))


def test_a_file_is_made_once(pictures, tmp_path):
    first = cached(pictures, tmp_path / "cache")
    rows = pipeline.rows_to_embed(12, 12)
    batches = np.concatenate(list(first.eval_batches(rows)))
    forget(pictures)
    again = cached(pictures, tmp_path / "cache")
    np.testing.assert_array_equal(np.concatenate(list(again.eval_batches(rows))), batches)


@pytest.mark.parametrize("change", ["content", "order", "resize"])
def test_other_images_or_another_size_make_another_file(pictures, tmp_path, change):
    cached(pictures, tmp_path / "cache")
    changes = {"resize": 12} if change == "resize" else {}
    if change == "content":
        shutil.copy(pictures.images[3], pictures.images[4])
    if change == "order":
        pictures = pictures.select(np.arange(12)[::-1])
    assert_same(cached(pictures, tmp_path / "cache", **changes), stream(pictures, **changes))


def test_an_interrupted_run_leaves_no_file_that_looks_whole(pictures, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_host_cache as t
from dcjax.datasets.image_set import from_classes
images = from_classes({pictures.images.tolist()!r}, {pictures.labels.tolist()!r})
reader = t.stream(images)
whole = reader.resized_images
def half():
    for row, image in enumerate(whole()):
        if row == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        yield image
reader.resized_images = half
t.host_cache.create([reader], {str(tmp_path / "cache")!r})
"""
    killed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [
        ".unfinished"
    ]
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [""]


@pytest.mark.parametrize(
    ("name", "content"), [("sizes.npy", b""), ("sizes.npy", b"junk"), ("pixels", b"short")]
)
def test_a_damaged_file_is_made_anew(pictures, tmp_path, name, content):
    cached(pictures, tmp_path / "cache")
    (place,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    (place / name).write_bytes(content)
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_a_whole_file_needs_no_right_to_write(pictures, tmp_path, monkeypatch):
    cached(pictures, tmp_path / "cache")
    monkeypatch.delattr(host_cache.filelock, "FileLock")
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_a_disk_that_fills_up_is_an_error_that_leaves_nothing_whole(
    pictures, tmp_path, monkeypatch
):
    reader = stream(pictures)

    def full():
        yield np.zeros((10, 12, 3), np.uint8)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader, "resized_images", full)
    with pytest.raises(OSError, match="No space left"):
        host_cache.create([reader], str(tmp_path / "cache"))
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_files_are_told_apart_by_order_and_pixels_by_shape():
    def key(images: ImageSet) -> str:
        return host_cache._key(images, 8)

    here, there = __file__, dataclasses.__file__
    parts = [file_parts(files, [0, 0], [9, 9]) for files in ([here, there], [there, here])]
    assert key(from_classes(parts[0], [0, 1])) != key(from_classes(parts[1], [0, 1]))
    pixels = [np.zeros((1, *shape, 1), np.uint8) for shape in ((8, 8), (4, 16))]
    assert key(from_classes(pixels[0], [0])) != key(from_classes(pixels[1], [0]))


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_does_not_fit_is_an_error_before_anything_is_decoded(
    pictures, tmp_path, monkeypatch, on_disk
):
    forget(pictures.select([0]))
    sizes = np.full((12, 2), 2**19, np.int32)
    reader = stream(pictures)
    monkeypatch.setattr(reader, "resized_sizes", lambda: sizes)
    told = "set dataset.cache_dir to another disk" if on_disk else "set dataset.cache=disk or none"
    with pytest.raises(ValueError, match=rf"needs 9,437,184 MiB .*12 images at 10.*{told}"):
        host_cache.create([reader], str(tmp_path / "cache") if on_disk else None)


def test_what_is_read_may_be_worked_on_in_place(pictures):
    (decoded,) = host_cache.create([stream(pictures)], None)
    before = decoded.pixels.copy()
    read = host_cache.source(decoded)
    read(np.int32(3)).numpy()[...] = 0
    np.testing.assert_array_equal(decoded.pixels, before)
