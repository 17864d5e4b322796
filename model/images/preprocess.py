"""From encoded bytes to the model's input: check, decode, crop, resize, orient.

Normalisation is the model's first operation, on the device, so that the CPU handles only bytes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import InvalidImage, InvalidTensor
from model.images.colour import to_srgb
from model.images.decode import DECODER_ERRORS, Decoded, decode
from model.images.formats import public_name, sniff_format
from model.images.resize import resize
from model.images.structure import Encoded, read_structure
from model.spec import PreprocessSpec

Pixels = NDArray[np.uint8]
FloatPixels = NDArray[np.float32]  # from 0 to 255 too, from clients that send tensors
AnyPixels = Pixels | FloatPixels

DEFAULT_MAX_PIXELS = 50_000_000


class Prepared(NamedTuple):
    """An image as the model sees it.

    Attributes:
        seen: the model's input ``(h, w, 3)``.
        pixels: width times height of the image file; ``None`` for a tensor.
    """

    seen: AnyPixels
    pixels: int | None


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSPOSED = (5, 6, 7, 8)
_MAX_NORMALISED = (
    100.0  # far beyond any pixel, but still in the range of 16 bits within the network
)


def preprocess(
    data: bytes, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Convert an encoded image to RGB pixels ``(image_size, image_size, 3)``.

    The format is detected from the bytes. The result is what a browser would show: EXIF orientation
    and colour profile applied, alpha over white, 16 bits scaled to 8, the first frame of an
    animation.

    Raises:
        UnsupportedImage: not in one of the formats of `model.images.formats`, or an unsupported
            kind of one, which the message names.
        ImageTooLarge: over ``max_pixels``, or too much work for a decoder; checked before decoding.
        InvalidImage: truncated or corrupt.
    """
    (pixels,) = preprocess_sizes(data, spec, (spec.image_size,), max_pixels=max_pixels)
    return pixels


def prepare(data: bytes, spec: PreprocessSpec, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Prepared:
    """Like `preprocess`, with the size of the image file."""
    image_format = sniff_format(data)
    encoded = read_structure(data, image_format, max_pixels)
    (seen,) = _decode_sizes(encoded, image_format, spec, (spec.image_size,))
    return Prepared(seen, encoded.pixels)


def preprocess_sizes(
    data: bytes,
    spec: PreprocessSpec,
    sizes: Sequence[int],
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> list[Pixels]:
    """Like `preprocess`, at several sizes from one decode: pixels ``(size, size, 3)`` for each."""
    image_format = sniff_format(data)
    encoded = read_structure(data, image_format, max_pixels)
    return _decode_sizes(encoded, image_format, spec, sizes)


def _decode_sizes(
    encoded: Encoded, image_format: str, spec: PreprocessSpec, sizes: Sequence[int]
) -> list[Pixels]:
    try:
        decoded = decode(encoded, image_format, max(sizes))
        transposed = encoded.orientation in _TRANSPOSED
        resized = [_resize(decoded, spec, size, transposed=transposed) for size in sizes]
        shown = [_to_rgb(to_srgb(image, encoded.profile)) for image in resized]
        return [np.asarray(_upright(image, encoded.orientation)) for image in shown]
    except DECODER_ERRORS as error:
        name = public_name(image_format)
        raise InvalidImage(f"the {name} data is truncated or corrupt") from error


def unnormalise(tensor: memoryview | bytes, spec: PreprocessSpec) -> FloatPixels:
    """Convert a normalised image, ``(3, h, w)`` 32-bit floats, to pixels ``(h, w, 3)`` from 0 to
    255.

    Raises:
        InvalidTensor: the size is wrong, or the numbers cannot be normalised pixels.
    """
    size = spec.image_size
    values = np.frombuffer(tensor, "<f4")
    if values.size != 3 * size * size:
        raise InvalidTensor(f"{values.size} numbers; expected 3 x {size} x {size}")
    extreme = values[np.abs(values).argmax()]  # argmax finds NaN first
    if not abs(extreme) <= _MAX_NORMALISED:
        raise InvalidTensor(
            f"the tensor holds {extreme:g}; normalised pixels are within {_MAX_NORMALISED:g} of 0"
        )
    channels_last = values.reshape(3, size, size).transpose(1, 2, 0)
    pixels: FloatPixels = 255 * (
        channels_last * np.array(spec.std, np.float32) + np.array(spec.mean, np.float32)
    )
    return pixels


def _resize(
    decoded: Decoded, spec: PreprocessSpec, image_size: int, *, transposed: bool
) -> Image.Image:
    """Resize and centre crop in one step, which computes only the pixels that are kept.

    Args:
        transposed: whether the columns will be rows when the image is upright.
    """
    width, height = decoded.size
    side = min(width, height) * spec.crop_pct
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return resize(decoded.image, image_size, box, spec.interpolation, columns_first=transposed)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Composite the image over white."""
    if image.mode not in ("RGBA", "LA"):
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
