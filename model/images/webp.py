"""Decoding WebP with the libwebp that is bundled with Pillow.

Pillow decodes every WebP as an animation and holds the interpreter lock while it copies the canvas:
for 50 megapixels that blocks all threads for half a second.
"""

import ctypes

import numpy as np
from PIL import Image, _webp

_ALPHA_OF_LOSSLESS = 0x10  # a flag in the byte after width and height


def _find_library() -> ctypes.CDLL | None:
    """The library, or None if Pillow was built without exporting its functions."""
    try:
        library = ctypes.CDLL(_webp.__file__)
        decode, get_info = library.WebPDecodeRGBAInto, library.WebPGetInfo
    except (AttributeError, OSError):
        return None
    data = (ctypes.c_char_p, ctypes.c_size_t)
    decode.restype, get_info.restype = ctypes.c_void_p, ctypes.c_int
    decode.argtypes = (*data, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    get_info.argtypes = (*data, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    return library


_library = _find_library()


def can_decode_webp() -> bool:
    """Whether the library was found."""
    return _library is not None


def decode_webp(data: bytes) -> Image.Image:
    """Decode a WebP file without animation to mode RGBA, or RGBX if it has no alpha.

    Raises:
        OSError: the file is truncated or corrupt.
    """
    assert _library is not None
    width, height = ctypes.c_int(), ctypes.c_int()
    if not _library.WebPGetInfo(data, len(data), ctypes.byref(width), ctypes.byref(height)):
        raise OSError("the WebP header is corrupt")
    size = (width.value, height.value)
    pixels = np.empty((size[1], size[0], 4), np.uint8)
    place = pixels.ctypes.data
    if not _library.WebPDecodeRGBAInto(data, len(data), place, pixels.nbytes, 4 * size[0]):
        raise OSError("the WebP data is corrupt")
    mode = "RGBA" if _has_alpha(data) else "RGBX"
    return Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)


def _has_alpha(data: bytes) -> bool:
    """Whether a file written by `model.images.structure.webp` has an alpha channel."""
    kind = data[12:16]
    return kind == b"VP8X" or (kind == b"VP8L" and bool(data[24] & _ALPHA_OF_LOSSLESS))
