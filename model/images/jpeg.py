"""Decoding JPEG with simplejpeg.

It wraps the same libjpeg-turbo as Pillow and gives the same pixels, with a tenth of the Python code
around it. Pillow decodes what it does not: CMYK.
"""

import math

import simplejpeg
from PIL import Image

_MODES = {"Gray": ("GRAY", "L"), "YCbCr": ("RGBX", "RGBX"), "RGB": ("RGBX", "RGBX")}
_SCALES = (8, 4, 2, 1)  # other scales of libjpeg-turbo do not use SIMD instructions


def decode_jpeg(data: bytes, least: int) -> tuple[Image.Image, tuple[float, float]] | None:
    """Decode a JPEG file at the smallest scale of which both sides have ``least`` pixels.

    Returns:
        the image, of mode L or RGBX, and its exact size in pixels of that scale, as
        `model.images.decode.Decoded` describes it; None for CMYK.

    Raises:
        ValueError: the file is corrupt.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    if colours not in _MODES:
        return None
    kind, mode = _MODES[colours]
    scale = next((n for n in _SCALES if min(width, height) // n >= least), 1)
    rows, columns = math.ceil(height / scale), math.ceil(width / scale)
    pixels = simplejpeg.decode_jpeg(data, kind, min_height=rows, min_width=columns, strict=False)
    image = Image.frombuffer(mode, (columns, rows), pixels, "raw", mode, 0, 1)
    return image, (width / scale, height / scale)
