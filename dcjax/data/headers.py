"""Reads the headers of encoded images: format, size, channels, orientation."""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from dcjax.core.errors import InputError
from dcjax.data import bitmaps, exif, gifs, jpeg_xl

# By the suffix of a file's name: the formats that TensorFlow decodes.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WebP",
    ".jxl": "JPEG XL",
}
MAX_PIXELS = 100_000_000  # height times width: the default of dataset.max_pixels
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    jpeg_xl.CODESTREAM: "JPEG XL",
    jpeg_xl.CONTAINER: "JPEG XL",
}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type; a palette has three
# A JPEG's markers without a length behind them: TEM, RST0 to EOI, JPG and JPG0 to JPG13.
_BARE = {0x01, *range(0xD0, 0xDA), 0xC8, *range(0xF0, 0xFE)}
_XAP = b"http://ns.adobe.com/xap/1.0/\0"  # of XMP in a JPEG
_XMP = b"XML:com.adobe.xmp"  # and in a PNG
_RAW_EXIF = b"Raw profile type exif"  # of Exif tags in a PNG's text, in hexadecimal digits
_TEXT = 2**20  # bytes, at most, of a PNG's compressed text


class Header(NamedTuple):
    """The content of a file, according to its header.

    Attributes:
      format: One of `FORMATS`, "" for any other.
      channels: As stored, 3 for a palette; 0 where it is not known.
      bits: Of one channel; 0 where it is not known.
    """

    format: str
    channels: int
    bits: int


def read(encoded: bytes) -> Header:
    """Returns the header of encoded bytes; never fails, whatever they are."""
    name = _format(encoded)
    channels, bits = 0, 0
    if name == "JPEG":
        if frame := _frame(encoded):
            channels, bits = frame[5], frame[0]
    elif name == "PNG" and len(encoded) > 25:
        channels, bits = _PNG_CHANNELS.get(encoded[25], 0), encoded[24]
    elif name == "GIF":
        channels, bits = 3, 8
    elif name == "BMP":
        with contextlib.suppress(InputError):
            layout = bitmaps.layout(encoded)
            is_grey = layout.palette is not None and bitmaps.is_grey(layout.palette)
            channels, bits = 1 if is_grey else 4 if layout.bits == 32 else 3, 8
    elif name == "WebP" and len(encoded) > 24:
        lossless_alpha = encoded[12:16] == b"VP8L" and encoded[24] & 0x10
        extended_alpha = encoded[12:16] == b"VP8X" and encoded[20] & 0x10
        channels, bits = 4 if lossless_alpha or extended_alpha else 3, 8
    return Header(name, channels, bits)


def size(encoded: bytes) -> tuple[int, int]:
    """Returns height and width as stored, before rotation; (0, 0) if they cannot be read."""
    name = _format(encoded)
    if name == "JPEG" and (frame := _frame(encoded)):
        return _number(frame[1:3], "big"), _number(frame[3:5], "big")
    if name == "PNG":
        return _number(encoded[20:24], "big"), _number(encoded[16:20], "big")
    if name == "GIF":
        return gifs.size(encoded)
    if name == "BMP":
        with contextlib.suppress(InputError):
            return bitmaps.layout(encoded)[:2]
    if name == "WebP":
        return _webp_size(encoded)
    if name == "JPEG XL":
        return jpeg_xl.size(encoded)
    return 0, 0


def refusal(encoded: bytes, *, max_pixels: int = 0) -> str:
    """Returns why these bytes must not be decoded, "" if they may.

    Args:
      encoded: An image, or so many of its first bytes that they hold its header.
      max_pixels: The limit on height times width; 0: none.
    """
    name = _format(encoded)
    if name == "WebP" and encoded[12:16] == b"VP8X" and encoded[20:21] and encoded[20] & 0x02:
        # TensorFlow 2.21 writes its frames past the end of the memory that it has for them.
        return "An animated WebP, of which only still ones can be read; save its first frame."
    if name == "BMP":
        try:
            bitmaps.layout(encoded)
        except InputError as error:
            return str(error)
    height, width = size(encoded)
    if 0 < max_pixels < height * width:
        return (
            f"It has {width:,} x {height:,} pixels, more than dataset.max_pixels={max_pixels:,}; "
            "make it smaller, or allow more."
        )
    return ""


