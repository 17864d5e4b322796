"""Encoded bytes to the model's input: check, decode, crop, resize, orient. No float on the CPU.

Normalisation is not done here: it is the model's first operation, on the device.
"""

import ctypes
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,  # noqa: F401, each registers its decoder
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from model.colour import to_srgb
from model.errors import ImageTooLarge, InvalidImage, InvalidTensor, UnsupportedImage
from model.spec import PreprocessSpec
from model.structure import Canvas, Encoded, Greys, read_structure

Pixels = NDArray[np.uint8]
FloatPixels = NDArray[np.float32]  # of the same range, 0 to 255, of who normalised by himself
AnyPixels = Pixels | FloatPixels

# libtiff tells each bad row on stderr, where it would fill the log: a file of 2 KB 60 MB of it.
with suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)  # type: ignore[attr-defined]

DEFAULT_MAX_PIXELS = 50_000_000

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_WITH_ALPHA = ("RGBA", "LA")
_BLENDABLE = ("L", "RGB", "CMYK", "YCbCr", "LAB")
# What is put behind a JPEG without its end: nothing, and bits that would be pixels if some were
# missing.
_POSSIBLE_ENDS = (b"\xff\xd9", 4096 * b"\xaa" + b"\xff\xd9", 4096 * b"\x35" + b"\xff\xd9")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A JPEG is decoded at no less than this many times the size it is then resized to: 500 x 375
# pixels at an eighth for 32, which differs from the full decode by under two levels of 255.
_DRAFT_MARGIN = 1.25
_MAX_NORMALISED = 100.0  # far from any pixel, and not yet where a network leaves 16 bits
_BLOCK = 2**20  # samples that are converted at once
# What Pillow's decoders raise on bytes that break their header's promise.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def preprocess(
    data: bytes, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """One encoded image to RGB pixels of shape ``(image_size, image_size, 3)``.

    The format is judged from the bytes. The image becomes what a browser would show: EXIF
    orientation and colour profile applied, alpha over white, 16 bits scaled to 8, the first frame
    of an animation.

    Raises:
        UnsupportedImage: not JPEG, PNG, WebP, GIF, BMP or TIFF, or a kind of them that is not
            read; the message names it.
        ImageTooLarge: over ``max_pixels``, or too much work for a decoder; decided before any
            decoding.
        InvalidImage: one of those formats, but truncated or corrupt.
    """
    image_format = sniff_format(data)
    encoded = read_structure(data, image_format, max_pixels)
    try:
        resized = _decode_complete(encoded, image_format, spec)
        return np.asarray(_upright(_to_rgb(to_srgb(resized, encoded.profile)), encoded.orientation))
    except _DECODER_ERRORS as error:
        raise InvalidImage(f"the {image_format} data is truncated or corrupt") from error


def unnormalise(tensor: memoryview | bytes, spec: PreprocessSpec) -> FloatPixels:
    """A normalised image, ``(3, h, w)`` 32-bit floats, back to pixels ``(h, w, 3)`` from 0 to 255.

    Raises:
        InvalidTensor: of another size, or of numbers that are no normalised pixels.
    """
    size = spec.image_size
    values = np.frombuffer(tensor, "<f4")
    if values.size != 3 * size * size:
        raise InvalidTensor(f"{values.size} numbers; expected 3 x {size} x {size}")
    extreme = values[np.abs(values).argmax()]  # NaN counts as the greatest
    if not abs(extreme) <= _MAX_NORMALISED:
        raise InvalidTensor(
            f"the tensor holds {extreme:g}; normalised pixels are within {_MAX_NORMALISED:g} of 0"
        )
    channels_last = values.reshape(3, size, size).transpose(1, 2, 0)
    pixels: FloatPixels = 255 * (
        channels_last * np.array(spec.std, np.float32) + np.array(spec.mean, np.float32)
    )
    return pixels


