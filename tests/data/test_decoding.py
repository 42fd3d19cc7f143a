"""Files of any format decode to three channels; unreadable ones are found and named."""

import base64
import collections
import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import bmp, decoded, exif, noise, png_chunk, twelve_files
from PIL import Image

from dcjax.data import datasets, decoding, headers
from dcjax.data.datasets.image_set import ImageSet, file_parts, from_classes
from dcjax.data.quiet_tensorflow import tf
from dcjax.experiment import same_run

CMYK = Path(__file__).parents[1] / "golden" / "cmyk.jpg"  # 8 x 8 pixels of cyan
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
RAMP = (np.arange(18).reshape(2, 3, 3) * 14).astype(np.uint8)
RAMPS = {  # RAMP, or its first channel if grey, encoded losslessly by libwebp, libjxl and Pillow
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
    """Readable and unreadable files of many formats, all named .jpg."""
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
        "bad-runs.jpg": bmp(image[..., :1]).replace(b"\x08\0\0\0\0\0", b"\x08\0\1\0\0\0", 1),
    }
    root = write_tree(files)
    return {name: f"{root}/{name}" for name in [*files, "bad-missing.jpg"]}


@pytest.mark.parametrize("thorough", [False, True])
def test_find_unreadable_finds_exactly_the_bad_files(odd_files, thorough):
    images = from_classes(list(odd_files.values()), [0] * len(odd_files))
    unreadable = decoding.find_unreadable(images, thorough=thorough)
    assert [list(odd_files)[i] for i in unreadable] == [n for n in odd_files if n.startswith("bad")]


def test_damage_inside_a_file_is_found_by_a_thorough_check_only(tmp_path):
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


def run_in_graph(function, contents: list[bytes]) -> list[np.ndarray]:
    """Applies a function to encoded images inside a TensorFlow graph."""
    return list(tf.data.Dataset.from_tensor_slices(contents).map(function).as_numpy_iterator())


