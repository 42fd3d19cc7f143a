"""First bytes tell format, channels and orientation, and never break what reads them."""

import struct

import numpy as np
import pytest
from pictures import bmp, exif, noise, segment

from dcjax import headers
from dcjax.headers import Header
from dcjax.quiet_tensorflow import tf

START = b"\xff\xd8"
JFIF = segment(0xE0, b"JFIF\0" + bytes(9))
SCAN = segment(0xDB, bytes(65)) + segment(0xDA, bytes(10)) + noise(8, 8).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_tag_is_found_in_both_byte_orders(orientation, order):
    for kind in (3, 4):
        jpeg = START + exif(orientation, order, kind=kind) + SCAN
        assert headers.orientation(jpeg) == orientation


@pytest.mark.parametrize(
    "before",
    [
        JFIF,
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<xml>Exif\0\0</xml>"),
        JFIF + segment(0xED, bytes(65533)) + segment(0xE2, bytes(65533)),
        b"\xff\xff\xff",  # fills up
    ],
)
def test_the_tag_is_found_behind_other_segments(before):
    assert headers.orientation(START + before + exif(6, "<") + exif(3, "<") + SCAN) == 6


@pytest.mark.parametrize(
    "jpeg",
    [
        b"",
        START,
        START + JFIF + SCAN,
        START + JFIF + SCAN + exif(6, "<"),  # a thumbnail in the pixels' bytes
        START + segment(0xE2, exif(6, "<")[4:]) + SCAN,
        START + segment(0xE1, b"Exif\0\0") + SCAN,
        START + segment(0xE1, b"Exif\0\0XX" + exif(6, "<")[12:]) + SCAN,
        START + segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">I", 2**32 - 1)) + SCAN,
        START + segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 60000) + SCAN,
        START + exif(0, "<") + SCAN,
        START + exif(9, "<") + SCAN,
        START + b"\xff\xe1\0\0" + exif(6, "<")[4:],  # a segment without a length
    ],
)
def test_no_tag_or_a_broken_one_is_upright(jpeg):
    assert headers.orientation(jpeg) == 1


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
    }


def test_format_channels_and_bits_are_those_stored():
    for header, content in encoded().items():
        assert headers.read(content) == header
    assert headers.read(b"<html>404</html>") == headers.read(b"") == Header("", 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_bytes_are_nothing_breaks(seed):
    generator = np.random.default_rng(seed)

    def look(content: bytes) -> None:
        assert 1 <= headers.orientation(content) <= 8
        assert headers.read(content).channels >= 0
        assert isinstance(headers.refusal(content), str)

    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(20)
    for content in [*encoded(seed).values(), webp]:
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


def test_what_tensorflow_would_misread_is_refused():
    numbers = noise(4, 4)[..., :1]
    assert "palette" in headers.refusal(bmp(numbers, palette=noise(16, 16).reshape(256, 3)))
    assert "palette" in headers.refusal(bmp(numbers, palette=np.eye(3)[[0, 1]] * 255))
    assert not headers.refusal(bmp(numbers))
    assert not headers.refusal(bmp(noise(4, 4)))
    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0"
    assert "animated" in headers.refusal(webp + b"\x12" + bytes(20))
    assert not headers.refusal(webp + b"\x10" + bytes(20))
