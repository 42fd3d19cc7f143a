"""Format, size, channels and orientation are read from the first bytes; no bytes raise errors."""

import base64
import io
import struct

import numpy as np
import pytest
from pictures import bmp, exif, noise, segment, tiff
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dcjax.data import gifs, headers, jpeg_xl
from dcjax.data.headers import Header
from dcjax.data.quiet_tensorflow import tf

START = b"\xff\xd8"
JFIF = segment(0xE0, b"JFIF\0" + bytes(9))
SCAN = segment(0xDB, bytes(65)) + segment(0xDA, bytes(10)) + noise(8, 8).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tag_is_found_in_both_byte_orders(orientation, order):
    for kind in (3, 4):
        jpeg = START + exif(orientation, order, kind=kind) + SCAN
        assert headers.orientation(jpeg) == orientation


@pytest.mark.parametrize(
    "before",
    [
        JFIF,
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<xml>Exif\0\0</xml>"),
        JFIF + segment(0xED, bytes(65533)) + segment(0xE2, bytes(65533)),
        b"\xff\xff\xff",  # padding
    ],
)
def test_orientation_tag_is_found_behind_other_segments(before):
    assert headers.orientation(START + before + exif(6, "<") + exif(3, "<") + SCAN) == 6


@pytest.mark.parametrize(
    "jpeg",
    [
        b"",
        START,
        START + JFIF + SCAN,
        START + JFIF + SCAN + exif(6, "<"),  # a thumbnail among the pixel bytes
        START + segment(0xE2, exif(6, "<")[4:]) + SCAN,
        START + segment(0xE1, b"Exif\0\0") + SCAN,
        START + segment(0xE1, b"Exif\0\0XX" + exif(6, "<")[12:]) + SCAN,
        START + segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">I", 2**32 - 1)) + SCAN,
        START + segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 60000) + SCAN,
        START + exif(0, "<") + SCAN,
        START + exif(9, "<") + SCAN,
        START + b"\xff\xe1\0\0" + exif(6, "<")[4:],  # a segment that has no length
    ],
)
def test_missing_or_broken_tag_means_upright(jpeg):
    assert headers.orientation(jpeg) == 1


def saved(form: str, size: tuple[int, int] = (7, 9), **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(*size)).save(file, form, **options)
    return file.getvalue()


def tags() -> PngInfo:
    texts = PngInfo()
    texts.add_text("Raw profile type exif", "\nexif\n 2\nffff", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "tiff:Orientation=", zip=True)
    return texts


GIF, WEBP = saved("GIF"), saved("WEBP")
JXL = base64.b64decode("/woIQBAJCAQBAHwASxiLFUIZti1s7wJhAGTUqFGjRnVeb12WdCnSqwAVAA==")


def encoded(seed: int = 0) -> dict[Header, bytes]:
    image = noise(9, 7, seed)
    tags = START + exif(6, ">")
    return {
        Header("JPEG", 3, 8): tags + tf.io.encode_jpeg(image).numpy()[2:],
        Header("JPEG", 1, 8): tf.io.encode_jpeg(image[..., :1]).numpy(),
        Header("PNG", 3, 8): tf.io.encode_png(image).numpy(),
        Header("PNG", 1, 16): tf.io.encode_png(image[..., :1].astype(np.uint16)).numpy(),
        Header("PNG", 2, 8): tf.io.encode_png(image[..., :2]).numpy(),
        Header("BMP", 3, 8): bmp(image),
        Header("BMP", 1, 8): bmp(image[..., :1]),
        Header("GIF", 3, 8): GIF,
        Header("WebP", 3, 8): WEBP,
        Header("JPEG XL", 0, 0): JXL,
    }


