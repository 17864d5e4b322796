"""Decoding HEVC pictures with libheif and libde265, from the optional package pillow-heif."""

from PIL import Image

from model.errors import UnsupportedImage
from model.images.greys import to_8_bits
from model.images.structure import Greys

try:
    import pillow_heif
except ImportError:
    pillow_heif = None  # type: ignore[assignment]


def decode_heic(data: bytes, bits: int) -> Image.Image:
    """Decode a file without alpha to mode RGB, or L if it is grey.

    Args:
        bits: per sample.

    Raises:
        UnsupportedImage: pillow-heif is not installed.
        OSError, SyntaxError, ValueError, RuntimeError: the file is corrupt.
    """
    if pillow_heif is None:
        raise UnsupportedImage("HEIC needs the package pillow-heif: pip install 'xcit-serve[heif]'")
    file = pillow_heif.open_heif(data)
    pixels = file.data  # decodes without the interpreter lock
    image = Image.frombytes(file.mode, file.size, pixels, "raw", file.mode, file.stride)
    if image.mode != "I;16":
        return image
    # libheif returns the bits at the top of 16.
    return to_8_bits(image, Greys(white=float((1 << bits) - 1 << 16 - bits)))
