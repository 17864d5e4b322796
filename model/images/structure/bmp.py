"""BMP: its header, and its run-length encoding, which is decoded here."""

import struct
from collections import Counter
from dataclasses import dataclass

import numpy as np

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.structure.bmp_masks import write_masked
from model.images.structure.encoded import Encoded, rows_of_a_block
from model.images.structure.splice import splice
from model.images.structure.work import check_pixels, check_work

MAX_RUN_BYTES = 2 * 2**20  # decoded in Python, in up to 0.7 s
MAX_RUN_ROW = 2**20  # pixels; Pillow copies a row at a time

_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_PLAIN, _RUNS_OF_8, _RUNS_OF_4, _MASKS = range(4)
_MASKS_AND_ALPHA = 6
_NAMES = {4: "JPEG", 5: "PNG"}
_BITS = {1, 2, 4, 8, 16, 24, 32}
_BROKEN = "the BMP data is truncated or corrupt"


@dataclass(frozen=True, slots=True)
class _Header:
    size: int
    width: int
    height: int  # negative if the first row is the top one
    bits: int
    compression: int
    colours: int
    pixels_at: int


def read_bmp(data: bytes, max_pixels: int) -> Encoded:
    """The picture of a BMP file.

    Run-length encoding, two bits per pixel and colour masks are rewritten to a plain encoding.
    """
    header = _read_header(data)
    height = abs(header.height)
    if header.width <= 0 or not height:
        raise InvalidImage(f"{_BROKEN}: it has no pixels")
    check_pixels(header.width, height, max_pixels)
    _check_kind(header)
    work = Counter({"pixel": header.width * height, "row": height})
    if header.bits <= 8:
        work["converted pixel"] = header.width * height
    if header.compression not in (_RUNS_OF_8, _RUNS_OF_4):
        work["BMP byte"] = height * _stride(header.width, header.bits)
        return _in_plain_bits(data, header, work)
    work["BMP run"] = min(len(data) - header.pixels_at, MAX_RUN_BYTES) // 2
    work["BMP byte"] = 2 * height * _stride(header.width, 8)
    if len(data) - header.pixels_at > MAX_RUN_BYTES:
        raise ImageTooLarge(
            f"the BMP has over {MAX_RUN_BYTES} bytes of run-length encoding; save it without"
        )
    if header.width > MAX_RUN_ROW:
        raise ImageTooLarge(
            f"the BMP has run-length encoded rows of over {MAX_RUN_ROW} pixels; save it without"
        )
    check_work("BMP", work, max_pixels)
    block = rows_of_a_block(_stride(header.width, 8))
    return Encoded(_without_runs(data, header), work, block=block)


def _read_header(data: bytes) -> _Header:
    try:
        (pixels_at, size) = struct.unpack_from("<II", data, 10)
        if size == 12:
            width, height, _, bits = struct.unpack_from("<4H", data, 18)
            return _Header(size, width, height, bits, _PLAIN, 0, pixels_at)
        if size not in _HEADERS:
            raise UnsupportedImage(f"BMP with a header of {size} bytes is not supported")
        width, height, _, bits, compression, _, _, _, colours = struct.unpack_from(
            "<iiHHIIiiI", data, 18
        )
    except struct.error as error:
        raise InvalidImage("the BMP header is truncated or corrupt") from error
    return _Header(size, width, height, bits, compression, colours, pixels_at)


def _check_kind(header: _Header) -> None:
    """Refuse what Pillow cannot read, by name."""
    bits, compression = header.bits, header.compression
    if compression > _MASKS and compression != _MASKS_AND_ALPHA:
        name = _NAMES.get(compression, f"number {compression}")
        raise UnsupportedImage(f"BMP with compression {name} is not supported; save it without")
    if bits not in _BITS:
        raise UnsupportedImage(f"BMP with {bits} bits per pixel is not supported")
    if compression in (_MASKS, _MASKS_AND_ALPHA) and bits not in (16, 32):
        raise InvalidImage(f"{_BROKEN}: masks for {bits} bits per pixel")
    if compression in (_RUNS_OF_8, _RUNS_OF_4) and bits != {1: 8, 2: 4}[compression]:
        raise InvalidImage(f"{_BROKEN}: run-length encoding with {bits} bits per pixel")


def _stride(width: int, bits: int) -> int:
    return (width * bits + 31) // 32 * 4


