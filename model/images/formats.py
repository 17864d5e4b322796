"""The image formats that are accepted: the one list from which messages and readers follow."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import UnsupportedImage

_MAX_BRANDS = 64


@dataclass(frozen=True, slots=True)
class Format:
    """An image format.

    Attributes:
        key: the name in this package, which is Pillow's.
        name: the usual spelling.
        suffixes: of file names, in lower case.
        start: a pattern of the first bytes.
        brands: for the formats in ISO base media files, those that name it.
    """

    key: str
    name: str
    media_types: tuple[str, ...]
    suffixes: tuple[str, ...]
    start: re.Pattern[bytes]
    brands: frozenset[bytes] = frozenset()


def _format(
    key: str, name: str, media_types: str, suffixes: str, start: bytes, brands: bytes = b""
) -> Format:
    return Format(
        key,
        name,
        tuple(media_types.split()),
        tuple(suffixes.split()),
        re.compile(start, re.DOTALL),
        frozenset(brands.split()),
    )


FORMATS = (
    _format("JPEG", "JPEG", "image/jpeg", ".jpg .jpeg", rb"\xff\xd8\xff"),
    _format("PNG", "PNG", "image/png", ".png", rb"\x89PNG\r\n\x1a\n"),
    _format("WEBP", "WebP", "image/webp", ".webp", rb"RIFF....WEBP"),
    _format("GIF", "GIF", "image/gif", ".gif", rb"GIF8[79]a"),
    _format("BMP", "BMP", "image/bmp", ".bmp", rb"BM"),
    _format("TIFF", "TIFF", "image/tiff", ".tif .tiff", rb"II[*+]\0|MM\0[*+]"),
    _format("AVIF", "AVIF", "image/avif", ".avif", rb"....ftyp", b"avif avis"),
    _format(
        "HEIF",
        "HEIC",
        "image/heic image/heif",
        ".heic .heif .hif",
        rb"....ftyp",
        b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1",
    ),
)
NAMES = ", ".join(one.name for one in FORMATS[:-1]) + f" or {FORMATS[-1].name}"
MEDIA_TYPES = tuple(media_type for one in FORMATS for media_type in one.media_types)
SUFFIXES = frozenset(suffix for one in FORMATS for suffix in one.suffixes)

_PUBLIC_NAMES = {one.key: one.name for one in FORMATS}


def public_name(key: str) -> str:
    """The usual spelling of a format's name."""
    return _PUBLIC_NAMES[key]


def sniff_format(data: bytes) -> str:
    """The key of the format, from the first bytes; raises `UnsupportedImage` if it is unknown."""
    brands = frozenset(_brands(data))
    for one in FORMATS:
        if one.start.match(data) and (not one.brands or one.brands & brands):
            return one.key
    raise UnsupportedImage(f"it is not a {NAMES} image")


def _brands(data: bytes) -> Iterator[bytes]:
    """The brands of an ISO base media file: the major one and those that it is compatible with."""
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MAX_BRANDS)
        for place in (8, *range(16, end, 4)):
            yield data[place : place + 4]
