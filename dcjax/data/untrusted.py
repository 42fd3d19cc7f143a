"""Decodes pictures from people who are not trusted: nothing large is begun before it is checked."""

import numpy as np
import numpy.typing as npt

from dcjax.core.errors import InputError
from dcjax.data import decoding, headers
from dcjax.data.quiet_tensorflow import tf

_SCAN = b"\xff\xda"  # begins a scan of a JPEG
# A progressive JPEG has about ten. Each takes a pass over all pixels, however few bytes it has.
_MAX_SCANS = 100


def decode(encoded: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decodes a picture as the pipeline decodes files, uint8 [h, w, 3], turned upright.

    Its kind is that of its content, whatever its name. Size and kind are checked by its header,
    before pixels are decoded.

    Args:
      encoded: the content of a file.
      max_pixels: limit on height times width.

    Raises:
      InputError: with the reason why it cannot be read.
    """
    if not encoded:
        raise InputError("The picture is empty, it has 0 bytes.")
    if not (kind := headers.read(encoded).format):
        known = ", ".join(dict.fromkeys(headers.FORMATS.values()))
        raise InputError(f"This is no picture that can be read; formats are {known}.")
    height, width = headers.size(encoded)
    if not height * width:
        raise InputError(f"This {kind} is damaged: its header gives no size.")
    if height * width > max_pixels:
        raise InputError(
            f"The picture has {width:,} x {height:,} pixels; up to {max_pixels:,} are read, make "
            "it smaller."
        )
    if reason := headers.refusal(encoded):
        raise InputError(reason)
    if kind == "JPEG" and (scans := encoded.count(_SCAN)) > _MAX_SCANS:
        raise InputError(f"This JPEG has {scans} scans; up to {_MAX_SCANS} are read, save it anew.")
    try:
        pixels = decoding.decode(tf.constant(encoded, tf.string), max_pixels=max_pixels).numpy()
    except tf.errors.OpError as error:
        raise InputError(f"This {kind} is damaged: {decoding.first_line(error)}") from None
    return pixels
