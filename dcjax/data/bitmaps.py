"""Decodes BMP files.

TensorFlow supports neither palettes nor colour masks, and reads their bytes as blue, green and red.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcjax.core.errors import InputError

_FILE_HEADER = 14  # bytes, before the one that says how the pixels are stored
_CORE = 12  # bytes of the first OS/2 header, whose fields are shorter
_WINDOWS = (40, 52, 56, 108, 124)  # bytes; other headers are of OS/2, with its own compressions
_PLAIN, _MASKS, _MASKS_AND_ALPHA = 0, 3, 6
_COMPRESSIONS = {1: "run-length", 2: "run-length", 4: "JPEG", 5: "PNG"}
_DEFAULT_MASKS = {  # red, green and blue, by bits of a pixel
    16: (0x7C00, 0x03E0, 0x001F),
    24: (0xFF0000, 0x00FF00, 0x0000FF),
    32: (0xFF0000, 0x00FF00, 0x0000FF),
}
_SAVE = "save it as PNG"


class Layout(NamedTuple):
    """How a file stores its pixels.

    Attributes:
      height: In pixels.
      width: In pixels.
      bits: Of a pixel.
      start: First byte of the pixels.
      top_down: Whether the first row is the top one, not the bottom one.
      palette: uint8 [2 ** bits, 3], red, green and blue; None for more than 8 bits.
      masks: The bits of red, green and blue in a pixel; () for 8 bits and less.
    """

    height: int
    width: int
    bits: int
    start: int
    top_down: bool
    palette: npt.NDArray[np.uint8] | None
    masks: tuple[int, ...]


def layout(bmp: bytes) -> Layout:
    """Reads the headers, palette and colour masks.

    Raises:
      InputError: if they are damaged, or of a kind that cannot be read.
    """
    length = _number(bmp, _FILE_HEADER, 4)
    if not _CORE <= length <= max(_WINDOWS) or len(bmp) < _FILE_HEADER + length:
        raise InputError(f"A BMP with a damaged or unknown header of {length} bytes; {_SAVE}.")
    header = bmp[_FILE_HEADER:][:length].ljust(max(_WINDOWS), b"\0")  # what is absent is 0
    if length == _CORE:
        width, height = _number(header, 4, 2), _number(header, 6, 2)
        bits, compression, num_colors, entry = _number(header, 10, 2), _PLAIN, 0, 3
    else:
        width, height = (_number(header, place, 4, signed=True) for place in (4, 8))
        bits, compression = _number(header, 14, 2), _number(header, 16, 4)
        num_colors, entry = _number(header, 32, 4), 4
    if width <= 0 or height == 0:
        raise InputError(f"A BMP of {width} x {height} pixels is damaged.")
    known = (_PLAIN, _MASKS, _MASKS_AND_ALPHA) if length in _WINDOWS else (_PLAIN,)
    if compression not in known:
        name = _COMPRESSIONS.get(compression, f"number {compression}")
        raise InputError(f"A BMP with {name} compression, which cannot be read; {_SAVE}.")
    palette: npt.NDArray[np.uint8] | None = None
    masks: tuple[int, ...] = ()
    end = _FILE_HEADER + length
    if bits in (1, 2, 4, 8) and compression == _PLAIN:
        num_colors = min(num_colors or 2**bits, 2**16)
        palette = _palette(bmp[end : end + entry * num_colors], entry, 2**bits)
        end += entry * num_colors
    elif bits in _DEFAULT_MASKS:
        # Behind a header of 40 bytes, or at the same place in a longer one.
        given = tuple(_number(bmp, place, 4) for place in (54, 58, 62))
        masks = given if compression != _PLAIN and any(given) else _DEFAULT_MASKS[bits]
        if compression != _PLAIN and length == min(_WINDOWS):
            end += 16 if compression == _MASKS_AND_ALPHA else 12
        if not all(_is_run(mask, bits) for mask in masks):
            shown = ", ".join(f"{mask:x}" for mask in masks)
            raise InputError(f"A BMP with the colour masks {shown}, which are damaged; {_SAVE}.")
    else:
        raise InputError(
            f"A BMP with {bits} bits a pixel and compression {compression} cannot be read; {_SAVE}."
        )
    start = _number(bmp, 10, 4)
    if start == 0 or (palette is not None and start == _FILE_HEADER + length):
        start = end  # some writers leave the palette out of account
    return Layout(abs(height), width, bits, start, height < 0, palette, masks)


def decode(bmp: bytes) -> npt.NDArray[np.uint8]:
    """Returns the pixels, uint8 [h, w, 3]; what follows them does not matter.

    Raises:
      InputError: if the file cannot be read, or ends too early.
    """
    height, width, bits, start, top_down, palette, masks = layout(bmp)
    stride = -(-width * bits // 32) * 4  # bytes of a row, filled up to whole words
    needed = stride * (height - 1) + -(-width * bits // 8)
    stored = bmp[start : start + stride * height]
    if len(stored) < needed:
        raise InputError(f"A BMP that ends {needed - len(stored):,} bytes too early.")
    rows = np.frombuffer(stored.ljust(stride * height, b"\0"), np.uint8).reshape(height, stride)
    rows = rows if top_down else rows[::-1]
    if palette is not None:
        return palette[_numbers(rows, bits)[:, :width]]
    pixels = rows[:, : width * bits // 8].reshape(height, width, bits // 8)
    return np.stack([_channel(pixels, mask) for mask in masks], axis=-1)


def is_grey(palette: npt.NDArray[np.uint8]) -> bool:
    """Returns whether a palette's numbers are grey levels, as black, 1, 2, ... white."""
    return len(palette) == 256 and bool((palette == np.arange(256)[:, None]).all())


def _palette(stored: bytes, entry: int, num_colors: int) -> npt.NDArray[np.uint8]:
    """Returns a palette of that many colours; those that a file leaves out are black."""
    stored = stored[: entry * num_colors].ljust(entry * num_colors, b"\0")
    return np.frombuffer(stored, np.uint8).reshape(num_colors, entry)[:, 2::-1]


def _numbers(rows: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Returns the pixels' numbers [h, pixels]; a byte holds 8 / bits, the first one highest."""
    shifts = np.arange(8 - bits, -1, -bits)
    each = (np.arange(256)[:, None] >> shifts & 2**bits - 1).astype(np.uint8)
    return each[rows].reshape(len(rows), -1)


def _channel(pixels: npt.NDArray[np.uint8], mask: int) -> npt.NDArray[np.uint8]:
    """Returns the bits of a mask [h, w] out of pixels [h, w, bytes], scaled to 0..255."""
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    if most == 255 and shift % 8 == 0:
        return pixels[..., shift // 8]
    values = np.zeros(pixels.shape[:2], np.uint32)
    for i in range(pixels.shape[2]):
        values |= pixels[..., i].astype(np.uint32) << 8 * i
    return ((values >> shift & most) * 255 // most).astype(np.uint8)


def _is_run(mask: int, bits: int) -> bool:
    """Returns whether the bits of a mask lie side by side in a pixel, at most 16 of them."""
    run = mask // (mask & -mask) if mask else 0
    return 0 < run < 2**16 and run & (run + 1) == 0 and mask < 2**bits


def _number(content: bytes, place: int, size: int, *, signed: bool = False) -> int:
    return int.from_bytes(content[place : place + size], "little", signed=signed)
