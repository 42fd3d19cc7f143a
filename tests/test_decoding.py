"""Files of any kind give three channels; those that cannot be read are found and named."""

import base64
from pathlib import Path

import numpy as np
import pytest
from pictures import bmp, decoded, exif, noise, twelve_files

from dcjax import decoding
from dcjax.datasets.image_set import ImageSet, file_parts, from_classes
from dcjax.quiet_tensorflow import tf

CMYK = Path(__file__).parent / "golden" / "cmyk.jpg"  # 8 x 8 pixels of cyan
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
RAMP = (np.arange(18).reshape(2, 3, 3) * 14).astype(np.uint8)
RAMPS = {  # RAMP, its first channel where grey, without loss, by libwebp, libjxl, Pillow
    "webp": "UklGRjAAAABXRUJQVlA4TCQAAAAvAkAAAC8gEEgMAtnfcIlROYfK/Ce2oaZtAzbU+ZdTI/of0ws=",
    "webp, alpha": "UklGRjAAAABXRUJQVlA4TCQAAAAvAkAAEC8gEEgMAtnfcIlROYfKACa2oaZtAzbU+ZdTI/of0ws=",
    "jxl": "/woIQBAJCAQBAHwASxiLFUIZti1s7wJhAGTUqFGjRnVeb12WdCnSqwAVAA==",
    "jxl, alpha": "/woIQLASCBAQAJgASxiLFQodu9MWJp5fQAwAWFlZWVnVaLsqS7oEaetLk9nTqwdBZhI=",
    "jxl, grey": "/woIQBAUNwIIBAEANABLGIsVCh0ng08UNUtp",
    "png, palette": "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACBAMAAABvWnspAAAAElBMVEXS4O6otsR+jJpUYnAqOEYA"
    "Dhxjlae8AAAADklEQVR4nGMMucOgyAAABWIBU7z9z9YAAAAASUVORK5CYII=",
    "gif, two frames, grey": "R0lGODdhAwACAIIAAAAAACoqKlRUVH5+fqioqNLS0gAAAAAAACwAAAAAAwACAAAICQABB"
    "BAwgECBgAAh+QQBAAAGACwAAAAAAwACAIItLS1XV1eBgYGrq6vV1dX///8AAAAAAAAICQALEBggIACAgAA7",
}
ANIMATED_WEBP = base64.b64decode(
    "UklGRrAAAABXRUJQVlA4WAoAAAACAAAAAgAAAQAAQU5JTQYAAAAAAAAAAABBTk1GPAAAAAAAAAAAAAIAAAEAAAAAAAJW"
    "UDhMJAAAAC8CQAAALyAQSAwC2d9wiVE5h8r8J7ahpm0DNtT5l1Mj+h/TC0FOTUZAAAAAAAAAAAAAAgAAAQAAAAAAAFZQ"
    "OEwnAAAALwJAAAAvIBZMUPbnb5iEQgABUOTTPEJl/tNGg0CAMlY88ElE/+MdAA=="
)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    return twelve_files(tmp_path)


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
        "bad-animated-webp.jpg": ANIMATED_WEBP,
        "bad-palette.jpg": bmp(image[..., :1], palette=noise(16, 16).reshape(256, 3)),
    }
    root = write_tree(files)
    return {name: f"{root}/{name}" for name in [*files, "bad-missing.jpg"]}


@pytest.mark.parametrize("thorough", [False, True])
def test_unreadable_files_are_found(odd_files, thorough):
    images = from_classes(list(odd_files.values()), [0] * len(odd_files))
    found = decoding.find_unreadable(images, thorough=thorough)
    assert [list(odd_files)[i] for i in found] == [n for n in odd_files if n.startswith("bad")]


def test_only_a_thorough_look_sees_damage_inside(tmp_path):
    jpeg = bytearray(tf.io.encode_jpeg(noise(64, 64)).numpy())
    jpeg[300:-2] = jpeg[300:600]
    (tmp_path / "x.jpg").write_bytes(jpeg)
    images = from_classes([str(tmp_path / "x.jpg")], [0])
    assert decoding.find_unreadable(images, thorough=False) == []
    assert decoding.find_unreadable(images, thorough=True) == [0]


def test_odd_but_good_files_have_three_channels_and_a_size(odd_files):
    for name, path in odd_files.items():
        if name.startswith("good"):
            image = decoded(path)
            assert image.shape[2:] == (3,)
            assert decoding.size(tf.io.read_file(path)).numpy().tolist() == list(image.shape[:2])
    assert decoded(odd_files["good-cmyk.jpg"])[0, 0].tolist() == [0, 255, 255]


def in_pipeline(function, contents: list[bytes]) -> list[np.ndarray]:
    """Returns what a function gives of encoded images in a graph."""
    return list(tf.data.Dataset.from_tensor_slices(contents).map(function).as_numpy_iterator())


