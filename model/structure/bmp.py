"""BMP: header, and runs, which are written out here."""

import struct
from collections import Counter
from dataclasses import dataclass

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.structure.encoded import Encoded, rows_of_a_block
from model.structure.splice import splice
from model.structure.work import check_pixels

MAX_RUN_BYTES = 2 * 2**20  # read in Python: up to 0.7 s
MAX_RUN_ROW = 2**20  # pixels of a row in runs: Pillow copies a row at a time

_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_PLAIN, _RUNS_OF_8, _RUNS_OF_4, _MASKS = range(4)
_NAMES = {4: "JPEG", 5: "PNG", 6: "masks with alpha"}
_BITS = {1, 4, 8, 16, 24, 32}
_BROKEN = "the BMP data is truncated or corrupt"
# The masks that Pillow reads, by bits: red, green, blue.
_READ_MASKS = {
    16: {(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)},
    24: {(0xFF0000, 0xFF00, 0xFF)},
    32: {
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0xFF000000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000),
        (0, 0, 0),
    },
}


@dataclass(frozen=True, slots=True)
class _Header:
    size: int
    width: int
    height: int  # negative: the first row is the top one
    bits: int
    compression: int
    colours: int
    pixels_at: int


def read_bmp(data: bytes, max_pixels: int) -> Encoded:
    """The picture of a BMP file; one in runs is written without them."""
    header = _read_header(data)
    height = abs(header.height)
    if header.width <= 0 or not height:
        raise InvalidImage(f"{_BROKEN}: it has no pixels")
    check_pixels(header.width, height, max_pixels)
    _check_kind(data, header)
    work = Counter({"pixel": header.width * height, "row": height})
    if header.bits <= 8:
        work["converted pixel"] = header.width * height
    if header.compression not in (_RUNS_OF_8, _RUNS_OF_4):
        stride = _stride(header.width, header.bits)
        work["BMP byte"] = height * stride
        return Encoded(data, work, block=rows_of_a_block(stride))
    work["BMP run"] = min(len(data) - header.pixels_at, MAX_RUN_BYTES) // 2
    work["BMP byte"] = 2 * height * _stride(header.width, 8)
    if len(data) - header.pixels_at > MAX_RUN_BYTES:
        raise ImageTooLarge(f"the BMP has over {MAX_RUN_BYTES} bytes of runs; save it without")
    if header.width > MAX_RUN_ROW:
        raise ImageTooLarge(
            f"the BMP has rows of over {MAX_RUN_ROW} pixels in runs; save it without"
        )
    block = rows_of_a_block(_stride(header.width, 8))
    return Encoded(_without_runs(data, header), work, block=block)


def _read_header(data: bytes) -> _Header:
    try:
        (pixels_at, size) = struct.unpack_from("<II", data, 10)
        if size == 12:
            width, height, _, bits = struct.unpack_from("<4H", data, 18)
            return _Header(size, width, height, bits, _PLAIN, 0, pixels_at)
        if size not in _HEADERS:
            raise UnsupportedImage(f"BMP with a header of {size} bytes is not read")
        width, height, _, bits, compression, _, _, _, colours = struct.unpack_from(
            "<iiHHIIiiI", data, 18
        )
    except struct.error as error:
        raise InvalidImage("the BMP header is truncated or corrupt") from error
    return _Header(size, width, height, bits, compression, colours, pixels_at)


def _check_kind(data: bytes, header: _Header) -> None:
    """Refuse by name what Pillow does not read."""
    bits, compression = header.bits, header.compression
    if compression > _MASKS:
        name = _NAMES.get(compression, f"number {compression}")
        raise UnsupportedImage(f"BMP with compression {name} is not read; save it without")
    if bits not in _BITS:
        raise UnsupportedImage(f"BMP with {bits} bits a pixel is not read")
    if compression == _MASKS:
        masks = struct.unpack_from("<III", data.ljust(66, b"\0"), 54)
        if masks not in _READ_MASKS.get(bits, ()):
            shown = ", ".join(f"{mask:X}" for mask in masks)
            raise UnsupportedImage(f"BMP of {bits} bits with the masks {shown} is not read")
    if compression in (_RUNS_OF_8, _RUNS_OF_4) and bits != {1: 8, 2: 4}[compression]:
        raise InvalidImage(f"{_BROKEN}: runs of {bits} bits a pixel")


def _stride(width: int, bits: int) -> int:
    return (width * bits + 31) // 32 * 4


def _without_runs(data: bytes, header: _Header) -> bytes:
    """The file with one byte for each pixel, rows from the bottom."""
    colours = min(header.colours or 2**header.bits, 2**header.bits)
    palette = data[14 + header.size : 14 + header.size + 4 * colours].ljust(4 * 256, b"\0")
    width, height = header.width, abs(header.height)
    pixels = _unroll(data[header.pixels_at :], width, height, four_bits=header.bits == 4)
    stride = _stride(width, 8)
    if stride != width:
        rows = (pixels[i : i + width] for i in range(0, len(pixels), width))
        pixels = bytearray(splice(*(row.ljust(stride, b"\0") for row in rows)))
    start = 54 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, header.height, 1, 8, 0, len(pixels), 0, 0, 0, 0)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return splice(head, sizes, palette, pixels)


def _unroll(runs: bytes, width: int, height: int, *, four_bits: bool) -> bytearray:
    """The pixels of all runs, rows one after another. What no run covers is 0."""
    pixels = bytearray(width * height)
    x = y = place = 0
    while y < height:
        if place + 2 > len(runs):
            raise InvalidImage(f"{_BROKEN}: its runs end before the picture does")
        count, value = runs[place], runs[place + 1]
        place += 2
        if count:
            run = _repeat(value, count, four_bits=four_bits)
        elif value == 0:  # end of the row
            x, y = 0, y + 1
            continue
        elif value == 1:  # end of the picture
            break
        elif value == 2:  # further right and up
            right, up = runs[place : place + 2].ljust(2, b"\0")
            x, y, place = x + right, y + up, place + 2
            continue
        else:  # a number of pixels one by one, padded to 16 bits
            length = (value + 1) // 2 if four_bits else value
            run = _literal(runs[place : place + length], value, four_bits=four_bits)
            place += length + length % 2
        run = run[: max(0, width - x)]
        pixels[y * width + x : y * width + x + len(run)] = run
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