def _in_plain_bits(data: bytes, header: _Header, work: Counter[str]) -> Encoded:
    """The file in an encoding that Pillow reads; adds the work of decoding to ``work``."""
    width, pixels = header.width, header.width * abs(header.height)
    masks = _masks(data, header)
    if header.compression in (_MASKS, _MASKS_AND_ALPHA) or (header.bits == 32 and masks[3]):
        work["BMP masked pixel"] = work["alpha pixel"] = pixels
        plain = write_masked((width, header.height), header.bits, _rows(data, header), masks)
        return Encoded(plain, work, block=rows_of_a_block(4 * width))
    if header.bits == 2:
        work["converted pixel"] += pixels
        plain = _write_indexed(data, header, _unpack(_rows(data, header), width, header.height))
        return Encoded(plain, work, block=rows_of_a_block(_stride(width, 8)))
    return Encoded(data, work, block=rows_of_a_block(_stride(width, header.bits)))


def _unpack(rows: bytes, width: int, height: int) -> bytearray:
    """One byte per pixel from two-bit pixels, in rows padded to 32 bits."""
    packed = np.frombuffer(rows, np.uint8).reshape(abs(height), -1)
    colours = packed[..., None] >> np.array((6, 4, 2, 0), np.uint8) & 3
    return bytearray(colours.reshape(len(packed), -1)[:, : _stride(width, 8)].tobytes())


def _rows(data: bytes, header: _Header) -> bytes:
    """All rows, in file order."""
    length = abs(header.height) * _stride(header.width, header.bits)
    rows = data[header.pixels_at : header.pixels_at + length]
    if length - len(rows) > 3:  # more than the padding of the last row is missing
        raise InvalidImage(f"{_BROKEN}: pixels are missing")
    return rows.ljust(length, b"\0")


def _masks(data: bytes, header: _Header) -> tuple[int, ...]:
    """The masks of red, green, blue and alpha in a pixel."""
    *colours, alpha = struct.unpack_from("<4I", data.ljust(70, b"\0"), 54)
    if header.compression == _PLAIN:
        return (0xFF0000, 0xFF00, 0xFF, alpha if header.size >= 108 else 0)
    with_alpha = header.size >= 56 or header.compression == _MASKS_AND_ALPHA
    return (*colours, alpha if with_alpha else 0)


def _without_runs(data: bytes, header: _Header) -> bytes:
    """The file with one byte per pixel, bottom row first."""
    width, height = header.width, abs(header.height)
    pixels = _unroll(data[header.pixels_at :], width, height, four_bits=header.bits == 4)
    return _write_indexed(data, header, pixels)


def _write_indexed(data: bytes, header: _Header, pixels: bytearray) -> bytes:
    """Write a file of 8 bits per pixel, from one byte per pixel in rows padded to 32 bits."""
    colours = min(header.colours or 2**header.bits, 2**header.bits)
    unit = 3 if header.size == 12 else 4
    palette = data[14 + header.size : 14 + header.size + unit * colours]
    if unit == 3:
        palette = b"".join(palette[i : i + 3] + b"\0" for i in range(0, len(palette), 3))
    palette = palette.ljust(4 * 256, b"\0")
    width = header.width
    start = 54 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, header.height, 1, 8, 0, len(pixels), 0, 0, 0, 0)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return splice(head, sizes, palette, pixels)


def _unroll(runs: bytes, width: int, height: int, *, four_bits: bool) -> bytearray:
    """Decode runs to pixels, in rows padded to 32 bits. Pixels that no run covers are 0."""
    stride = _stride(width, 8)
    pixels = bytearray(stride * height)
    x = y = place = 0
    while y < height:
        if place + 2 > len(runs):
            if x >= width and y == height - 1:  # complete except for the end mark
                break
            raise InvalidImage(f"{_BROKEN}: its runs end too early")
        count, value = runs[place], runs[place + 1]
        place += 2
        if count:
            run = _repeat(value, count, four_bits=four_bits)
        elif value == 0:  # end of row
            x, y = 0, y + 1
            continue
        elif value == 1:  # end of picture
            break
        elif value == 2:  # move right and up
            right, up = runs[place : place + 2].ljust(2, b"\0")
            x, y, place = x + right, y + up, place + 2
            continue
        else:  # literal pixels, padded to 16 bits
            length = (value + 1) // 2 if four_bits else value
            run = _literal(runs[place : place + length], value, four_bits=four_bits)
            place += length + length % 2
        run = run[: max(0, width - x)]
        pixels[y * stride + x : y * stride + x + len(run)] = run
        x += len(run)
    return pixels


def _repeat(value: int, count: int, *, four_bits: bool) -> bytes:
    if not four_bits:
        return bytes((value,)) * count
    return (bytes((value >> 4, value & 15)) * (count // 2 + 1))[:count]


def _literal(content: bytes, count: int, *, four_bits: bool) -> bytes:
    if not four_bits:
        return content
    return bytes(half for byte in content for half in (byte >> 4, byte & 15))[:count]
