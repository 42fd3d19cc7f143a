"""What encoded images say of themselves before their pixels: format, channels, orientation."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

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
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type; a palette has three
_BMP_CHANNELS = {8: 1, 24: 3, 32: 4}  # by bits of a pixel
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
_ORIENTATION = 0x0112  # the tag
_VALUE_SIZES = {3: 2, 4: 4}  # bytes, by the tag's type: SHORT, LONG


class Header(NamedTuple):
    """What a file says that it holds.

    Attributes:
      format: One of `FORMATS`, "" for any other.
      channels: As stored, 3 for a palette; 0 where it is not known.
      bits: Of one channel; 0 where it is not known.
    """

    format: str
    channels: int
    bits: int


def read(encoded: bytes) -> Header:
    """Returns what encoded bytes say that they hold; never fails, whatever they are."""
    name = _format(encoded)
    channels, bits = 0, 0
    if name == "JPEG":
        for marker, content in _segments(encoded):
            # Start of frame; the other three of these markers hold tables.
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) > 5:
                channels, bits = content[5], content[0]
    elif name == "PNG" and len(encoded) > 25:
        channels, bits = _PNG_CHANNELS.get(encoded[25], 0), encoded[24]
    elif name == "GIF":
        channels, bits = 3, 8
    elif name == "BMP" and len(encoded) > 29:
        channels, bits = _BMP_CHANNELS.get(_little(encoded, 28, 2), 0), 8
    elif name == "WebP" and len(encoded) > 24:
        lossless_alpha = encoded[12:16] == b"VP8L" and encoded[24] & 0x10
        extended_alpha = encoded[12:16] == b"VP8X" and encoded[20] & 0x10
        channels, bits = 4 if lossless_alpha or extended_alpha else 3, 8
    return Header(name, channels, bits)


def refusal(encoded: bytes) -> str:
    """Returns why TensorFlow must not decode these bytes although it would, "" if it may."""
    name = _format(encoded)
    if name == "WebP" and encoded[12:16] == b"VP8X" and encoded[20:21] and encoded[20] & 0x02:
        # TensorFlow 2.21 writes its frames past the end of the memory that it has for them.
        return "An animated WebP, of which only still ones can be read; save its first frame."
    if name == "BMP" and not _is_plain_bmp(encoded):
        # TensorFlow takes the palette's numbers for grey.
        return "A BMP with a palette, of which only grey ones can be read; save it as PNG."
    return ""


def orientation(jpeg: bytes) -> int:
    """Returns the orientation 1 to 8 in a JPEG file's Exif tags; 1, upright, if there is none."""
    for marker, content in _segments(jpeg):
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            return _tagged_orientation(content[6:])
    return 1


def _format(encoded: bytes) -> str:
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    return next((name for start, name in _STARTS.items() if encoded.startswith(start)), "")


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of the segments before the first scan."""
    place = 2
    while len(start := jpeg[place : place + 4]) == 4 and start[0] == 0xFF:
        marker = start[1]
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            return
        if marker == 0xFF:  # fills up
            place += 1
            continue
        length = int.from_bytes(start[2:], "big")
        yield marker, jpeg[place + 4 : place + 2 + length]
        place += 2 + length


def _tagged_orientation(tiff: bytes) -> int:
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], order)

    first = number(4, 4)
    for i in range(min(number(first, 2), len(tiff) // 12)):
        tag = first + 2 + 12 * i
        if number(tag, 2) == _ORIENTATION:
            value = number(tag + 8, _VALUE_SIZES.get(number(tag + 2, 2), 0))
            return value if 1 <= value <= 8 else 1
    return 1


def _is_plain_bmp(bmp: bytes) -> bool:
    """Returns whether a BMP has no palette, or one in which each grey is its own number."""
    header, bits, compression = _little(bmp, 14, 4), _little(bmp, 28, 2), _little(bmp, 30, 4)
    if len(bmp) < 54 or bits > 8:  # TensorFlow says what is wrong with one that is cut
        return True
    colors = min(_little(bmp, 46, 4) or 256, 256)
    palette = bmp[14 + header : 14 + header + 4 * colors]
    greys = all(palette[4 * i : 4 * i + 3] == bytes([i] * 3) for i in range(len(palette) // 4))
    return header >= 40 and bits == 8 and not compression and greys


def _little(encoded: bytes, place: int, size: int) -> int:
    return int.from_bytes(encoded[place : place + size], "little")