def test_format_channels_and_bits_are_those_stored():
    for header, content in encoded().items():
        assert headers.read(content) == header
    assert headers.read(b"<html>404</html>") == headers.read(b"") == Header("", 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_arbitrary_bytes_never_raise(seed):
    generator = np.random.default_rng(seed)

    def look(content: bytes) -> None:
        assert 1 <= headers.orientation(content) <= 8
        assert min(headers.size(content)) >= 0
        assert isinstance(gifs.first(content), bytes)
        assert headers.read(content).channels >= 0
        assert isinstance(headers.refusal(content), str)

    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(20)
    tagged = saved("PNG", pnginfo=tags(), exif=b"Exif\0\0" + tiff(6, "<"))
    for content in [*encoded(seed).values(), webp, tagged]:
        for length in range(min(len(content), 200)):
            look(content[:length])
        for _ in range(200):
            broken = bytearray(content)
            for place in generator.integers(2, min(len(content), 80), 4):
                broken[place] = generator.integers(0, 256)
            look(bytes(broken))
    for _ in range(200):
        look(START + generator.bytes(100))
        look(START + segment(0xE1, b"Exif\0\0II*\0" + generator.bytes(100)))


def test_file_that_tensorflow_would_misread_is_refused():
    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0"
    assert "animated" in headers.refusal(webp + b"\x12" + bytes(20))
    assert not headers.refusal(webp + b"\x10" + bytes(20))


def test_sizes_equal_those_of_pillow():
    for size in [(7, 9), (1, 300), (257, 2)]:
        for form, options in [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("GIF", {}),
            ("BMP", {}),
            ("WEBP", {}),
            ("WEBP", {"lossless": True}),
            ("WEBP", {"exif": b"Exif\0\0" + tiff(6, "<")}),
        ]:
            content = saved(form, size, **options)
            assert headers.size(content) == size, (form, options)
            assert headers.size(content[: len(content) // 2 if form == "PNG" else 4096]) == size
            assert headers.refusal(content, max_pixels=size[0] * size[1]) == ""
            text = headers.refusal(content, max_pixels=size[0] * size[1] - 1)
            assert f"{size[1]:,} x {size[0]:,} pixels" in text
            assert "dataset.max_pixels" in text


def jxl(height: int, width: int, *, ratio: int = 0, small: bool = False) -> bytes:
    """Returns the first bytes of a JPEG XL codestream as the standard defines them."""

    def side(length: int) -> list[tuple[int, int]]:
        if small:
            return [(length // 8 - 1, 5)]
        number = next(i for i, bits in enumerate((9, 13, 18, 30)) if length <= 1 << bits)
        return [(number, 2), (length - 1, (9, 13, 18, 30)[number])]

    fields = [(int(small), 1), *side(height), (ratio, 3), *(side(width) if not ratio else [])]
    bits = "".join(format(value, f"0{count}b")[::-1] for value, count in fields)
    return b"\xff\x0a" + int(bits[::-1], 2).to_bytes(16, "little")


def test_sizes_of_every_jpeg_xl_form_are_read():
    assert headers.size(JXL) == (2, 3)
    for height, width in [(1, 1), (512, 513), (8192, 8193), (2**18, 2**18 + 1), (2**30, 2**30)]:
        assert jpeg_xl.size(jxl(height, width)) == (height, width)
    assert jpeg_xl.size(jxl(64, 256, small=True)) == (64, 256)
    ratios = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    for number, (wide, high) in enumerate(ratios, start=1):
        assert jpeg_xl.size(jxl(90, 0, ratio=number)) == (90, 90 * wide // high)
    container = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    stream = jxl(40, 30)
    for box in (
        struct.pack(">I4s", 8 + len(stream), b"jxlc") + stream,
        struct.pack(">I4sI", 0, b"jxlp", 0) + stream,
        struct.pack(">I4sQ", 1, b"jxlc", 16 + len(stream)) + stream,
        struct.pack(">I4s", 9, b"Exif") + b"\0" + struct.pack(">I4s", 0, b"jxlc") + stream,
    ):
        assert headers.size(container + box) == (40, 30)
    assert headers.size(container) == headers.size(container + bytes(30)) == (0, 0)


def test_gif_is_cut_to_its_first_frame():
    file, frames = io.BytesIO(), [Image.fromarray(noise(9, 7, seed)) for seed in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    first = gifs.first(file.getvalue())
    assert len(first) < len(file.getvalue()) / 2
    opened = Image.open(io.BytesIO(first))
    assert opened.n_frames == 1
    expected = Image.open(file).convert("RGB")
    np.testing.assert_array_equal(opened.convert("RGB"), expected)
    half = file.getvalue()[: len(first) // 2]
    assert gifs.first(half) == half  # the decoder reports the truncation
