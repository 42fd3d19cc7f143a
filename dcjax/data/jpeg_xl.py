"""Reads the size of JPEG XL images from their first bytes (ISO/IEC 18181-1, "SizeHeader")."""

from fractions import Fraction

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
# Width per height; 0 stands for a width that is given apart.
_RATIOS = [
    Fraction(*ratio) for ratio in ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
]
_LENGTHS = (9, 13, 18, 30)  # bits of a side


def size(encoded: bytes) -> tuple[int, int]:
    """Returns height and width as stored, (0, 0) if the bytes do not say them."""
    codestream = encoded if encoded.startswith(CODESTREAM) else _unpack(encoded)
    if not codestream.startswith(CODESTREAM):
        return 0, 0
    bits = int.from_bytes(codestream[2:18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_LENGTHS[take(2)]) + 1

    is_small = bool(take(1))
    height, ratio = side(), take(3)
    return height, side() if ratio == 0 else int(height * _RATIOS[ratio - 1])


def _unpack(container: bytes) -> bytes:
    """Returns the codestream, or its first part, out of a container's boxes."""
    place = 0
    while len(head := container[place : place + 16]) >= 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        start = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            skipped = start + 4 * (kind == b"jxlp")  # the number of the part
            return container[place + skipped : place + skipped + 18]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < start:  # 0: up to the end of the file
            return b""
        place += length
    return b""
