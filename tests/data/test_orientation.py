"""Orientation agrees with Pillow's exif_transpose, in whatever form it is stored."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from pictures import exif, noise, png_chunk, segment, tiff
from PIL import Image, ImageOps

from dcjax.data import decoding, headers
from dcjax.data.quiet_tensorflow import tf

PIXELS = noise(24, 40)
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'
XMP_ELEMENT = "<x:xmpmeta><tiff:Orientation>{}</tiff:Orientation></x:xmpmeta>"


def saved(form: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


def pillow(content: bytes) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


JPEG, PNG = saved("JPEG"), saved("PNG")
START, REST = JPEG[:2], JPEG[2:]
LOSSLESS = saved("WEBP", lossless=True)
IEND = PNG.index(b"IEND") - 4
IDAT = PNG.index(b"IDAT") - 4
LARGE = b"".join(segment(0xE2, bytes([i]) * 65533) for i in range(5))  # like a colour profile


def xap(text: str) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text.encode())


def jpeg(before: bytes, tags: bytes, after: bytes = b"") -> bytes:
    return START + before + segment(0xE1, b"Exif\0\0" + tags) + after + REST


def behind_tables(tags: bytes) -> bytes:
    frame = JPEG.index(b"\xff\xc0")
    return JPEG[:frame] + segment(0xE1, b"Exif\0\0" + tags) + JPEG[frame:]


def in_two_segments(tags: bytes) -> bytes:
    return jpeg(b"", tags[:11], segment(0xE1, b"Exif\0\0" + tags[11:]))


def webp(*chunks: tuple[bytes, bytes], flags: int = 0x0C) -> bytes:
    """Returns a WebP file with these chunks after its pixels; `flags` declares them."""
    pixels = LOSSLESS[12:]
    head = bytes([flags, 0, 0, 0]) + b"".join(
        struct.pack("<I", side - 1)[:3] for side in PIXELS.shape[1::-1]
    )
    body = b"WEBPVP8X" + struct.pack("<I", 10) + head + pixels
    for kind, content in chunks:
        body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png(place: int, kind: bytes, content: bytes) -> bytes:
    return PNG[:place] + png_chunk(kind, content) + PNG[place:]


def raw_profile(tags: bytes) -> bytes:
    return f"\nexif\n{len(tags):8}\n{tags.hex()}\n".encode()


def text(kind: bytes, key: bytes, content: bytes) -> bytes:
    packed = zlib.compress(content)
    behind_key = {
        b"tEXt": b"\0" + content,
        b"zTXt": b"\0\0" + packed,
        b"iTXt": b"\0\0\0en\0Key\0" + content,
        b"iTXt, compressed": b"\0\1\0\0\0" + packed,
    }
    return png(IDAT, kind[:4], key + behind_key[kind])


PREFIX = b"Exif\0\0"
# Functions that put Exif tags, which start with a TIFF header, into a file.
FILES: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": lambda tags: jpeg(b"", tags),
    "jpeg, behind 320 KiB": lambda tags: jpeg(LARGE, tags),
    "jpeg, behind XMP": lambda tags: jpeg(xap("<xml/>") + xap("<xml>" + "x" * 60000), tags),
    "jpeg, behind padding": lambda tags: jpeg(b"\xff\xff\xff", tags),
    "jpeg, behind junk": lambda tags: jpeg(segment(0xE0, bytes(14)) + b"junk\xff\0", tags),
    "jpeg, behind its tables": behind_tables,
    "jpeg, in two segments": in_two_segments,
    "jpeg, prefix twice": lambda tags: jpeg(b"", PREFIX + tags),
    "jpeg, XMP says otherwise": lambda tags: jpeg(xap(XMP.format(2)), tags),
    "webp": lambda tags: webp((b"EXIF", tags)),
    "webp, prefix": lambda tags: webp((b"EXIF", PREFIX + tags)),
    "webp, behind odd chunks": lambda tags: webp(
        (b"abcd", b"odd"), (b"XMP ", b"<x/>!"), (b"EXIF", tags)
    ),
    "webp, first of two": lambda tags: webp((b"EXIF", tags), (b"EXIF", tiff(3, "<"))),
    "webp, no flag": lambda tags: webp((b"EXIF", tags), flags=0),
    "png": lambda tags: png(IDAT, b"eXIf", tags),
    "png, behind the pixels": lambda tags: png(IEND, b"eXIf", tags),
    "png, prefix": lambda tags: png(IDAT, b"eXIf", PREFIX + tags),
    "png, key exif": lambda tags: text(b"tEXt", b"exif", tags),
    **{
        f"png, raw profile in {kind.decode()}": lambda tags, kind=kind: text(
            kind, b"Raw profile type exif", raw_profile(PREFIX + tags)
        )
        for kind in (b"tEXt", b"zTXt", b"iTXt", b"iTXt, compressed")
    },
}
# The same for an XMP packet.
XMP_FILES: dict[str, Callable[[str], bytes]] = {
    "jpeg": lambda xmp: START + xap(xmp) + REST,
    "jpeg, the last of two": lambda xmp: START + xap(XMP.format(3)) + xap(xmp) + REST,
    "jpeg, Exif without the tag": lambda xmp: jpeg(xap(xmp), tiff(6, "<", tag=0x0113)),
    "jpeg, not the packet": lambda xmp: START + segment(0xE1, b"XMP\0" + xmp.encode()) + REST,
    "webp": lambda xmp: webp((b"XMP ", xmp.encode())),
    "png": lambda xmp: text(b"iTXt", b"XML:com.adobe.xmp", xmp.encode()),
    "png, compressed": lambda xmp: text(b"iTXt, compressed", b"XML:com.adobe.xmp", xmp.encode()),
    "png, text": lambda xmp: text(b"tEXt", b"XML:com.adobe.xmp", xmp.encode()),
}


def all_files() -> dict[str, bytes]:
    files = {
        f"{name}, {o}{order}": make(tiff(o, order))
        for name, make in FILES.items()
        for order in "<>"
        for o in range(1, 9)
    }
    packets = {f"{o}{i}": x.format(o) for i, x in enumerate((XMP, XMP_ELEMENT)) for o in range(10)}
    return files | {
        f"XMP {name}, {kind}": make(xmp)
        for name, make in XMP_FILES.items()
        for kind, xmp in packets.items()
    }


def test_orientation_agrees_with_pillow():
    files = all_files()
    contents = tf.data.Dataset.from_tensor_slices(list(files.values()))
    images = contents.map(decoding.decode).as_numpy_iterator()
    sizes = contents.map(decoding.size).as_numpy_iterator()
    num_turned = 0
    for (name, content), image, size in zip(files.items(), images, sizes, strict=True):
        np.testing.assert_array_equal(image, pillow(content), err_msg=name)
        assert size.tolist() == list(image.shape[:2]), name
        num_turned += image.shape[0] > image.shape[1]
    assert num_turned > len(files) // 3


def pillow_orientation(content: bytes) -> int | None:
    """Returns the orientation read by Pillow, or None if it cannot read the tags."""
    try:
        with warnings.catch_warnings(action="ignore"):
            orientation = Image.open(io.BytesIO(content)).getexif().get(0x0112, 1)
    except (SyntaxError, struct.error, OSError, ValueError):
        return None
    return int(orientation) if orientation in range(1, 9) else 1


def test_tags_of_any_type_and_count_are_read_as_by_pillow():
    for order in "<>":
        for kind in range(18):
            for count in (0, 1, 2, 5):
                content = jpeg(b"", tiff(6, order, kind=kind, count=count))
                expected = pillow_orientation(content)
                assert headers.orientation(content) == expected, (order, kind, count)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_tags_are_read_as_by_pillow(seed):
    generator = np.random.default_rng(seed)
    num_compared = 0
    for i in range(700):
        order = "<>"[i % 2]
        tags = bytearray(tiff(6, order, others=[(0x010E, 2, 9), (0x0110, 2, 3), (0x011A, 5, 1)]))
        for place in generator.integers(4, 62, generator.integers(1, 4)):
            tags[place] = generator.choice([0, 1, 2, 6, 8, 0x12, generator.integers(256)])
        cut = tags[: generator.integers(8, len(tags))] if i % 3 == 0 else tags
        content = jpeg(b"", bytes(cut))
        if (expected := pillow_orientation(content)) is not None:
            assert headers.orientation(content) == expected, bytes(cut)
            num_compared += 1
    assert num_compared > 600


def test_apng_is_decoded_as_its_first_frame_upright():
    frames = [Image.fromarray(noise(24, 40, seed)) for seed in range(3)]
    tags = Image.Exif()
    tags[0x0112] = 6
    for default in (False, True):
        file = io.BytesIO()
        frames[0].save(
            file, "PNG", save_all=True, append_images=frames[1:], default_image=default, exif=tags
        )
        image = decoding.decode(tf.constant(file.getvalue())).numpy()
        np.testing.assert_array_equal(image, pillow(file.getvalue()))
        assert image.shape == (40, 24, 3)


def test_first_picture_of_a_multi_picture_file_decides():
    frames = [Image.fromarray(noise(24, 40, seed)) for seed in range(2)]
    tags = Image.Exif()
    tags[0x0112] = 8
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:], exif=tags)
    np.testing.assert_array_equal(
        decoding.decode(tf.constant(file.getvalue())).numpy(), pillow(file.getvalue())
    )


def test_exif_without_an_image_has_orientation_1():
    assert headers.orientation(exif(6, "<")) == headers.orientation(b"") == 1
