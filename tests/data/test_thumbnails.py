"""Thumbnails show what the pipeline decodes."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import png
from pictures import exif

from dcjax.data import thumbnails
from dcjax.data.datasets import ImageSet


def _files(*paths: Path) -> ImageSet:
    return ImageSet(np.array(list(map(str, paths))), np.zeros(len(paths), np.int32), ("a",))


def _pixels(encoded: bytes | None) -> np.ndarray:
    assert encoded is not None
    with PIL.Image.open(io.BytesIO(encoded)) as picture:
        assert picture.format == "WEBP"
        return np.asarray(picture.convert("RGB")).astype(int)


def _halves(height: int, width: int) -> np.ndarray:
    """Returns a picture that is red above and blue below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0], pixels[height // 2 :, :, 2] = 255, 255
    return pixels


def test_large_pictures_are_reduced_in_proportion_and_small_ones_keep_their_size(
    tmp_path: Path,
) -> None:
    sizes = {(300, 150): (96, 48), (50, 400): (12, 96), (60, 96): (60, 96), (500, 2): (96, 1)}
    paths = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(png(_halves(*size)))
    made = thumbnails.create(_files(*paths), range(len(sizes)))
    for encoded, size in zip(made, sizes.values(), strict=True):
        pixels = _pixels(encoded)
        assert pixels.shape[:2] == size
        assert pixels[0, 0, 0] > 200 > 60 > pixels[0, 0, 2]
        assert pixels[-1, -1, 2] > 200 > 60 > pixels[-1, -1, 0]


def test_tiny_grey_digits_are_enlarged_without_smoothing() -> None:
    digits = np.random.default_rng(0).choice(np.uint8([0, 255]), (3, 8, 8, 1))
    images = ImageSet(digits, np.zeros(3, np.int32), ("a",))
    for row, encoded in zip([2, 0], thumbnails.create(images, [2, 0], size=64), strict=True):
        pixels = _pixels(encoded)
        assert pixels.shape == (64, 64, 3)
        expected = np.kron(digits[row, ..., 0], np.ones((8, 8)))
        assert np.abs(pixels - expected[..., None]).mean() < 10  # WebP blurs a little


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    content = io.BytesIO()
    PIL.Image.fromarray(_halves(120, 200)).save(content, "JPEG", quality=95)
    jpeg = content.getvalue()
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + exif(3, "<") + jpeg[2:])
    (encoded,) = thumbnails.create(_files(path), [0])
    pixels = _pixels(encoded)
    assert pixels[0, 0, 2] > 200  # blue is above
    assert pixels[-1, 0, 0] > 200


@pytest.mark.parametrize("num_threads", [1, None])
def test_what_cannot_be_read_is_none_and_the_others_are_there(
    num_threads: int | None, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("good.png", "gone.png", "text.png", "large.png")]
    paths[0].write_bytes(png(_halves(10, 10)))
    paths[2].write_text("no picture")
    paths[3].write_bytes(png(_halves(40, 40)))
    count = []
    made = thumbnails.create(
        _files(*paths),
        [3, 2, 1, 0],
        max_pixels=1599,
        num_threads=num_threads,
        advance=count.append,
    )
    assert [encoded is not None for encoded in made] == [False, False, False, True]
    assert count == [1, 1, 1, 1]
