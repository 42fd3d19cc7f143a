"""Reads the orientation of an image: an Exif tag or, without that, XMP.

Damaged tags are read as Pillow reads them, so that images are oriented as in other programs.
"""

import re
import struct

_ORIENTATION = 0x0112
# By the first bytes. The last two have the magic number in the wrong order, which some cameras do.
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}
# By a tag's type: bytes of one value, and its format; "" for text and bytes, which are no number.
_TYPES = {
    1: (1, ""),
    2: (1, ""),
    3: (2, "H"),
    4: (4, "L"),
    5: (8, "LL"),
    6: (1, "b"),
    7: (1, ""),
    8: (2, "h"),
    9: (4, "l"),
    10: (8, "ll"),
    11: (4, "f"),
    12: (8, "d"),
    13: (4, "L"),
    16: (8, "Q"),
}
_PREFIX = re.compile(rb"^(Exif\0\0){1,2}")
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(exif: bytes, xmp: bytes) -> int:
    """Returns the orientation 1 to 8; 1, upright, if neither Exif nor XMP says another one.

    Args:
      exif: The Exif tags, with or without their usual prefix; b"" if there are none.
      xmp: The XMP packet; b"" if there is none.
    """
    value: float | None = None
    if tiff := _PREFIX.sub(b"", exif):
        order = _BYTE_ORDERS.get(tiff[:4])
        if order is None or len(tiff) < 8:
            return 1
        value = _tag(tiff, order)
    if value is None and (match := _XMP.search(xmp)):
        value = int(match[1])
    return int(value) if value is not None and value in range(1, 9) else 1


def _tag(tiff: bytes, order: str) -> float | None:
    """Returns the orientation tag of the first directory, None if it is absent, 0 if no number."""
    (place,) = struct.unpack_from(f"{order}L", tiff, 4)
    entries = tiff[place + 2 :]
    (count,) = struct.unpack(f"{order}H", tiff[place : place + 2].rjust(2, b"\0"))
    elsewhere = 0  # bytes of values so far that lie outside of the directory
    for i in range(min(count, len(entries) // 12)):
        tag, kind, number, value = struct.unpack_from(f"{order}HHL4s", entries, 12 * i)
        if kind not in _TYPES:
            continue
        unit, form = _TYPES[kind]
        size = number * unit
        if size > 4:
            elsewhere += size
            if elsewhere > len(tiff):
                continue
            (start,) = struct.unpack(f"{order}L", value)
            value = tiff[start : start + size]
            if len(value) < size:  # beyond the end: the rest is not to be trusted either
                return None
        if tag == _ORIENTATION and size:
            if not form:
                return 0
            first, *divisor = struct.unpack_from(order + form, value)
            return first if not divisor else first / divisor[0] if divisor[0] else 0
    return None
