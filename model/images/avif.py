"""Decoding AVIF with the libavif that is bundled with Pillow, in one thread.

Pillow copies the pixels with the interpreter lock held, and before version 13 it also decodes them
with it: for 50 megapixels that blocks all threads for 0.1 or 2 seconds.
"""

import ctypes
import io

import numpy as np
from PIL import AvifImagePlugin, Image

from model.errors import UnsupportedImage

_RGBA, _YUV444 = 1, 1

AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class _RGBImage(ctypes.Structure):
    """The structure avifRGBImage of libavif 1: pixels to convert to."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("format", ctypes.c_int),
        ("upsampling", ctypes.c_int),
        ("downsampling", ctypes.c_int),
        ("without_libyuv", ctypes.c_int),
        ("ignore_alpha", ctypes.c_int),
        ("premultiplied", ctypes.c_int),
        ("floats", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("pixels", ctypes.c_void_p),
        ("row_bytes", ctypes.c_uint32),
    )


def _find_library() -> ctypes.CDLL | None:
    """The library, or None if Pillow was built with another one or without exporting functions."""
    try:
        from PIL import _avif

        library = ctypes.CDLL(_avif.__file__)
        library.avifVersion.restype = ctypes.c_char_p
        pointer, number = ctypes.c_void_p, ctypes.c_uint32
        library.avifDecoderCreate.restype = library.avifImageCreateEmpty.restype = pointer
        library.avifImageCreate.restype = pointer
        library.avifImageCreate.argtypes = (number, number, number, ctypes.c_int)
        library.avifDecoderDestroy.argtypes = library.avifImageDestroy.argtypes = (pointer,)
        library.avifDecoderReadMemory.argtypes = (
            pointer,
            pointer,
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
        rgb = ctypes.POINTER(_RGBImage)
        library.avifRGBImageSetDefaults.argtypes = (rgb, pointer)
        library.avifImageYUVToRGB.argtypes = (pointer, rgb)
    except (AttributeError, ImportError, OSError):
        return None
    return library if _has_known_layout(library) else None


def _has_known_layout(library: ctypes.CDLL) -> bool:
    """Whether `_RGBImage` is the structure of this version."""
    if not library.avifVersion().startswith(b"1."):
        return False
    image, rgb = library.avifImageCreate(3, 5, 10, _YUV444), _RGBImage(pixels=1, row_bytes=7)
    library.avifRGBImageSetDefaults(rgb, image)
    library.avifImageDestroy(image)
    found = (rgb.width, rgb.height, rgb.depth, rgb.format, rgb.threads, rgb.pixels, rgb.row_bytes)
    return found == (3, 5, 10, _RGBA, 1, None, 0)


_library = _find_library()


def decode_avif(data: bytes) -> Image.Image:
    """Decode a file without alpha to mode RGBX.

    Raises:
        UnsupportedImage: Pillow was built without libavif.
        OSError, SyntaxError, RuntimeError: the file is corrupt.
    """
    if not AvifImagePlugin.SUPPORTED:
        raise UnsupportedImage(
            "this build of Pillow does not read AVIF; install the one from PyPI: "
            "pip install --force-reinstall --only-binary :all: pillow"
        )
    if _library is None:
        with Image.open(io.BytesIO(data), formats=("AVIF",)) as opened:
            return opened.convert("RGBX")
    image = _library.avifImageCreateEmpty()
    try:
        _read(_library, data, image)
        return _convert(_library, image)
    finally:
        _library.avifImageDestroy(image)


def _read(library: ctypes.CDLL, data: bytes, image: int) -> None:
    decoder = library.avifDecoderCreate()
    failed = library.avifDecoderReadMemory(decoder, image, data, len(data))
    library.avifDecoderDestroy(decoder)
    if failed:
        raise OSError("the AV1 data is corrupt")


def _convert(library: ctypes.CDLL, image: int) -> Image.Image:
    """Convert to RGB with 8 bits."""
    rgb = _RGBImage()
    library.avifRGBImageSetDefaults(rgb, image)
    pixels = np.empty((rgb.height, rgb.width, 4), np.uint8)
    rgb.depth, rgb.format = 8, _RGBA
    rgb.pixels, rgb.row_bytes = pixels.ctypes.data, 4 * rgb.width
    if library.avifImageYUVToRGB(image, rgb):
        raise OSError("the AV1 data has colours that cannot be converted")
    return Image.frombuffer("RGBX", (rgb.width, rgb.height), pixels, "raw", "RGBX", 0, 1)
