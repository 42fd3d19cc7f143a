"""Thumbnails are small pictures of what the pipeline decodes."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
from conftest import png
from pictures import exif

from dcjax.data import thumbnails
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.image_set import from_classes


def _open(encoded: bytes | None) -> PIL.Image.Image:
    assert encoded is not None
    return PIL.Image.open(io.BytesIO(encoded))


def test_small_pictures_are_exact_and_large_ones_keep_their_shape() -> None:
    draw = np.random.default_rng(0).integers
    small = ImageSet(draw(0, 256, (1, 8, 9, 1), np.uint8), np.zeros(1, np.int32), ("",))
    picture = np.asarray(_open(thumbnails.encode(small, 0, side=64)))
    np.testing.assert_array_equal(picture, np.repeat(small.images[0], 3, axis=2))
    large = ImageSet(draw(0, 256, (1, 300, 150, 3), np.uint8), np.zeros(1, np.int32), ("",))
    assert _open(thumbnails.encode(large, 0, side=100)).size == (50, 100)


def test_files_are_turned_upright_and_bad_ones_are_none(tmp_path: Path) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (40, 20), "red").save(file, "JPEG", exif=exif(6, "<")[4:])
    (tmp_path / "turned.jpg").write_bytes(file.getvalue())
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "large.png").write_bytes(png(np.zeros((50, 50, 3), np.uint8)))
    paths = [str(tmp_path / name) for name in ("turned.jpg", "text.png", "large.png", "none.png")]
    images = from_classes(paths, [""] * 4)
    pictures = [thumbnails.encode(images, row, side=64, max_pixels=2000) for row in range(4)]
    assert _open(pictures[0]).size == (20, 40)
    assert pictures[1:] == [None] * 3