def test_one_pipeline_decodes_every_format():
    files = {name: base64.b64decode(text) for name, text in RAMPS.items()} | {
        "png, 16 bits": tf.io.encode_png(RAMP * np.uint16(256) + np.uint16(200)).numpy(),
        "png, alpha": tf.io.encode_png(np.pad(RAMP, ((0, 0), (0, 0), (0, 1)))).numpy(),
        "bmp": bmp(RAMP[..., ::-1]),
        "bmp, alpha": bmp(np.pad(RAMP[..., ::-1], ((0, 0), (0, 0), (0, 1)))),
        "bmp, grey": bmp(RAMP[..., :1]),
    }
    images = run_in_graph(decoding.decode, list(files.values()))
    for name, image in zip(files, images, strict=True):
        expected = RAMP[..., :1].repeat(3, axis=-1) if "grey" in name else RAMP
        np.testing.assert_array_equal(image, expected, err_msg=name)
    assert [x.tolist() for x in run_in_graph(decoding.size, list(files.values()))] == [
        [2, 3] for _ in files
    ]


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates as in the standard: by the place of row 0 and column 0 of the stored pixels."""
    row_0, column_0 = [
        "top left", "top right", "bottom right", "bottom left",
        "left top", "right top", "right bottom", "left bottom",
    ][orientation - 1].split()  # fmt: skip
    if row_0 in ("left", "right"):
        image, row_0, column_0 = image.swapaxes(0, 1), column_0, row_0
    image = image if row_0 == "top" else image[::-1]
    return image if column_0 == "left" else image[:, ::-1]


def test_photographs_are_rotated_upright():
    stored = tf.io.encode_jpeg(noise(24, 40)).numpy()
    image = run_in_graph(decoding.decode, [stored])[0]
    turned = [stored[:2] + exif(o, ">") + stored[2:] for o in range(1, 9)]
    images, sizes = run_in_graph(decoding.decode, turned), run_in_graph(decoding.size, turned)
    for i in range(8):
        np.testing.assert_array_equal(images[i], turn_upright(image, i + 1))
        assert sizes[i].tolist() == list(images[i].shape[:2])
        np.testing.assert_array_equal(decoding.decode(tf.constant(turned[i])), images[i])


def test_jpeg_decoding_agrees_with_other_libraries(pictures):
    content = tf.io.read_file(pictures.images[5])
    accurate = tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()
    assert not np.array_equal(accurate, tf.io.decode_jpeg(content).numpy())
    np.testing.assert_array_equal(decoded(pictures.images[5]), accurate)


def join_files(paths: list[str], into: Path) -> ImageSet:
    """Concatenates files into one file and returns its images."""
    contents = [Path(path).read_bytes() for path in paths]
    into.write_bytes(b"".join(contents))
    lengths = [len(content) for content in contents]
    offsets = np.cumsum(lengths) - lengths
    parts = file_parts([str(into)] * len(paths), offsets.tolist(), lengths)
    return from_classes(parts, np.zeros(len(paths)))


def test_parts_of_a_file_are_read_like_whole_files(pictures, odd_files, tmp_path):
    good = pictures.images.tolist()
    images = join_files(good, tmp_path / "all")
    read = decoding.contents(images.select([7, 2]))
    for row, path in enumerate([good[7], good[2]]):
        np.testing.assert_array_equal(decoding.decode(read(tf.constant(row))), decoded(path))
    assert decoding.find_unreadable(images, thorough=False) == []
    bad = join_files([good[0], odd_files["bad-half.jpg"], good[1]], tmp_path / "bad")
    assert decoding.find_unreadable(bad, thorough=False) == [1]
    assert decoding.find_unreadable(bad, thorough=True) == [1]
    place = f"{tmp_path}/bad, byte {Path(good[0]).stat().st_size}"
    with pytest.raises(ValueError, match=rf"{place}: jpeg"):
        decoding.select_readable(bad, skip_unreadable=False)
    (tmp_path / "bad").unlink()
    assert decoding.find_unreadable(bad, thorough=True) == [0, 1, 2]
    assert "No such file" in str(decoding.unreadable_reason(bad, 0))


def test_file_that_tensorflow_would_misread_says_why(odd_files):
    reasons = {
        name: decoding.unreadable_reason(from_classes([path], [0]), 0)
        for name, path in odd_files.items()
    }
    assert "animated WebP" in str(reasons["bad-animated-webp.jpg"])
    assert "BMP with run-length compression" in str(reasons["bad-runs.jpg"])
    assert [n for n, reason in reasons.items() if reason is None] == [
        n for n in reasons if n.startswith("good")
    ]


def truncate(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_readable_names_bad_files_or_skips_and_counts_them(pictures):
    assert decoding.select_readable(pictures, skip_unreadable=False) == (pictures, 0)
    truncate(pictures.images[5])
    with pytest.raises(ValueError, match=r"(?s)1 of 12 images.*skip_unreadable=True.*/5.jpg: jpeg"):
        decoding.select_readable(pictures, skip_unreadable=False)
    kept, num_bad = decoding.select_readable(pictures, skip_unreadable=True)
    assert num_bad == 1
    assert kept.images.tolist() == pictures.images[[0, 1, 2, 3, 4, *range(6, 12)]].tolist()
    assert kept.labels.tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 1, 2, 3]
    assert kept.class_names == pictures.class_names


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_loading_calls_stat_once_per_file(
    pictures: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip_unreadable: bool
) -> None:
    paths = pictures.images.tolist()
    rows = [f"{path},{i % 4},{'train' if i % 4 < 2 else 'test'}" for i, path in enumerate(paths)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    if skip_unreadable:
        truncate(paths[0])
    num_stats: collections.Counter[str] = collections.Counter()
    stat = os.stat

    def count(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        num_stats[path] += 1
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", count)
    splits = datasets.load("manifest", root="", manifest=str(tmp_path / "table.csv"))
    for images in (splits.train, splits.query):
        kept, _ = decoding.select_readable(images, skip_unreadable=skip_unreadable)
        same_run.fingerprint(kept)
        decoding.contents(kept)
    assert [num_stats[path] for path in paths] == [1] * len(paths)


def test_every_class_must_keep_a_readable_image(pictures):
    for i in (1, 5, 9):
        truncate(pictures.images[i])
    with pytest.raises(ValueError, match=r"none in 1 classes, the first is '1'"):
        decoding.select_readable(pictures, skip_unreadable=True)


def huge_file(form: str) -> bytes:
    """Returns a file whose valid header declares 324 million pixels that are not there."""
    side = 18_000
    if form == "png":
        header = struct.pack(">II", side, side) + bytes([8, 2, 0, 0, 0])
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
        )
    if form == "jpeg":
        content = tf.io.encode_jpeg(noise(16, 16)).numpy()
        return content.replace(b"\x08\0\x10\0\x10\x03", struct.pack(">BHHB", 8, side, side, 3))
    if form == "gif":
        content = GIF.replace(b",\0\0\0\0\1\0\1\0", b",\0\0\0\0" + struct.pack("<HH", side, side))
        assert content != GIF
        return content
    if form == "bmp":
        content = bmp(noise(4, 4))
        return content[:18] + struct.pack("<ii", side, -side) + content[26:]
    if form == "webp":
        sides = struct.pack("<I", side - 1)[:3] * 2
        return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides
    small, height, ratio = 0, 2 | (side - 1) << 2, 1  # JPEG XL: square
    return b"\xff\x0a" + (small | height << 1 | ratio << 21).to_bytes(16, "little")


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "bmp", "webp", "jxl"])
def test_too_many_pixels_are_refused_from_the_header_alone(tmp_path, form):
    (path := tmp_path / f"x.{form}").write_bytes(content := huge_file(form))
    images = from_classes([str(path)], [0])
    reason = "18,000 x 18,000 pixels, more than dataset.max_pixels=100,000,000"
    assert reason in str(decoding.unreadable_reason(images, 0, max_pixels=10**8))
    for thorough in (False, True):
        assert decoding.find_unreadable(images, thorough=thorough, max_pixels=10**8) == [0]
    with pytest.raises(ValueError, match=reason):
        decoding.select_readable(images, skip_unreadable=False, max_pixels=10**8)
    with pytest.raises(ValueError, match=reason):
        decoding.size(tf.constant(content), max_pixels=10**8)
    assert reason not in headers.refusal(content, max_pixels=18_000**2)
    assert not headers.refusal(content)


def test_only_the_first_of_a_thousand_gif_frames_is_decoded():
    file, frames = io.BytesIO(), [Image.fromarray(noise(8, 8, seed)) for seed in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    content = file.getvalue()
    assert np.array_equal(
        decoding.decode(tf.constant(content)), np.asarray(Image.open(file).convert("RGB"))
    )
    # A first frame that is offset within a larger screen is decoded completely.
    start = content.index(b",", 13 + 3 * 256)
    moved = content[:start] + b"," + struct.pack("<HH", 5, 3) + content[start + 5 :]
    assert np.array_equal(
        decoding.decode(tf.constant(moved)), decoding.decode(tf.constant(content))
    )


def files_with_tolerance() -> dict[str, tuple[bytes, int]]:
    """Returns files, each with the number of grey levels its pixels may differ from Pillow's."""
    files, image = {}, Image.fromarray(noise(40, 56))
    frames = [Image.fromarray(noise(40, 56, seed)) for seed in range(3)]
    few, alpha = image.quantize(16), Image.merge("RGBA", (*image.split(), image.split()[0]))

    def add(name: str, made: Image.Image, form: str, tolerance: int = 0, **options: Any) -> None:
        file = io.BytesIO()
        made.save(file, form, **options)
        files[name] = file.getvalue(), tolerance

    add("jpeg", image, "JPEG")
    add("jpeg, grey", image.convert("L"), "JPEG")
    add("jpeg, progressive", image, "JPEG", progressive=True)
    add("jpeg, RGB", image, "JPEG", keep_rgb=True)
    add(
        "jpeg, CMYK", image.convert("CMYK"), "JPEG", tolerance=1
    )  # products are rounded differently
    add("png, grey and alpha", alpha.convert("LA"), "PNG")
    add("png, alpha", alpha, "PNG")
    add("png, one bit", image.convert("1"), "PNG")
    add("png, palette, transparent", few, "PNG", transparency=3)
    add("png, colour, transparent", image, "PNG", transparency=(1, 2, 3))
    add("png, animated", frames[0], "PNG", save_all=True, append_images=frames[1:])
    add("gif, transparent", few, "GIF", transparency=3)
    add("gif, interlaced", few, "GIF", interlace=1)
    add("gif, animated", frames[0], "GIF", save_all=True, append_images=frames[1:])
    add("webp", image, "WEBP", quality=80)
    add("webp, alpha", alpha, "WEBP", quality=80)
    add("webp, lossless alpha", alpha, "WEBP", lossless=True, exact=True)
    return files


