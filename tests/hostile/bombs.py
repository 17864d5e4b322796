"""Small files that cost a careless decoder much time or memory."""

import struct
import zlib
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

from tests.pictures import bomb, chunk, png

from .byte_by_byte import bmp, jpeg_segment, rgb_tags, rows_of, tiff
from .heif_bombs import DECODED_HEIF_BOMBS, HEIF_BOMBS
from .kinds import encode, picture


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG with ``scans`` scans over all of its coefficients.

    A scan takes about 60 bytes, which say in runs of 32767 blocks that no coefficient changes; the
    decoder visits all of them.
    """
    blocks = -(-width // 8) * -(-height // 8)
    table = bytes([1] + [0] * 15)  # one code, of one bit
    runs = int("0" + 14 * "1", 2)
    bits = "".join(f"{runs:015b}" for _ in range(-(-blocks // 32767)))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    refine = jpeg_segment(0xDA, b"\1\1\0" + bytes((1, 63, 0x10))) + data
    return (
        b"\xff\xd8"
        + jpeg_segment(0xDB, b"\0" + bytes([1] * 64))
        + jpeg_segment(0xC2, b"\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0")
        + jpeg_segment(0xC4, b"\0" + table + b"\0")  # DC: no difference
        + jpeg_segment(0xC4, b"\x10" + table + b"\xe0")  # AC: a run of up to 32767 empty blocks
        + jpeg_segment(0xDA, b"\1\1\0" + bytes((0, 0, 0x00)))
        + bytes(-(-blocks // 8))
        + jpeg_segment(0xDA, b"\1\1\0" + bytes((1, 63, 0x01)))
        + data
        + refine * scans
        + b"\xff\xd9"
    )


def _scan_bomb_in_a_tiff(scans: int) -> bytes:
    data = scan_bomb(7000, 7000, scans)
    tags: dict[int, int | tuple[int, ...]] = {256: 7000, 257: 7000, 258: 8, 259: 7, 262: 1}
    return tiff(tags | {273: 8, 277: 1, 278: 7000, 279: len(data)}, data)


def _with_header(image_format: str, place: int, content: bytes) -> bytes:
    data = bytearray(encode(picture(), image_format))
    data[place : place + len(content)] = content
    return bytes(data)


def _huge_jpeg() -> bytes:
    data = bytearray(encode(picture(), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"
    return bytes(data)


def _frames(image_format: str, count: int) -> bytes:
    frames = [Image.new("P", (32, 32), i % 256) for i in range(count)]
    for i, frame in enumerate(frames):
        frame.putpalette([i % 256, 0, 0] * 256)
    if image_format != "GIF":
        frames = [frame.convert("RGB") for frame in frames]
    return encode(frames[0], image_format, save_all=True, append_images=frames[1:])


def _ifd(entries: list[tuple[int, int, int, int]]) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


def _overlapping_tags(size: int, count: int) -> bytes:
    """EXIF in which ``count`` tags all point at the same ``size`` bytes."""
    start = 8 + 2 + 12 * count + 4
    return _ifd([(1000 + i, 7, size, start) for i in range(count)]) + bytes(size)


def _jpeg_with(segments: bytes) -> bytes:
    data = encode(picture(), "JPEG")
    return data[:2] + segments + data[2:]


def _png_with(chunks: bytes) -> bytes:
    return png((32, 32), 8, 2, rows_of(np.zeros((32, 32, 3), np.uint8)), before=chunks)


def _gif_with(blocks: bytes) -> bytes:
    data = encode(Image.new("L", (32, 32)), "GIF")
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:place] + blocks + data[place:]


def _unequal_texts(count: int) -> bytes:
    return b"".join(chunk(b"tEXt", b"%x\0" % i) for i in range(count))


def _zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 2**20), 1)


def _one_tile(side: int) -> bytes:
    """A small picture in one huge tile."""
    data = zlib.compress(bytes(3 * side * side), 1)
    return tiff(rgb_tags((32, 32), 8) | {322: side, 323: side, 324: 8, 325: len(data)}, data)


def _shared_tiles(height: int) -> bytes:
    """A picture one pixel wide in tiles of 7000 x 7000 that share the same bytes."""
    data = zlib.compress(bytes(7000 * 7000), 9)
    count = height // 7000
    size: dict[int, int | tuple[int, ...]] = {256: 1, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
    tiles: dict[int, int | tuple[int, ...]] = {
        322: 7000,
        323: 7000,
        324: (8,) * count,
        325: (len(data),) * count,
    }
    return tiff(size | tiles, data)


def _fax(width: int, height: int) -> bytes:
    """A picture without valid rows, for each of which libtiff logs a message."""
    data = Random(0).randbytes(2000)
    size: dict[int, int | tuple[int, ...]] = {256: width, 257: height, 258: 1, 277: 1, 278: height}
    return tiff(size | {259: 3, 262: 0, 273: 8, 279: len(data)}, data)


def _strips(count: int) -> bytes:
    """A picture one pixel wide with a strip per row."""
    tags = rgb_tags((1, count), 1) | {273: (8,) * count, 278: 1, 279: (3,) * count}
    return tiff(tags, bytes(8))


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 10 gigapixels": lambda: bomb(100_000),
    "PNG of 50 megapixels, no data": lambda: bomb(7_000),
    "JPEG of 4 gigapixels": _huge_jpeg,
    "GIF of 4 gigapixels": lambda: _with_header("GIF", 6, b"\xff\xff\xff\xff"),
    "BMP of 4 gigapixels": lambda: _with_header("BMP", 18, struct.pack("<ii", 65535, -65535)),
    "TIFF of 2^62 pixels": lambda: tiff(rgb_tags((2**31, 2**31), 8) | {273: 8, 279: 8}, bytes(8)),
    "WebP of 268 megapixels": lambda: (
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0"
    ),
    "IDAT that goes on after the picture": lambda: png((32, 32), 8, 2, bytes(256 * 2**20)),
    "ICC profile": lambda: _png_with(chunk(b"iCCP", b"a\0\0" + _zeros(256))),
    "compressed text": lambda: _png_with(chunk(b"zTXt", b"a\0\0" + _zeros(256))),
    "international text": lambda: _png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + _zeros(256))),
    "a hundred texts": lambda: _png_with(chunk(b"zTXt", b"a\0\0" + _zeros(1)) * 100),
    "overlapping tags of a PNG": lambda: _png_with(
        chunk(b"eXIf", _overlapping_tags(4 * 2**20, 500))
    ),
    "overlapping tags of a TIFF": lambda: _overlapping_tags(4 * 2**20, 500),
    "a tile of 200 megapixels": lambda: _one_tile(14_336),
    "a million strips": lambda: _strips(1_000_000),
    "a million bad rows": lambda: _fax(48, 1_000_000),
    "a million chunks": lambda: _png_with(chunk(b"teSt", b"") * 1_500_000),
    "a million texts": lambda: _png_with(_unequal_texts(1_000_000)),
    "a million comments": lambda: _jpeg_with(jpeg_segment(0xFE, b"") * 4_500_000),
    "a million segments": lambda: _jpeg_with(jpeg_segment(0xEA, b"") * 4_500_000),
    "EXIF in a million pieces": lambda: _jpeg_with(jpeg_segment(0xE1, b"Exif\0\0x") * 800_000),
    "megabytes between two markers": lambda: _jpeg_with(
        jpeg_segment(0xFE, b"") + bytes(19 * 2**20)
    ),
    "a million extensions": lambda: _gif_with(b"!\xfe\0" * 6_000_000),
    "a comment of megabytes": lambda: _gif_with(b"!\xfe" + (b"\xff" + b"x" * 255) * 70_000 + b"\0"),
    "runs of four bits": lambda: bmp(
        (7000, 7000), 4, 2, bytes(64), (b"\xff\x11" * 27 + b"\x73\x11\0\0") * 7000
    ),
    "runs of one pixel": lambda: bmp((3000, 3000), 8, 1, bytes(1024), b"\1\1" * 9_000_000),
    "three thousand frames of a GIF": lambda: _frames("GIF", 3000),
    "three thousand frames of a WebP": lambda: _frames("WEBP", 3000),
    "three thousand frames of a PNG": lambda: _frames("PNG", 3000),
    "three thousand frames of a TIFF": lambda: _frames("TIFF", 3000),
    "a row of 50 million pixels in runs": lambda: bmp(
        (50_000_000, 1), 8, 1, bytes(1024), b"\xff\0" * 10 + b"\0\1"
    ),
    "columns of four million pixels in runs": lambda: bmp(
        (5, 4_000_000), 8, 1, bytes(1024), b"\xff\0" * 10 + b"\0\1"
    ),
    "a column of 50 million pixels in runs": lambda: bmp(
        (1, 50_000_000), 8, 1, bytes(1024), b"\xff\0" * 10 + b"\0\1"
    ),
    "runs up to the bound": lambda: bmp((7000, 7000), 8, 1, bytes(1024), b"\1\1" * 1_048_000),
    "fifteen thousand profiles": lambda: _png_with(
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20))) * 15_000
    ),
    "a hundred shared tiles": lambda: _shared_tiles(700_000),
    "scans up to the bound": lambda: scan_bomb(7000, 7000, 88),
    "a thousand scans": lambda: scan_bomb(7000, 7000, 1000),
    "a thousand scans in a TIFF": lambda: _scan_bomb_in_a_tiff(1000),
    **{name: HEIF_BOMBS[name] for name in DECODED_HEIF_BOMBS},
}
