"""Decoding an image file into pixels that can be resampled, at reduced scale where possible."""

import ctypes
import io
import math
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace

from PIL import (
    BmpImagePlugin,  # noqa: F401, each registers its decoder
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from model.errors import ImageTooLarge, InvalidImage
from model.images.greys import is_wide_grey, to_8_bits
from model.images.jpeg import decode_jpeg
from model.images.structure import Canvas, Encoded, Greys
from model.images.structure.splice import splice
from model.images.webp import can_decode_webp, decode_webp

# Errors that Pillow's decoders raise for corrupt data.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_BLENDABLE = ("L", "RGB", "RGBX", "CMYK", "YCbCr", "LAB")
_WITH_ALPHA = ("RGBA", "LA")
_LARGE = 2**20  # pixels
# A JPEG is decoded to at least this many times its target size: 500 x 375 pixels at an eighth for
# 32, which differs from the full decode by under two levels of 255.
_DRAFT_MARGIN = 1.25
# Endings to try for a truncated JPEG: only the end marker, or preceded by bits that would change
# pixels if any were missing.
_ENDINGS = (b"\xff\xd9", 4096 * b"\xaa" + b"\xff\xd9", 4096 * b"\x35" + b"\xff\xd9")

# libtiff reports each bad row on stderr, which could fill the log: 60 MB from a 2 KB file.
with suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels in a mode whose values can be averaged.

    Attributes:
        size: width and height of the image in these pixels. At a reduced scale the last pixels may
            extend beyond it: at an eighth, 375 rows are 46.875 of 47.
    """

    image: Image.Image
    size: tuple[float, float]


def decode(encoded: Encoded, image_format: str, needed: int) -> Decoded:
    """Decode a file. A truncated file is accepted if no pixel depends on the missing bytes.

    Args:
        needed: side of the square that the image will be resized to.

    Raises:
        InvalidImage: pixels are missing.
        DECODER_ERRORS: the file is corrupt.
    """
    if encoded.complete:
        return _decode(encoded, image_format, needed)
    decoded, *others = (
        _decode(replace(encoded, data=splice(encoded.data, ending)), image_format, needed)
        for ending in _ENDINGS
    )
    if any(other.image.tobytes() != decoded.image.tobytes() for other in others):
        raise InvalidImage(f"the {image_format} data is truncated: pixels are missing at its end")
    return decoded


def _decode(encoded: Encoded, image_format: str, needed: int) -> Decoded:
    image, size = _read(encoded, image_format, needed)
    blendable = _to_blendable(image, encoded.greys)
    if encoded.canvas:
        return Decoded(_on_canvas(blendable, encoded.canvas), encoded.canvas.size)
    return Decoded(blendable, size)


def _read(
    encoded: Encoded, image_format: str, needed: int
) -> tuple[Image.Image, tuple[float, float]]:
    """The pixels, and `Decoded.size`."""
    if image_format == "WEBP" and can_decode_webp():
        image = decode_webp(encoded.data)
        return image, image.size
    if image_format == "JPEG" and (decoded := decode_jpeg(encoded.data, _least_side(needed))):
        return decoded
    opened = _open(encoded, image_format)
    return opened, _load(opened, needed)


def _open(encoded: Encoded, image_format: str) -> ImageFile.ImageFile:
    try:
        image = Image.open(io.BytesIO(encoded.data), formats=(image_format,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error}; it is more than the decoder accepts") from error
    image.decodermaxblock = encoded.block or len(encoded.data)
    return image


def _load(image: ImageFile.ImageFile, needed: int) -> tuple[float, float]:
    """Decode in place, and a large JPEG at a reduced scale; returns `Decoded.size`."""
    draft = image.draft(None, 2 * (_least_side(needed),))
    try:
        _allocate(image)
        image.load()
    except MemoryError as error:  # for example for rows of 2**31 bits or more
        raise ImageTooLarge("the image has longer rows than its decoder supports") from error
    return draft[1][2:] if draft else image.size


def _least_side(needed: int) -> int:
    """Pixels of a side that a JPEG is decoded to at least."""
    return math.ceil(_DRAFT_MARGIN * needed)


def _allocate(image: ImageFile.ImageFile) -> None:
    """Allocate the pixels of a large image before Pillow does so holding the interpreter lock.

    Pillow uses the allocated pixels. A GIF is loaded in another mode than it is opened in, and
    16-bit modes would be filled pixel by pixel with the lock held.
    """
    width, height = image.size
    large = width * height > _LARGE
    if large and image.format != "GIF" and not image.mode.startswith("I;16"):
        image.im = Image.new(image.mode, image.size, 0).im


def _to_blendable(image: Image.Image, greys: Greys) -> Image.Image:
    if is_wide_grey(image):
        return to_8_bits(image, greys)
    if image.mode == "La":  # grey with premultiplied alpha
        return image.convert("LA")
    if image.has_transparency_data:
        return image if image.mode in _WITH_ALPHA else image.convert("RGBA")
    return image if image.mode in _BLENDABLE else image.convert("RGB")


def _on_canvas(image: Image.Image, canvas: Canvas) -> Image.Image:
    """Place a first frame on its canvas, which is transparent around it."""
    whole = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    whole.paste(image.convert("RGBA"), canvas.offset)
    return whole