def test_colours_agree_with_pillow():
    for name, (content, tolerance) in files_with_tolerance().items():
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        image = decoding.decode(tf.constant(content)).numpy()
        assert np.abs(image.astype(int) - expected).max() <= tolerance, name


def files_of_odd_sides() -> dict[str, bytes]:
    """Returns files whose last blocks are not full, with colours at different distances."""
    image, files = noise(71, 93), {}
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            file, options = io.BytesIO(), {"subsampling": subsampling, "progressive": progressive}
            Image.fromarray(image).save(file, "JPEG", **options)
            files[f"{subsampling}, progressive={progressive}"] = file.getvalue()
    halved = files["4:2:0, progressive=False"]
    return files | {
        "grey": tf.io.encode_jpeg(image[..., :1]).numpy(),
        "CMYK": CMYK.read_bytes(),
        "on its side": halved[:2] + exif(6, "<") + halved[2:],
        "PNG": tf.io.encode_png(image).numpy(),
    }


def boxes(height: int, width: int, number: int) -> np.ndarray:
    """Returns random boxes in an image, int32[number, 4]: top, left, height, width."""
    generator = np.random.default_rng(0)
    sides = generator.integers(1, (height + 1, width + 1), (number, 2))
    corners = generator.integers(0, (height + 1, width + 1) - sides)
    return np.concatenate([corners, sides], axis=1).astype(np.int32)


