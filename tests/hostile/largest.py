"""Harmless pictures as large as the default limit allows."""

import numpy as np
from PIL import Image

from .heif_bombs import honest_grid
from .kinds import Kind, encode

# Harmless pictures as large as the default limit lets them be.
LARGEST = (7000, 7142)
LARGEST_KINDS = (
    Kind("PNG", "RGBA", {"compress_level": 1}, ""),
    Kind("PNG", "P", {"compress_level": 1}, ""),
    Kind("PNG", "I;16", {"compress_level": 1}, ""),
    Kind("JPEG", "RGB", {}, ""),
    Kind("JPEG", "CMYK", {"progressive": True}, "progressive"),
    Kind("WEBP", "RGBA", {"lossless": True, "method": 0}, "lossless"),
    Kind("WEBP", "RGBA", {"method": 0}, "lossy"),
    Kind("GIF", "P", {}, ""),
    Kind("BMP", "1", {}, ""),
    Kind("TIFF", "I", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "F", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "RGBA", {"compression": "tiff_lzw"}, "lzw"),
    Kind("TIFF", "LA", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "YCbCr", {"compression": "jpeg"}, "jpeg"),
    Kind("AVIF", "RGB", {"speed": 10}, ""),
    Kind("HEIF", "RGB", {}, "in tiles"),
)


def largest(kind: Kind) -> bytes:
    """A picture of a kind with as many pixels as are accepted."""
    width, height = LARGEST
    if kind.image_format == "HEIF":
        return honest_grid(LARGEST, 512)
    if kind.mode in ("I", "F", "I;16"):
        levels = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[kind.mode]
        row = (np.arange(width) // 500 * 4000).astype(levels)
        image = Image.fromarray(np.broadcast_to(row, (height, width)).copy())
    else:
        steps = Image.linear_gradient("L").resize((7, 7)).resize(LARGEST, Image.Resampling.NEAREST)
        image = steps.convert("RGB").convert(kind.mode)
    return encode(image, kind.image_format, **kind.options)
