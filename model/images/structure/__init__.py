"""Reducing an image file to what its decoder needs, with an estimate of its cost.

Decoders never see an original file. Each format has a reader that walks the file's structure,
counts the work of decoding and writes a new file with only the first picture. Metadata, further
frames and broken checksums never reach the decoder; the colour profile and the orientation are
returned separately.
"""

from collections.abc import Callable

from model.images.formats import public_name
from model.images.structure.bmp import read_bmp
from model.images.structure.encoded import Canvas, Encoded, Greys, Mosaic, Tiles
from model.images.structure.gif import read_gif
from model.images.structure.heif.picture import read_avif, read_heic
from model.images.structure.jpeg import read_jpeg
from model.images.structure.png import read_png
from model.images.structure.tiff import read_tiff
from model.images.structure.webp import read_webp
from model.images.structure.work import check_work

__all__ = ["Canvas", "Encoded", "Greys", "Mosaic", "Tiles", "read_structure"]

_READERS: dict[str, Callable[[bytes, int], Encoded]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "AVIF": read_avif,
    "HEIF": read_heic,
}


def read_structure(data: bytes, image_format: str, max_pixels: int) -> Encoded:
    """The first picture of a file, ready for its decoder.

    Raises:
        UnsupportedImage: an unsupported kind of the format, which the message names.
        ImageTooLarge: over ``max_pixels``, or too much work for a decoder.
        InvalidImage: the structure is broken.
    """
    encoded = _READERS[image_format](data, max_pixels)
    check_work(public_name(image_format), encoded.work, max_pixels)
    return encoded
