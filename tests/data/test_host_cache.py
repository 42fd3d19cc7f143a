"""Memory and disk caches give the batches read from files, and never an incomplete image set."""

import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forks import Fork
from pictures import noise, twelve_files

from dcjax.core.errors import FileError, InputError
from dcjax.data import cache_folders, crops, host_cache, pipeline, readers
from dcjax.data.datasets.image_set import ImageSet, file_parts, from_classes
from dcjax.data.quiet_tensorflow import tf
from dcjax.division.sampling import Block

CROP = crops.Augmentation(
    "resize_then_random",
    size=8,
    resize=10,
    scale=(0.2, 1.0),
    ratio=(0.75, 1.5),
    flip=True,
    strategy="standard",
)
BLOCK = Block(
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
    (source,) = host_cache.create([stream(images, **changes)], where)
    return stream(images, source, **changes)


def assert_same(reader: pipeline.Stream, other: pipeline.Stream) -> None:
    pairs = zip(
        reader.train_batches([BLOCK], epoch=3), other.train_batches([BLOCK], epoch=3), strict=True
    )
    for batch, expected in pairs:
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])
    rows = readers.rows_to_embed(len(reader.images), 5)
    np.testing.assert_array_equal(
        np.concatenate(list(reader.eval_batches(rows))),
        np.concatenate(list(other.eval_batches(rows))),
    )


def replace(images: ImageSet) -> None:
    """Replaces the files by others of equal sizes and modification times, as tar and rsync do."""
    for path in images.images:
        state = os.stat(path)
        Path(path).write_bytes(b"x" * state.st_size)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize(
    ("on_disk", "crop"), [(True, "resize_then_random"), (False, "resize_then_random_resized")]
)
def test_batches_equal_those_read_from_files(pictures, tmp_path, on_disk, crop):
    reader = cached(pictures, tmp_path / "cache" if on_disk else None, crop=crop)
    again = cached(pictures, tmp_path / "cache" if on_disk else None, crop=crop)
    assert_same(reader, stream(pictures, crop=crop))
    assert_same(again, reader)


def test_pixels_in_memory_are_cached_too(tmp_path):
    images = from_classes(np.stack([noise(9, 12, seed=i) for i in range(12)]), np.arange(12))
    assert_same(cached(images, tmp_path), stream(images))
    other = from_classes(np.stack([noise(9, 12, seed=i + 1) for i in range(12)]), np.arange(12))
    assert_same(cached(other, tmp_path), stream(other))


def test_cache_file_is_written_once(pictures, tmp_path, monkeypatch):
    first = cached(pictures, tmp_path / "cache")
    rows = readers.rows_to_embed(12, 12)
    batches = np.concatenate(list(first.eval_batches(rows)))
    monkeypatch.setattr(pipeline.Stream, "resized_images", None)
    again = cached(pictures, tmp_path / "cache")
    np.testing.assert_array_equal(np.concatenate(list(again.eval_batches(rows))), batches)


@pytest.mark.parametrize("change", ["content", "order", "resize"])
def test_other_images_or_another_size_give_another_cache_file(pictures, tmp_path, change):
    cached(pictures, tmp_path / "cache")
    changes = {"resize": 12} if change == "resize" else {}
    if change == "content":
        shutil.copy(pictures.images[3], pictures.images[4])
    if change == "order":
        pictures = pictures.select(np.arange(12)[::-1])
    assert_same(cached(pictures, tmp_path / "cache", **changes), stream(pictures, **changes))


def _create_half(paths: list[str], labels: list[int], folder: str) -> None:
    reader = stream(from_classes(paths, labels))
    resized_images = reader.resized_images

    def half() -> Iterator[np.ndarray]:
        for row, image in enumerate(resized_images()):
            if row == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            yield image

    reader.resized_images = half
    host_cache.create([reader], folder)


def test_interrupted_run_leaves_no_file_that_looks_complete(pictures, tmp_path):
    folder = str(tmp_path / "cache")
    killed = Fork(_create_half, pictures.images.tolist(), pictures.labels.tolist(), folder)
    assert killed.finish()[0] == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [
        ".unfinished"
    ]
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [""]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES = {
    "zeroed": lambda content: bytes(len(content)),
    "a zeroed part": lambda content: content[:100] + bytes(200) + content[300:],
    "a flipped bit": flip,
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "other content": lambda content: b"junk",
    "removed": None,
}