def test_box_has_the_pixels_of_the_decoded_image():
    names, contents, cuts, expected = [], [], [], []
    for name, content in files_of_odd_sides().items():
        image = decoding.decode(tf.constant(content)).numpy()
        for top, left, height, width in boxes(*image.shape[:2], 20):
            names.append(name)
            contents.append(content)
            cuts.append([top, left, height, width])
            expected.append(image[top : top + height, left : left + width])

    def decode(content: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
        return decoding.decode_box(content, lambda size: (box[:2], box[2:]))

    dataset = tf.data.Dataset.from_tensor_slices((contents, cuts))
    dataset = dataset.map(tf.function(decode, autograph=False))
    for i, part in enumerate(dataset.as_numpy_iterator()):
        np.testing.assert_array_equal(part, expected[i], err_msg=f"{names[i]}, {cuts[i]}")


def test_box_is_found_from_the_size_of_the_upright_image():
    content = files_of_odd_sides()["on its side"]

    def last_pixel(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return size - 1, tf.constant([1, 1])

    pixel = decoding.decode_box(tf.constant(content), last_pixel).numpy()
    np.testing.assert_array_equal(pixel, decoding.decode(tf.constant(content))[-1:, -1:])


def test_box_of_too_large_an_image_is_refused_from_the_header_alone():
    for form in ("png", "jpeg"):
        with pytest.raises(ValueError, match="18,000 x 18,000 pixels"):
            decoding.decode_box(
                tf.constant(huge_file(form)), lambda size: (size, size), max_pixels=10**8
            )


def test_images_in_memory_are_always_readable():
    images = from_classes(np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    assert decoding.select_readable(images, skip_unreadable=True) == (images, 0)