def orientation(encoded: bytes) -> int:
    """Returns the orientation 1 to 8 from Exif tags or XMP; 1, upright, without any.

    It is the one that Pillow's `ImageOps.exif_transpose` uses. Of a JPEG, it reads the segments
    before the first scan; of a PNG or WebP, the lengths of chunks and the metadata. The decoder of
    JPEG XL applies the orientation; GIF and BMP have none.
    """
    read = {"JPEG": _jpeg_metadata, "PNG": _png_metadata, "WebP": _webp_metadata}
    name = _format(encoded)
    return exif.orientation(*read[name](encoded)) if name in read else 1


def _format(encoded: bytes) -> str:
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    return next((name for start, name in _STARTS.items() if encoded.startswith(start)), "")


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of the segments before the first scan."""
    place = 2
    # Whatever is no marker between two segments, decoders pass over.
    while (place := jpeg.find(b"\xff", place) + 1) and place < len(jpeg):
        marker = jpeg[place]
        if marker == 0xDA:  # start of scan
            return
        if marker in (0x00, 0xFF):  # fills up
            continue
        place += 1
        if marker not in _BARE:
            length = max(_number(jpeg[place : place + 2], "big"), 2)
            yield marker, jpeg[place + 2 : place + length]
            place += length


def _frame(jpeg: bytes) -> bytes:
    """Returns the content of a JPEG's start of frame, b"" if it has none."""
    for marker, content in _segments(jpeg):
        # The other three of these markers hold tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) > 5:
            return content
    return b""


def _jpeg_metadata(jpeg: bytes) -> tuple[bytes, bytes]:
    """Returns Exif, which may fill several segments, and XMP."""
    tags = xmp = b""
    for marker, content in _segments(jpeg):
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            tags += content.removeprefix(b"Exif\0\0")
        elif marker == 0xE1 and content.startswith(_XAP):
            xmp = content
    return tags, xmp


def _png_metadata(png: bytes) -> tuple[bytes, bytes]:
    """Returns Exif, of its own chunk or in a text, and XMP; of each the last counts."""
    tags = raw = xmp = b""
    place, is_behind_pixels = 8, False
    while len(head := png[place : place + 8]) == 8:
        start, kind = place + 8, head[4:]
        place = start + _number(head[:4], "big") + 4
        is_behind_pixels |= kind == b"IDAT"
        if kind == b"IEND" or (kind == b"fcTL" and is_behind_pixels):  # another picture begins
            break
        if kind == b"eXIf":
            tags = png[start : place - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, text = _png_text(kind, png[start : place - 4])
            if key == _XMP:
                xmp = text
            elif key == _RAW_EXIF:
                raw = text
            elif key == b"exif" and kind == b"tEXt":
                tags = text
    if not tags and raw:
        with contextlib.suppress(ValueError):  # is not of hexadecimal digits
            tags = bytes.fromhex(b"".join(raw.split(b"\n")[3:]).decode("latin-1"))
    return tags, xmp


def _png_text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Returns key and text; no text where it cannot be read."""
    key, _, text = content.partition(b"\0")
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed = text[:1] != b"\0"
        text = b"\0" + text[2:].partition(b"\0")[2].partition(b"\0")[2]  # language, translated key
    if not is_compressed:
        return key, text[1:] if kind == b"iTXt" else text
    decompressor = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        text = decompressor.decompress(text[1:], _TEXT)
        return key, b"" if decompressor.unconsumed_tail else text
    return key, b""


def _webp_metadata(webp: bytes) -> tuple[bytes, bytes]:
    """Returns Exif and XMP, if the file's header says that it has them."""
    chunks = {b"EXIF": b"", b"XMP ": b""}
    if webp[12:16] != b"VP8X" or len(webp) < 21:
        return b"", b""
    flags = {b"EXIF": 0x08, b"XMP ": 0x04}
    place = 12
    while len(head := webp[place : place + 8]) == 8:
        length = _number(head[4:], "little")
        kind, start = head[:4], place + 8
        if kind in chunks and not chunks[kind] and webp[20] & flags[kind]:
            chunks[kind] = webp[start : start + length]
        place = start + length + length % 2  # filled up to an even number
    return chunks[b"EXIF"], chunks[b"XMP "]


def _webp_size(webp: bytes) -> tuple[int, int]:
    kind = webp[12:16]
    if kind == b"VP8X":
        return _number(webp[27:30], "little") + 1, _number(webp[24:27], "little") + 1
    if kind == b"VP8L":
        bits = _number(webp[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _number(webp[28:30], "little") & 0x3FFF, _number(webp[26:28], "little") & 0x3FFF
    return 0, 0


def _number(content: bytes, order: Literal["little", "big"]) -> int:
    return int.from_bytes(content, order)