def test_damaged_cache_file_is_rebuilt_and_reported(pictures, tmp_path, capsys):
    images = pictures.select([3, 4, 5])
    reader = stream(images)
    host_cache.create([reader], str(tmp_path / "cache"))
    (place,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    names = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    assert list(map(str, names)) == ["checksums.json", "data/key", "data/pixels", "data/sizes.npy"]
    contents = {name: (place / name).read_bytes() for name in names}
    for name in names:
        for what, damage in DAMAGES.items():
            (place / name).unlink()
            if damage is not None:
                (place / name).write_bytes(damage(contents[name]))
            assert cache_folders.damage(place), (name, what)
        (place / name).write_bytes(contents[name])
    assert not cache_folders.damage(place)
    assert "is damaged" not in capsys.readouterr().out
    for name in names:
        (place / name).write_bytes(flip(contents[name]))
        host_cache.create([reader], str(tmp_path / "cache"))
        printed = capsys.readouterr().out
        assert printed.count(f"{place} is damaged and made again: ") == 1, name
        assert {name: (place / name).read_bytes() for name in names} == contents


def test_cache_file_renamed_to_another_is_rebuilt(pictures, tmp_path):
    other = pictures.select(np.arange(12)[::-1])
    for images in (pictures, other):
        cached(images, tmp_path / "cache")
    key = host_cache.key(pictures, CROP.resize)
    (wrong,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir() and p.name != key)
    shutil.rmtree(tmp_path / "cache" / key)
    wrong.rename(tmp_path / "cache" / key)
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_replaced_image_of_equal_size_and_time_gives_another_file(pictures, tmp_path):
    cached(pictures, tmp_path / "cache")
    picture, other = (Path(path) for path in pictures.images[[4, 5]])
    state = picture.stat()
    content = other.read_bytes()[: state.st_size].ljust(state.st_size, b"\0")
    picture.write_bytes(content)
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (picture.stat().st_size, picture.stat().st_mtime_ns) == (
        state.st_size,
        state.st_mtime_ns,
    )
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))
    before = host_cache.key(pictures, 8)
    replacement = picture.with_suffix(".new")
    replacement.write_bytes(content)
    os.utime(replacement, ns=(state.st_atime_ns, state.st_mtime_ns))
    replacement.rename(picture)
    assert host_cache.key(pictures, 8) != before


def test_replaced_record_file_gives_another_cache_file(tmp_path):
    records = tmp_path / "records"
    records.write_bytes(bytes(99))
    images = from_classes(file_parts([str(records)] * 2, [0, 50], [50, 49]), [0, 1])
    before, state = host_cache.key(images, 8), records.stat()
    records.write_bytes(b"\1" * 99)
    os.utime(records, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert host_cache.key(images, 8) != before


def test_complete_cache_file_needs_no_write_permission(pictures, tmp_path, monkeypatch):
    cached(pictures, tmp_path / "cache")
    monkeypatch.delattr(cache_folders.filelock, "FileLock")
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_full_disk_is_an_error_and_leaves_no_complete_file(pictures, tmp_path, monkeypatch):
    reader = stream(pictures)

    def full():
        yield np.zeros((10, 12, 3), np.uint8)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader, "resized_images", full)
    with pytest.raises(FileError, match=r"cache=disk cannot be kept in .*No space left.*cache_dir"):
        host_cache.create([reader], str(tmp_path / "cache"))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert_same(cached(pictures, tmp_path / "cache"), stream(pictures))


def test_unwritable_folder_is_named(pictures, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match=rf"cannot be kept in {tmp_path}/file/cache: .*cache_dir"):
        cached(pictures, tmp_path / "file" / "cache")


def test_cache_key_depends_on_file_order_and_pixel_shape():
    def key(images: ImageSet) -> str:
        return host_cache.key(images, 8)

    here, there = __file__, dataclasses.__file__
    parts = [file_parts(files, [0, 0], [9, 9]) for files in ([here, there], [there, here])]
    assert key(from_classes(parts[0], [0, 1])) != key(from_classes(parts[1], [0, 1]))
    pixels = [np.zeros((1, *shape, 1), np.uint8) for shape in ((8, 8), (4, 16))]
    assert key(from_classes(pixels[0], [0])) != key(from_classes(pixels[1], [0]))


@pytest.mark.parametrize("on_disk", [False, True])
def test_insufficient_space_is_an_error_before_any_decoding(
    pictures, tmp_path, monkeypatch, on_disk
):
    replace(pictures.select([0]))
    sizes = np.full((12, 2), 2**19, np.int32)
    reader = stream(pictures)
    monkeypatch.setattr(reader, "resized_sizes", lambda: sizes)
    remedy = (
        "set dataset.cache_dir to another disk" if on_disk else "set dataset.cache=disk or none"
    )
    with pytest.raises(ValueError, match=rf"needs 9,437,184 MiB .*12 images at 10.*{remedy}"):
        host_cache.create([reader], str(tmp_path / "cache") if on_disk else None)


def test_changing_a_read_image_does_not_change_the_cache(pictures):
    (read,) = host_cache.create([stream(pictures)], None)
    before = read(tf.constant(3)).numpy()
    for _ in range(2):  # decoded, and found
        image = read(tf.constant(3)).numpy()
        np.testing.assert_array_equal(image, before)
        image[...] = 0
    np.testing.assert_array_equal(read(tf.constant(3)), before)


def test_images_are_decoded_into_memory_when_first_read_and_once(pictures):
    reader = cached(pictures, None)
    some = np.arange(6, dtype=np.int32)[None]
    (first,) = reader.eval_batches(some)
    replace(pictures.select(some[0]))  # with bytes that are no images
    (again,) = reader.eval_batches(some)
    np.testing.assert_array_equal(again, first)
    replace(pictures.select([6]))
    with pytest.raises(InputError, match=r"Cannot read image .*/6\.jpg"):
        list(reader.eval_batches(np.array([[6]], np.int32)))
