"""Pictures of noise, as arrays and as files."""

import struct
from pathlib import Path

import numpy as np

from dcjax import decoding
from dcjax.datasets.image_set import ImageSet, from_classes
from dcjax.quiet_tensorflow import tf


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def decoded(path: str) -> np.ndarray:
    return decoding.decode(tf.io.read_file(path)).numpy()


def twelve_files(folder: Path) -> ImageSet:
    """Twelve JPEG files of four classes; the first three take much longer to decode."""
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
    value = struct.pack(f"{order}{'HH' if kind == 3 else 'I'}", *[orientation, 0][: 5 - kind])
    tags = struct.pack(f"{order}HHHI4s", 1, 0x0112, kind, 1, value)
    tiff = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + tags + bytes(4)
    return segment(0xE1, b"Exif\0\0" + tiff)


def segment(marker: int, content: bytes) -> bytes:
    """Returns a segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
