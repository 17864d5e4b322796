"""Reading HEIF files made for tests."""

import re

import pytest
from PIL import Image

from model.errors import ImageError
from model.images.decode import decode
from model.images.formats import sniff_format
from model.images.structure import Encoded, Mosaic, read_structure
from tests.hostile import kinds, picture
from tests.hostile.heif import Heif, Item, coded

MANY = 50_000_000
KINDS = [kind for kind in kinds() if kind.image_format in ("AVIF", "HEIF")]
BOTH = pytest.mark.parametrize("image_format", ["AVIF", "HEIF"])


def tile(image_format: str = "HEIF") -> Item:
    return coded(picture(64, 64), image_format)


def mosaic(data: bytes) -> Mosaic:
    found = read_structure(data, sniff_format(data), MANY).mosaic
    assert found
    return found


def check(error: type[ImageError], message: str, *items: Item, **others: bytes) -> None:
    """Check that a file of these items is refused with this message."""
    with pytest.raises(error, match=re.escape(message)):
        mosaic(Heif(items, **others).data())  # type: ignore[arg-type]


def read(data: bytes) -> Encoded:
    return read_structure(data, sniff_format(data), MANY)


def decoded(data: bytes) -> Image.Image:
    return decode(read(data), "HEIF", 32).image
