"""Pictures in memory are read as those in files are."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import png
from pictures import exif, noise, png_chunk
from PIL import Image

from dcjax.core.errors import InputError
from dcjax.data import augment
from dcjax.data.pictures import CropReader


def _reader() -> CropReader:
    return CropReader(resize=20, size=16, max_pixels=10_000)


def _crops(pictures: object, batch_size: int = 4) -> np.ndarray:
    return np.concatenate(list(_reader().batches(pictures, batch_size)))


def _png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 or uint16 [h, w, 1, 3 or 4] as PNG."""
    height, width, channels = pixels.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels.astype(f">u{pixels.itemsize}"))
    data = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_are_read_as_png_files_of_them_are(
    dtype: type, channels: int, tmp_path: Path
) -> None:
    most = np.iinfo(dtype).max
    sizes = [(30, 41), (16, 16), (9, 50)]
    draw = np.random.default_rng(channels).integers
    arrays = [draw(0, most, (*size, channels), dtype, endpoint=True) for size in sizes]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        path.write_bytes(_png(array))
    expected = _crops(paths)
    np.testing.assert_array_equal(_crops(arrays), expected)
    np.testing.assert_array_equal(_crops(iter(arrays)), expected)
    np.testing.assert_array_equal(_crops([paths[0], *arrays[1:]]), expected)
    np.testing.assert_array_equal(_crops([Image.open(path) for path in paths]), expected)
    if channels == 1:
        np.testing.assert_array_equal(_crops([array[..., 0] for array in arrays]), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pil_images_of_any_mode_are_read_as_files(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(30, 41)).convert(mode)
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(_crops([image]), _crops([tmp_path / "image.png"]))


@pytest.mark.parametrize("orientation", range(1, 10))
def test_pil_images_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(noise(30, 41)).save(stream, "JPEG")
    content = stream.getvalue()
    path = tmp_path / "image.jpg"
    path.write_bytes(content[:2] + exif(orientation, "<") + content[2:])
    decoded = Image.open(path)
    np.testing.assert_array_equal(_crops([decoded]), _crops([path]))


def test_pictures_of_an_iterator_are_held_a_batch_at_a_time() -> None:
    held = most = 0

    class Picture:
        def __init__(self) -> None:
            nonlocal held, most
            held += 1
            most = max(most, held)

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return noise(20, 20)

        def __del__(self) -> None:
            nonlocal held
            held -= 1

    taken = 0

    def pictures() -> Iterator[Picture]:
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield Picture()

    for number, crops in enumerate(_reader().batches(pictures(), 4), start=1):
        assert len(crops) == 4
        assert taken <= 4 * (number + 1)
    assert number == 10
    assert most <= 8


def test_the_functions_of_a_picture_are_traced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, original = [], augment.center_crop

    def count(*arguments: object) -> object:
        traced.append(1)
        return original(*arguments)

    monkeypatch.setattr(augment, "center_crop", count)
    (tmp_path / "image.png").write_bytes(png(noise(30, 41)))
    reader = _reader()
    for number in (1, 2, 5):
        list(reader.batches([tmp_path / "image.png"] * number, 4))
        list(reader.batches([noise(20 + number, 30)] * number, 4))
    assert len(traced) == 2  # of files, of pixels


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"", "empty"),
        (lambda: png(noise(200, 200)), "40,000|200 x 200"),
        (lambda: png(noise(30, 30))[:-500], ""),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    content: Callable[[], bytes], reason: str, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(png(noise(30, 41)))
    bad.write_bytes(content())
    with pytest.raises(InputError, match=rf"Cannot read image {bad}: .*({reason})"):
        _crops([good, noise(20, 20), bad, good])
    with pytest.raises(InputError, match=r"Cannot read image .*nowhere.png: No such file"):
        _crops([tmp_path / "nowhere.png"])