def sniff_format(data: bytes) -> str:
    """Pillow's name of the format, from the first bytes; `UnsupportedImage` if none fits."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for signature, image_format in _SIGNATURES.items():
        if data.startswith(signature):
            return image_format
    raise UnsupportedImage("it is not a JPEG, PNG, WebP, GIF, BMP or TIFF image")


def _decode_complete(encoded: Encoded, image_format: str, spec: PreprocessSpec) -> Image.Image:
    """Decode and resize; a file without its end passes if no pixel depends on what is missing."""
    if encoded.complete:
        return _decode_and_resize(encoded, image_format, spec)
    images = [
        _decode_and_resize(replace(encoded, data=encoded.data + end), image_format, spec)
        for end in _POSSIBLE_ENDS
    ]
    if any(image.tobytes() != images[0].tobytes() for image in images[1:]):
        raise InvalidImage(f"the {image_format} data is truncated: pixels are missing at its end")
    return images[0]


def _decode_and_resize(encoded: Encoded, image_format: str, spec: PreprocessSpec) -> Image.Image:
    image = _open(encoded.data, image_format)
    size = _decode(image, spec.image_size)
    blendable = _to_blendable(image, encoded.greys)
    if encoded.canvas:
        blendable, size = _on_canvas(blendable, encoded.canvas), encoded.canvas.size
    return _resize(blendable, size, spec)


def _open(data: bytes, image_format: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=(image_format,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error}; it is more than the decoder accepts") from error


def _decode(image: Image.Image, image_size: int) -> tuple[float, float]:
    """Decode in place; a JPEG much larger than needed at a reduced scale.

    Returns:
        Width and height in the decoded pixels. At a reduced scale the last ones may stick out of
        the picture: at an eighth, 375 rows are 46.875 of 47.
    """
    least = math.ceil(_DRAFT_MARGIN * image_size)
    draft = image.draft(None, (least, least))
    image.load()
    return draft[1][2:] if draft else image.size


def _to_blendable(image: Image.Image, greys: Greys) -> Image.Image:
    """The image in a mode whose values may be averaged by resampling."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bits(image, greys)
    if image.mode == "La":  # grey with the alpha multiplied in
        return image.convert("LA")
    if image.has_transparency_data:
        return image if image.mode in _WITH_ALPHA else image.convert("RGBA")
    return image if image.mode in _BLENDABLE else image.convert("RGB")


def _on_canvas(image: Image.Image, canvas: Canvas) -> Image.Image:
    """A first frame where it belongs; around it the canvas is transparent."""
    whole = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    whole.paste(image.convert("RGBA"), canvas.offset)
    return whole


def _to_8_bits(image: Image.Image, greys: Greys) -> Image.Image:
    """Wide samples scaled to 8 bits, with an alpha channel if one of their values is transparent."""
    levels = Image.new("L", image.size)
    alpha = None if greys.transparent is None else Image.new("L", image.size)
    white = _white(image, greys)
    for top, samples in _blocks(image, greys):
        scaled = samples.clip(0, white) * (255 / white)
        levels.paste(_to_image(255 - scaled if greys.inverted else scaled), (0, top))
        if alpha:
            alpha.paste(_to_image(255 * (samples != greys.transparent)), (0, top))
    if alpha:
        levels.putalpha(alpha)
    return levels


def _to_image(levels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.round().astype(np.uint8))


def _white(image: Image.Image, greys: Greys) -> float:
    """The sample value of white; if the file does not say, the least usual one that holds all."""
    if greys.white:
        return greys.white
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    highest = max(float(samples.max()) for _, samples in _blocks(image, greys))
    return next((limit for limit in usual if highest <= limit), highest)


def _blocks(image: Image.Image, greys: Greys) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Samples in blocks of rows, each with its top: all at once would take 20 bytes a pixel."""
    width, height = image.size
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        block = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        if greys.unsigned:
            block = block.view(np.uint32)
        yield top, np.nan_to_num(block.astype(np.float32)).clip(min=0)


def _resize(image: Image.Image, size: tuple[float, float], spec: PreprocessSpec) -> Image.Image:
    """Resize and centre crop in one step: only the pixels that will be seen are computed."""
    width, height = size
    side = min(width, height) * spec.crop_pct
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize(
        (spec.image_size, spec.image_size),
        _RESAMPLING[spec.interpolation],
        box=(left, top, left + side, top + side),
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode not in _WITH_ALPHA:
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
