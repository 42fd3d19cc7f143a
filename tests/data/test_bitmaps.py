"""BMP files of all kinds decode to Pillow's pixels, or the error says why they cannot be read."""

import contextlib
import io
import itertools
import struct

import numpy as np
import pytest
from pictures import noise
from PIL import Image

from dcjax.core.errors import InputError
from dcjax.data import bitmaps, decoding, headers
from dcjax.data.quiet_tensorflow import tf

HEADERS = (12, 40, 52, 56, 64, 108, 124)
WIDTH, HEIGHT = 13, 5  # rows are padded to 4 bytes


def file(
    bits: int,
    *,
    header: int = 40,
    height: int = HEIGHT,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: np.ndarray | None = None,
    num_colors: int = 0,
    gap: bytes = b"",
    offset: int | None = None,
    seed: int = 0,
) -> bytes:
    """Returns a BMP file of random pixels; `palette` is uint8 [colours, 3], blue first."""
    generator = np.random.default_rng(seed)
    stored = generator.bytes((WIDTH * bits + 31) // 32 * 4 * abs(height))
    if header == 12:
        head = struct.pack("<IHHHH", 12, WIDTH, height, 1, bits)
    else:
        kinds = (header, WIDTH, height, 1, bits, compression, len(stored), 0, 0, num_colors, 0)
        head = struct.pack("<IiiHHIIiiII", *kinds)
        in_head = struct.pack(f"<{len(masks)}I", *masks)
        head += in_head if header == 40 else in_head.ljust(header - 40, b"\0")
    table = b""
    if palette is not None:
        entry = 3 if header == 12 else 4
        table = np.pad(palette, ((0, 0), (0, entry - 3))).tobytes()
    start = 14 + len(head) + len(table) + len(gap) if offset is None else offset
    return struct.pack("<2sIII", b"BM", 0, 0, start) + head + table + gap + stored


def colors(count: int) -> np.ndarray:
    return noise(count, 1, seed=7)[:, 0]


def kinds() -> dict[str, bytes]:
    """Returns files of every kind that Pillow can also read."""
    files = {}
    for header, bits in itertools.product(HEADERS, (1, 4, 8)):
        files[f"{header}, {bits}"] = file(bits, header=header, palette=colors(2**bits))
    for header, bits in itertools.product(HEADERS, (16, 24, 32)):
        files[f"{header}, {bits}"] = file(bits, header=header)
    known = {
        32: [
            (0xFF0000, 0xFF00, 0xFF, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0),
            (0xFF000000, 0xFF00, 0xFF, 0),
            (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
            (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
            (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
            (0, 0, 0, 0),
        ],
        24: [(0xFF0000, 0xFF00, 0xFF, 0)],
        16: [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)],
    }
    for bits, layouts in known.items():
        for header, masks in itertools.product((40, 56, 108, 124), layouts):
            if header == 40 and masks[3]:
                continue  # a 40-byte header has no fourth mask with this compression
            masks = masks[:3] if header == 40 else masks
            name = f"{header}, {bits}, {masks}"
            files[name] = file(bits, header=header, compression=3, masks=masks)
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(-1, 3)
    return files | {
        "top down": file(24, height=-HEIGHT),
        "top down, palette": file(4, height=-HEIGHT, palette=colors(16)),
        "gap": file(8, palette=colors(256), gap=b"\xff" * 9),
        "more behind": file(24) + b"notes" * 100,
        "more behind, palette": file(8, palette=colors(256)) + b"\xff" * 3,
        "few colours": file(8, palette=colors(256)[:200], num_colors=200, gap=bytes(224)),
        "many colours": file(4, palette=colors(40), num_colors=40),
        "black first": file(1, palette=np.array([[0] * 3, [255] * 3], np.uint8)),
        "white first": file(1, palette=np.array([[255] * 3, [0] * 3], np.uint8)),
        "greys": file(8, palette=ramp),
        "palette forgotten": file(8, palette=colors(256), offset=54),
        "no place": file(24, offset=0),
        "no place, palette": file(4, palette=colors(16), offset=0),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pixels_equal_those_of_pillow():
    files = kinds()
    contents = tf.data.Dataset.from_tensor_slices(list(files.values()))
    images = contents.map(decoding.decode).as_numpy_iterator()
    for (name, content), image in zip(files.items(), images, strict=True):
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(image, expected, err_msg=name)
        assert headers.size(content) == (HEIGHT, WIDTH), name
        assert decoding.size(tf.constant(content)).numpy().tolist() == [HEIGHT, WIDTH], name


def slow_decode(content: bytes, start: int, bits: int, masks: tuple[int, ...]) -> list:
    """Decodes the pixels one by one, following the definition of the format."""
    stride = (WIDTH * bits + 31) // 32 * 4
    image = []
    for row in range(HEIGHT - 1, -1, -1):
        image.append([])
        for column in range(WIDTH):
            place = start + row * stride + column * bits // 8
            pixel = int.from_bytes(content[place : place + bits // 8], "little")
            channels = []
            for mask in masks[:3]:
                low = (mask & -mask).bit_length() - 1
                channels.append(((pixel & mask) >> low) * 255 // (mask >> low))
            image[-1].append(channels)
    return image


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0xFF00, 0xFF, 0xFF000000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0x3FF, 0xFFC00, 0xC0000000)),
        (32, (0x7F80, 0x7F, 0xFFFF0000)),
        (24, (0xFF, 0xFF00, 0xFF0000)),
        (24, (0x1F, 0x7E0, 0xF800)),
        (16, (0x1F, 0x7E0, 0xF800)),
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x8000, 0x7FFE, 0x1)),
    ],
)
def test_colour_masks_of_any_order_and_width_are_decoded(bits, masks):
    for compression, header, more in [(3, 40, ()), (6, 40, (0,)), (3, 56, (0,)), (3, 124, ())]:
        given = masks + more
        content = file(bits, header=header, compression=compression, masks=given)
        start = int.from_bytes(content[10:14], "little")
        assert bitmaps.decode(content).tolist() == slow_decode(content, start, bits, masks)


def test_two_bit_files_and_short_os2_headers_are_decoded():
    content = file(2, palette=colors(4))
    start, numbers = 54 + 16, []
    for row in range(HEIGHT - 1, -1, -1):
        line = content[start + 4 * row : start + 4 * row + 4]
        numbers.append([line[i // 4] >> 6 - 2 * (i % 4) & 3 for i in range(WIDTH)])
    np.testing.assert_array_equal(bitmaps.decode(content), colors(4)[:, ::-1][numbers])
    full = file(8, header=64, palette=colors(256))
    short = full[:14] + struct.pack("<I", 16) + full[18:30] + full[14 + 64 :]
    short = short[:10] + struct.pack("<I", 30 + 1024) + short[14:]
    np.testing.assert_array_equal(bitmaps.decode(short), bitmaps.decode(full))


def test_numbers_beyond_the_palette_are_black():
    content = file(8, palette=colors(256)[:10], num_colors=10)
    numbers = np.frombuffer(content[54 + 40 :], np.uint8).reshape(HEIGHT, -1)[::-1, :WIDTH]
    image = bitmaps.decode(content)
    assert (image[numbers >= 10] == 0).all()
    np.testing.assert_array_equal(image[numbers < 10], colors(10)[:, ::-1][numbers[numbers < 10]])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file(8, compression=1, palette=colors(256)), "run-length compression"),
        (file(4, compression=2, palette=colors(16)), "run-length compression"),
        (file(24, compression=4), "JPEG compression"),
        (file(24, compression=5), "PNG compression"),
        (file(24, compression=11), "number 11 compression"),
        (file(1, header=64, compression=3, palette=colors(2)), "number 3 compression"),
        (file(8, compression=3, masks=(1, 2, 4)), "8 bits a pixel and compression 3"),
        (file(64), "64 bits a pixel"),
        (file(0), "0 bits a pixel"),
        (file(32, compression=3, masks=(0xFF0000, 0, 0xFF)), "masks ff0000, 0, ff"),
        (file(32, compression=3, masks=(0xFF00FF, 0xFF00, 0xFF)), "masks ff00ff"),
        (file(32, compression=3, masks=(0xFFFFFF00, 0xFF, 0xFF)), "masks ffffff00"),
        (file(16, compression=3, masks=(0xF80000, 0x7E0, 0x1F)), "masks f80000"),
        (file(24)[:-20], "ends 19 bytes too early"),
        (file(24)[:40], "header of 40 bytes"),
        (file(24).replace(b"\x28\0\0\0", b"\x0b\0\0\0", 1), "header of 11 bytes"),
        (file(24).replace(b"\x28\0\0\0", b"\xff\0\0\0", 1), "header of 255 bytes"),
        (file(24, height=0), "13 x 0 pixels"),
        (b"BM", "header of 0 bytes"),
    ],
)
def test_unreadable_file_says_why(content, reason):
    with pytest.raises(ValueError, match=reason):
        decoding.decode(tf.constant(content))
    if "too early" not in reason:
        assert reason in headers.refusal(content)


def test_damaged_file_decodes_or_raises_an_input_error():
    generator = np.random.default_rng(0)
    contents = [file(24), file(8, palette=colors(256)), file(16, compression=3, masks=(1, 2, 4))]
    for content in contents:
        for _ in range(500):
            broken = bytearray(content[: generator.integers(20, len(content) + 1)])
            for place in generator.integers(2, min(len(broken), 70), 3):
                broken[place] = generator.integers(256)
            if headers.refusal(bytes(broken), max_pixels=10**6):
                continue
            with contextlib.suppress(InputError):
                assert bitmaps.decode(bytes(broken)).shape[2] == 3
