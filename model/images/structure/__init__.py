"""An image file cut down to what its decoder needs, with its cost, before any decoder runs.

A decoder never sees a file as it came. Each format has a reader here that walks over the file's
structure, counts what decoding would take, and puts together a new file of the first picture
alone. Metadata, further frames and broken checksums never reach the decoder; the colour profile
and the orientation are returned separately.
"""

from collections.abc import Callable

from model.images.structure.bmp import read_bmp
from model.images.structure.encoded import Canvas, Encoded, Greys, public_name
from model.images.structure.gif import read_gif
from model.images.structure.jpeg import read_jpeg
from model.images.structure.png import read_png
from model.images.structure.tiff import read_tiff
from model.images.structure.webp import read_webp
from model.images.structure.work import check_work

__all__ = ["Canvas", "Encoded", "Greys", "public_name", "read_structure"]

_READERS: dict[str, Callable[[bytes, int], Encoded]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
}


def read_structure(data: bytes, image_format: str, max_pixels: int) -> Encoded:
    """The first picture of a file, ready for its decoder.

    Raises:
        UnsupportedImage: a kind of the format that is not read here; the message names it.
        ImageTooLarge: over ``max_pixels``, or too much work for a decoder.
        InvalidImage: the structure is broken.
    """
    encoded = _READERS[image_format](data, max_pixels)
    check_work(public_name(image_format), encoded.work, max_pixels)
    return encoded
