"""Pictures of noise, as arrays and as files."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcjax.data import decoding
from dcjax.data.datasets.image_set import ImageSet, from_classes
from dcjax.data.quiet_tensorflow import tf


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def decoded(path: str) -> np.ndarray:
    return decoding.decode(tf.io.read_file(path)).numpy()


def twelve_files(folder: Path) -> ImageSet:
    """Writes twelve JPEG files of four classes; the first three take much longer to decode."""
    paths = [str(folder / f"{i}.jpg") for i in range(12)]
    for i, path in enumerate(paths):
        size = (400, 500) if i < 3 else (20 + i, 30 - i)
        tf.io.write_file(path, tf.io.encode_jpeg(noise(*size, seed=i)))
    return from_classes(paths, np.arange(12) % 4)


def bmp(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Encodes uint8[h, w, channels] (blue first), or the numbers [h, w, 1] in a palette."""
    height, width, channels = pixels.shape
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (0, -width * channels % 4)))[::-1]
    colors = np.arange(256).repeat(3).reshape(-1, 3) if palette is None else palette
    table = np.pad(colors.astype(np.uint8), ((0, 0), (0, 1))).tobytes() if channels == 1 else b""
    start = 54 + len(table)
    kinds = (40, width, height, 1, 8 * channels, 0, lines.size, 0, 0, len(table) // 4, 0)
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", start + lines.size, 0, start, *kinds)
    return header + table + lines.tobytes()


def exif(orientation: int, order: str, *, kind: int = 3) -> bytes:
    """Returns a JPEG segment of Exif tags; order "<" or ">", kind 3 (SHORT) or 4 (LONG)."""
    return segment(0xE1, b"Exif\0\0" + tiff(orientation, order, kind=kind))


def tiff(
    orientation: int,
    order: str,
    *,
    kind: int = 3,
    count: int = 1,
    tag: int = 0x0112,
    others: Sequence[tuple[int, int, int]] = (),
) -> bytes:
    """Returns Exif tags without their prefix: others, as tag, kind and count, and the orientation.

    A value of more than four bytes is stored after the tags.
    """
    formats = "_BsHL_BBhl_fdL__Q_"  # by kind, a letter of `struct`; _: two letters, or none
    place, entries, values = 8 + 2 + 12 * (len(others) + 1) + 4, b"", b""
    for one, a_kind, a_count in [*others, (tag, kind, count)]:
        letter = formats[a_kind]
        if a_kind in (5, 10):
            value = struct.pack(f"{order}{'LL' if a_kind == 5 else 'll'}", orientation, 1)
        elif letter == "s":
            value = b"6"
        else:
            value = struct.pack(f"{order}{letter.replace('_', 'B')}", orientation)
        value *= a_count
        if len(value) > 4:
            values, value = values + value, struct.pack(f"{order}L", place + len(values))
        entries += struct.pack(f"{order}HHL4s", one, a_kind, a_count, value)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(others) + 1)
    return head + entries + bytes(4) + values


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def segment(marker: int, content: bytes) -> bytes:
    """Returns a segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
