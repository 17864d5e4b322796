"""Resizing, with SIMD instructions where cykooz-resizer is installed, otherwise with Pillow.

Both compute the same two convolutions and round to 8 bits after each. One value in a hundred
differs, by a level of 255. cykooz-resizer takes a quarter of the time.

Each convolution is a call: in a single one, both libraries choose the order by the shape of the
image, and Pillow's choice depends on its version. The other order rounds other values, so a quarter
of the pixels would differ.
"""

import math
from importlib.util import find_spec

from PIL import Image

from model.spec import Interpolation

Box = tuple[float, float, float, float]

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # of a filter, in pixels of the smaller image
_PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}
WITHOUT_SIMD = (
    "images are resized with Pillow, because cykooz-resizer, which takes a quarter of the time, is "
    "not installed"
)
# Wheels exist for x86-64 only.
SIMD = find_spec("cykooz_resizer") is not None
if SIMD:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer

    _ALGORITHMS = {
        "bilinear": ResizeAlg.convolution(FilterType.bilinear),
        "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),  # what Pillow calls bicubic
        "lanczos": ResizeAlg.convolution(FilterType.lanczos3),
    }
    # Modes in Pillow, and the mode that cykooz-resizer accepts for the same layout in memory.
    _LAYOUTS = {"L": "L", "RGB": "RGB", "RGBX": "CMYK", "CMYK": "CMYK", "RGBA": "RGBA"}
    _LEAST_SIDE = 1e-9  # pixels; cykooz-resizer returns black for an empty part


def resize(
    image: Image.Image,
    side: int,
    box: Box,
    interpolation: Interpolation,
    *,
    columns_first: bool = False,
) -> Image.Image:
    """Resize a part of an image to a square, antialiased, averaging colours weighted by alpha.

    Args:
        side: side of the result in pixels.
        box: left, top, right and bottom of the part, within the image; fractions of a pixel count.
        columns_first: resize the columns before the rows.
    """
    if image.size == (side, side) and box == (0, 0, side, side):
        return image
    if interpolation == "nearest":
        return image.resize((side, side), _PILLOW[interpolation], box=box)
    resample = _with_simd if SIMD and image.mode in _LAYOUTS else _with_pillow
    left, top, right, bottom = box
    part: Box
    rest: Box
    if columns_first:
        first, last = _read_by(interpolation, left, right, side, image.width)
        size, part = (last - first, side), (first, top, last, bottom)
        rest = (left - first, 0, right - first, side)
    else:
        first, last = _read_by(interpolation, top, bottom, side, image.height)
        size, part = (side, last - first), (left, first, right, last)
        rest = (0, top - first, side, bottom - first)
    mode = _PREMULTIPLIED.get(image.mode, image.mode)
    half = resample(image, mode, size, part, interpolation)
    return resample(half, image.mode, (side, side), rest, interpolation)


def _read_by(
    interpolation: Interpolation, start: float, end: float, side: int, length: int
) -> tuple[int, int]:
    """The rows or columns that the second pass reads, of ``length``."""
    reach = _REACH[interpolation] * max(1.0, (end - start) / side)
    return max(0, math.floor(start - reach)), min(length, math.ceil(end + reach))


def _with_pillow(
    image: Image.Image, mode: str, size: tuple[int, int], part: Box, interpolation: Interpolation
) -> Image.Image:
    if image.mode in _PREMULTIPLIED:
        image = image.convert(mode)
    resized = image.resize(size, _PILLOW[interpolation], box=part)
    return resized if resized.mode == mode else resized.convert(mode)


def _with_simd(
    image: Image.Image, mode: str, size: tuple[int, int], part: Box, interpolation: Interpolation
) -> Image.Image:
    left, top, right, bottom = part
    width = max(min(right, image.width) - left, _LEAST_SIDE)
    height = max(min(bottom, image.height) - top, _LEAST_SIDE)
    options = ResizeOptions(
        resize_alg=_ALGORITHMS[interpolation], crop_box=CropBox(left, top, width, height)
    )
    resized = Image.new(mode, size)
    Resizer().resize_pil(_in_layout(image), _in_layout(resized), options)
    return resized


def _in_layout(image: Image.Image) -> Image.Image:
    """The same pixels under the mode that cykooz-resizer accepts for their layout."""
    layout = _LAYOUTS.get(image.mode, image.mode)
    if layout == image.mode:
        return image
    renamed = Image.Image()
    renamed.im, renamed._mode, renamed._size = image.im, layout, image.size
    return renamed
