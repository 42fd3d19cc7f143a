"""Extracts the first picture of a GIF file.

TensorFlow decodes all pictures of an animation to return the first one, and crops pictures that do
not begin at the upper left corner; a GIF of a few hundred bytes can hold thousands of pictures.
"""

from typing import NamedTuple


class Picture(NamedTuple):
    """Where the first picture lies.

    Attributes:
      tables: Where the header and the palette of all pictures end.
      start: First byte of the picture's description.
      end: Behind its last byte.
    """

    tables: int
    start: int
    end: int


def size(gif: bytes) -> tuple[int, int]:
    """Returns height and width of the first picture, (0, 0) if there is none."""
    if (picture := _find_first(gif)) is None:
        return 0, 0
    width, height = (
        int.from_bytes(gif[place : place + 2], "little")
        for place in (picture.start + 5, picture.start + 7)
    )
    return height, width


def first(gif: bytes) -> bytes:
    """Returns a GIF of the first picture alone, all of its pixels in their colours.

    Transparent pixels have a colour too, which is used as for other formats. A file without a
    complete picture is returned as it is, for the decoder to report.
    """
    picture = _find_first(gif)
    if picture is None or picture.end > len(gif):
        return gif
    tables, start, end = picture
    return b"".join([gif[:tables], b",", bytes(4), gif[start + 5 : end], b";"])


def _find_first(gif: bytes) -> Picture | None:
    place = tables = 13 + _palette_bytes(gif[10:11])
    while (kind := gif[place : place + 1]) in (b"!", b","):
        if kind == b",":
            data = place + 10 + _palette_bytes(gif[place + 9 : place + 10]) + 1
            return Picture(tables, place, _skip_blocks(gif, data))
        place = _skip_blocks(gif, place + 2)
    return None


def _palette_bytes(flags: bytes) -> int:
    """Returns the bytes of the palette that these flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _skip_blocks(gif: bytes, place: int) -> int:
    """Returns the place behind the blocks that begin here, or beyond the end of a cut file."""
    while place < len(gif) and (length := gif[place]):
        place += length + 1
    return place + 1