def test_one_pipeline_decodes_every_format():
    files = {name: base64.b64decode(text) for name, text in RAMPS.items()} | {
        "png, 16 bits": tf.io.encode_png(RAMP * np.uint16(256) + np.uint16(200)).numpy(),
        "png, alpha": tf.io.encode_png(np.pad(RAMP, ((0, 0), (0, 0), (0, 1)))).numpy(),
        "bmp": bmp(RAMP[..., ::-1]),
        "bmp, alpha": bmp(np.pad(RAMP[..., ::-1], ((0, 0), (0, 0), (0, 1)))),
        "bmp, grey": bmp(RAMP[..., :1]),
    }
    images = in_pipeline(decoding.decode, list(files.values()))
    for name, image in zip(files, images, strict=True):
        expected = RAMP[..., :1].repeat(3, axis=-1) if "grey" in name else RAMP
        np.testing.assert_array_equal(image, expected, err_msg=name)
    assert [x.tolist() for x in in_pipeline(decoding.size, list(files.values()))] == [
        [2, 3] for _ in files
    ]


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns by the words of the standard: where row 0 and column 0 of the stored pixels belong."""
    row_0, column_0 = [
        "top left", "top right", "bottom right", "bottom left",
        "left top", "right top", "right bottom", "left bottom",
    ][orientation - 1].split()  # fmt: skip
    if row_0 in ("left", "right"):
        image, row_0, column_0 = image.swapaxes(0, 1), column_0, row_0
    image = image if row_0 == "top" else image[::-1]
    return image if column_0 == "left" else image[:, ::-1]


def test_photographs_are_turned_upright():
    stored = tf.io.encode_jpeg(noise(24, 40)).numpy()
    image = in_pipeline(decoding.decode, [stored])[0]
    turned = [stored[:2] + exif(o, ">") + stored[2:] for o in range(1, 9)]
    images, sizes = in_pipeline(decoding.decode, turned), in_pipeline(decoding.size, turned)
    for i in range(8):
        np.testing.assert_array_equal(images[i], upright(image, i + 1))
        assert sizes[i].tolist() == list(images[i].shape[:2])
        np.testing.assert_array_equal(decoding.decode(tf.constant(turned[i])), images[i])


def test_jpeg_is_decoded_as_other_libraries_do(pictures):
    content = tf.io.read_file(pictures.images[5])
    accurate = tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()
    assert not np.array_equal(accurate, tf.io.decode_jpeg(content).numpy())
    np.testing.assert_array_equal(decoded(pictures.images[5]), accurate)


def joined(paths: list[str], into: Path) -> ImageSet:
    """Returns the images of files that were written one after the other into one file."""
    contents = [Path(path).read_bytes() for path in paths]
    into.write_bytes(b"".join(contents))
    lengths = [len(content) for content in contents]
    offsets = np.cumsum(lengths) - lengths
    parts = file_parts([str(into)] * len(paths), offsets.tolist(), lengths)
    return from_classes(parts, np.zeros(len(paths)))


def test_parts_of_a_file_are_images_like_files(pictures, odd_files, tmp_path):
    good = pictures.images.tolist()
    images = joined(good, tmp_path / "all")
    read = decoding.contents(images.select([7, 2]))
    for row, path in enumerate([good[7], good[2]]):
        np.testing.assert_array_equal(decoding.decode(read(tf.constant(row))), decoded(path))
    assert decoding.find_unreadable(images, thorough=False) == []
    bad = joined([good[0], odd_files["bad-half.jpg"], good[1]], tmp_path / "bad")
    assert decoding.find_unreadable(bad, thorough=False) == [1]
    assert decoding.find_unreadable(bad, thorough=True) == [1]
    place = f"{tmp_path}/bad, byte {Path(good[0]).stat().st_size}"
    with pytest.raises(ValueError, match=rf"{place}: jpeg"):
        decoding.readable(bad, skip_unreadable=False)
    (tmp_path / "bad").unlink()
    assert decoding.find_unreadable(bad, thorough=True) == [0, 1, 2]
    assert "No such file" in str(decoding.unreadable_reason(bad, 0))


def test_what_tensorflow_would_misread_says_why(odd_files):
    reasons = {
        name: decoding.unreadable_reason(from_classes([path], [0]), 0)
        for name, path in odd_files.items()
    }
    assert "animated WebP" in str(reasons["bad-animated-webp.jpg"])
    assert "BMP with a palette" in str(reasons["bad-palette.jpg"])
    assert [n for n, reason in reasons.items() if reason is None] == [
        n for n in reasons if n.startswith("good")
    ]


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_readable_names_bad_files_or_skips_and_counts_them(pictures):
    assert decoding.readable(pictures, skip_unreadable=False) == (pictures, 0)
    cut(pictures.images[5])
    with pytest.raises(ValueError, match=r"(?s)1 of 12 images.*skip_unreadable=True.*/5.jpg: jpeg"):
        decoding.readable(pictures, skip_unreadable=False)
    kept, num_bad = decoding.readable(pictures, skip_unreadable=True)
    assert num_bad == 1
    assert kept.images.tolist() == pictures.images[[0, 1, 2, 3, 4, *range(6, 12)]].tolist()
    assert kept.labels.tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 1, 2, 3]
    assert kept.class_names == pictures.class_names


def test_a_class_must_keep_a_readable_image(pictures):
    for i in (1, 5, 9):
        cut(pictures.images[i])
    with pytest.raises(ValueError, match=r"none in 1 classes, the first is '1'"):
        decoding.readable(pictures, skip_unreadable=True)


def test_images_in_memory_are_always_readable():
    images = from_classes(np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    assert decoding.readable(images, skip_unreadable=True) == (images, 0)
