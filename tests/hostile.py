"""Image files that a server may be sent: every kind, damaged ones, bombs. A seed, a corpus."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.pictures import bomb, chunk, png

MODE_TIFF_COMPRESSIONS = {
    "1": ("raw", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "L": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"),
    "LA": ("raw", "tiff_lzw"),
    "P": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "RGB": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"),
    "RGBA": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "CMYK": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"),
    "YCbCr": ("raw", "jpeg"),
    "I;16": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "I;16B": ("raw",),
    "I": ("raw", "tiff_lzw", "tiff_adobe_deflate"),
    "F": ("raw", "tiff_lzw", "tiff_adobe_deflate"),
}
WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF")
# What must have been done to the picture for a viewer to undo it.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class HostileFile:
    """A file, and where it is a good one, what a viewer shows: an upright RGB picture."""

    name: str
    data: bytes
    shown: Image.Image | None = None
    lossy: bool = False


@dataclass(frozen=True)
class Kind:
    """A way to write a picture."""

    image_format: str
    mode: str
    options: dict[str, Any]
    label: str
    lossy: bool = False

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.image_format, self.mode, self.label)))


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colours and two edges, so that a flip, a turn or a channel swap shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    blue = np.where(x + y > 1, 200, 40)
    green = np.where(x > 0.7, 20, 255 * y)
    return Image.fromarray(np.stack((255 * x, green, blue), -1).round().astype(np.uint8))


def in_mode(mode: str, image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The picture in a mode, and as plain RGB what that shows."""
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        white = Image.new("RGBA", image.size, "white")
        return image, Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if mode == "P":
        image = image.quantize(60)
        return image, image.convert("RGB")
    if mode in ("I;16", "I;16B", "I", "F"):
        grey = image.convert("L")
        samples = np.asarray(grey).astype(np.float32)
        stored = {
            "I;16": (samples * 257).astype("<u2"),
            "I;16B": (samples * 257).astype(">u2"),
            "I": (samples * 257).astype(np.int32),
            "F": samples / 255,
        }[mode]
        return Image.fromarray(stored), grey.convert("RGB")
    image = image.convert(mode, dither=Image.Dither.NONE)
    return image, image.convert("RGB")


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def frames() -> dict[str, Any]:
    """Options that make a picture the first of three frames."""
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    return {"save_all": True, "append_images": others}


def kinds() -> list[Kind]:
    """Every format, mode and depth that Pillow writes, with the options that change decoding."""
    best: dict[str, Any] = {"quality": 95}
    found = [Kind("PNG", mode, {}, "") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    found += [Kind("PNG", "P", {"bits": 8, "optimize": True}, "optimised")]
    found += [
        Kind("PNG", "RGB", {"compress_level": 0}, "stored"),
        Kind("PNG", "RGB", frames(), "3"),
    ]
    found += [Kind("JPEG", mode, best, "", lossy=True) for mode in ("1", "L", "CMYK", "YCbCr")]
    variants: dict[str, dict[str, Any]] = {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "progressive": {"progressive": True},
        "optimised": {"optimize": True},
        "restarts": {"restart_marker_blocks": 2},
        "not YCbCr": {"keep_rgb": True},
        "resolution": {"dpi": (300, 300), "comment": b"x" * 1000},
    }
    for label, options in variants.items():
        found.append(Kind("JPEG", "RGB", best | options, label, lossy=True))
    found.append(Kind("JPEG", "L", best | {"progressive": True}, "progressive", lossy=True))
    found.append(Kind("JPEG", "CMYK", best | {"progressive": True}, "progressive", lossy=True))
    found.append(Kind("MPO", "RGB", best | frames(), "3", lossy=True))
    for mode in ("RGB", "RGBA"):
        found.append(Kind("WEBP", mode, {"lossless": True}, "lossless"))
        found.append(Kind("WEBP", mode, best, "lossy", lossy=True))
    found.append(Kind("WEBP", "RGB", frames() | {"lossless": True}, "3"))
    found += [Kind("GIF", mode, {}, "") for mode in ("1", "L", "P")]
    found += [Kind("GIF", "P", {"interlace": 0}, "in order"), Kind("GIF", "P", frames(), "3")]
    found += [Kind("BMP", mode, {}, "") for mode in ("1", "L", "P", "RGB", "RGBA")]
    for mode, compressions in MODE_TIFF_COMPRESSIONS.items():
        for compression in compressions:
            lossy = compression == "jpeg"
            options = {"compression": compression} | (best if lossy else {})
            found.append(Kind("TIFF", mode, options, compression, lossy=lossy))
    found.append(Kind("TIFF", "RGB", frames(), "3"))
    found.append(Kind("TIFF", "RGB", {"big_tiff": True}, "BigTIFF"))
    return found


def write(kind: Kind, orientation: int = 1) -> HostileFile:
    """A good file of a kind, whose picture a viewer shows upright."""
    image, shown = in_mode(kind.mode, picture())
    if kind.image_format == "BMP":
        shown = image.convert("RGB")  # its fourth channel is no alpha
    options = dict(kind.options)
    name = kind.name
    if orientation != 1:
        image = image.transpose(STORED[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
        name += f", orientation {orientation}"
    return HostileFile(name, encode(image, kind.image_format, **options), shown, kind.lossy)


def transparent_colours() -> list[HostileFile]:
    """Files in which one colour stands for none."""
    files = []
    for image_format, mode in (("PNG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("GIF", "P")):
        image, shown = in_mode(mode, picture())
        key = image.getpixel((0, 0))
        pixels = np.asarray(shown).copy()
        stored = np.asarray(image)
        pixels[(stored == key).reshape(*stored.shape[:2], -1).all(-1)] = 255
        data = encode(image, image_format, transparency=key)
        name = f"{image_format} {mode} with a transparent colour"
        files.append(HostileFile(name, data, Image.fromarray(pixels)))
    return files


def written_by_hand() -> list[HostileFile]:
    """Good files that Pillow reads and does not write."""
    image = picture()
    deep = (np.asarray(image).astype(">u2") * 257).astype(">u2")
    palette = image.quantize(16)
    return [
        HostileFile("PNG RGB interlaced", interlaced_png(image), image),
        HostileFile("PNG RGB of 16 bits", png(image.size, 16, 2, rows_of(deep)), image),
        HostileFile("BMP RLE8", rle_bmp(palette, four_bits=False), palette.convert("RGB")),
        HostileFile("BMP RLE4", rle_bmp(palette, four_bits=True), palette.convert("RGB")),
        HostileFile("BMP from the top", top_down_bmp(image), image),
        HostileFile("TIFF RGB in tiles", tiled_tiff(image, 16), image),
    ]


def good_files() -> Iterator[HostileFile]:
    """Every kind, in each orientation that it can tell of."""
    for kind in kinds():
        yield write(kind)
        if kind.image_format in WITH_EXIF and not kind.options.get("save_all"):
            for orientation in STORED:
                yield write(kind, orientation)
    yield from transparent_colours()
    yield from written_by_hand()
    for width, height in ((1, 1), (1, 9000), (9000, 1), (3, 2), (2, 700)):
        for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
            data = encode(picture(width, height), image_format)
            yield HostileFile(f"{image_format} {width} x {height}", data)
    for height in (1000, 1001):  # two megapixels, and a row more
        for image_format in ("JPEG", "PNG", "WEBP"):
            data = encode(picture(2000, height), image_format)
            yield HostileFile(f"{image_format} 2000 x {height}", data)
    for options in ({}, {"progressive": True}):
        data = encode(picture(640, 480), "JPEG", quality=95, **options)
        yield HostileFile(f"JPEG 640 x 480 {options}", data)


def damaged(file: HostileFile, random: Random) -> Iterator[HostileFile]:
    """A file cut at ten places, and twenty times with some bits flipped."""
    size = len(file.data)
    for tenth in range(10):
        cut = max(1, size * (2 * tenth + 1) // 20)
        yield HostileFile(f"{file.name}, {cut} of {size} bytes", file.data[:cut])
    for number in range(20):
        data = bytearray(file.data)
        reach = size if number % 2 else min(size, 200)  # half of them in the header
        places = sorted(random.randrange(8 * reach) for _ in range(1 + number // 4))
        for place in places:
            data[place // 8] ^= 1 << place % 8
        yield HostileFile(f"{file.name}, bits {places} flipped", bytes(data))


def polyglots() -> list[HostileFile]:
    """Files that are something else as well."""
    image = picture()
    jpeg, png_, gif = (encode(image, name) for name in ("JPEG", "PNG", "GIF"))
    bmp, tiff_, webp = (encode(image, name) for name in ("BMP", "TIFF", "WEBP"))
    page = b"<html><script>alert(1)</script></html>"
    archive = b"PK\3\4\x14\0\0\0\0\0" + bytes(20) + b"PK\5\6" + bytes(18)
    comment = jpeg[:2] + jpeg_segment(0xFE, b"<?php system($_GET[0]); ?>") + jpeg[2:]
    # A GIF that a browser runs as a script: its width reads "/*", what follows ends the comment.
    script = b"GIF89a/*" + gif[8:] + b"*/=1;alert(1);"
    return [
        HostileFile("JPEG and ZIP", jpeg + archive),
        HostileFile("ZIP and JPEG", archive + jpeg),
        HostileFile("JPEG and PHP", comment),
        HostileFile("JPEG and PNG", jpeg + png_),
        HostileFile("GIF and HTML", gif + page),
        HostileFile("GIF and JavaScript", script),
        HostileFile("PNG and HTML", png_ + page),
        HostileFile(
            "PNG and HTML in its text", png_[:33] + chunk(b"tEXt", b"a\0" + page) + png_[33:]
        ),
        HostileFile("BMP and a program", bmp + b"\x7fELF" + bytes(100)),
        HostileFile("TIFF and PDF", tiff_ + b"%PDF-1.7\n%%EOF"),
        HostileFile("WebP and ZIP", webp + archive),
        HostileFile("PDF and JPEG", b"%PDF-1.7\n" + jpeg),
    ]


def other_types() -> list[HostileFile]:
    """What is none of the six formats, though Pillow may well read it."""
    image = picture()
    files = [
        HostileFile(name, encode(image, name))
        for name in ("PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "PDF", "AVIF", "JPEG2000")
    ]
    starts = {
        "HTML": b"<!DOCTYPE html><img src=x>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "ELF": b"\x7fELF\2\1\1" + bytes(200),
        "ZIP": b"PK\3\4" + bytes(200),
        "PSD": b"8BPS\0\1" + bytes(200),
        "WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "pickle": b"\x80\4cos\nsystem\n(S'true'\ntR.",
        "zeros": bytes(1000),
        "one byte": b"\xff",
        "PNG's name alone": b"\x89PNG\r\n\x1a\n",
        "JPEG's name alone": b"\xff\xd8\xff",
        "TIFF's name alone": b"II*\0",
        "TIFF whose directory is itself": b"II*\0\x08\0\0\0" + b"\1\0" + bytes(12) + b"\x08\0\0\0",
    }
    return files + [HostileFile(name, data) for name, data in starts.items()]


def corpus(seed: int = 0) -> list[HostileFile]:
    """All of them but the bombs, thousands."""
    files = [*good_files(), *polyglots(), *other_types()]
    whole = [*map(write, kinds()), *transparent_colours(), *written_by_hand()]
    for file in whole:
        files += damaged(file, Random(f"{seed} {file.name}"))
    return files


# Files written byte by byte.


def rows_of(samples: "np.ndarray[Any, Any]") -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in samples)


def interlaced_png(image: Image.Image) -> bytes:
    """Adam7, in its seven passes."""
    pixels = np.asarray(image)
    passes = ("0088", "0488", "4084", "0244", "2042", "0122", "1021")
    steps = (map(int, digits) for digits in passes)
    rows = [rows_of(pixels[y::down, x::right]) for y, x, down, right in steps]
    return png(image.size, 8, 2, b"".join(rows), interlaced=True)


def bmp(size: tuple[int, int], bits: int, compression: int, palette: bytes, data: bytes) -> bytes:
    offset = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + palette + data


def rle_bmp(image: Image.Image, *, four_bits: bool) -> bytes:
    """A palette picture in runs of one pixel."""
    colours = np.zeros((16 if four_bits else 256, 4), np.uint8)
    known = np.asarray(image.getpalette(), np.uint8).reshape(-1, 3)[: len(colours)]
    colours[: len(known), :3] = known[:, ::-1]
    data = b""
    for row in np.asarray(image)[::-1]:
        data += b"".join(bytes((1, p << 4 if four_bits else p)) for p in row.tolist()) + b"\0\0"
    kind = (4, 2) if four_bits else (8, 1)
    return bmp(image.size, *kind, colours.tobytes(), data + b"\0\1")


def top_down_bmp(image: Image.Image) -> bytes:
    width, height = image.size
    return bmp((width, -height), 24, 0, b"", np.asarray(image)[..., ::-1].tobytes())


def tiff(tags: dict[int, int | tuple[int, ...]], data: bytes) -> bytes:
    """A little-endian TIFF, its data from byte 8 on, its directory after it."""
    directory = 8 + len(data)
    beyond = directory + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, values = struct.pack("<I", beyond + len(values)), values + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    start = b"II*\0" + struct.pack("<I", directory)
    return start + data + struct.pack("<H", len(tags)) + entries + bytes(4) + values


def rgb_tags(size: tuple[int, int], compression: int) -> dict[int, int | tuple[int, ...]]:
    width, height = size
    return {256: width, 257: height, 258: (8, 8, 8), 259: compression, 262: 2, 277: 3}


def tiled_tiff(image: Image.Image, side: int) -> bytes:
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    tiles = [
        zlib.compress(pixels[y : y + side, x : x + side].tobytes())
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    sizes = tuple(map(len, tiles))
    offsets = tuple(8 + sum(sizes[:i]) for i in range(len(sizes)))
    tags = rgb_tags(image.size, 8) | {322: side, 323: side, 324: offsets, 325: sizes}
    return tiff(tags, b"".join(tiles))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG that goes ``scans`` times over all of its coefficients.

    Each scan takes some 60 bytes: it says that none of the coefficients changes, in runs of 32767
    blocks, and the decoder has to look at all of them to know.
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
    """A picture one pixel wide in tiles of 7000 x 7000, all of them the same bytes."""
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
    """A picture whose rows are all missing, and libtiff has something to say of each."""
    data = Random(0).randbytes(2000)
    size: dict[int, int | tuple[int, ...]] = {256: width, 257: height, 258: 1, 277: 1, 278: height}
    return tiff(size | {259: 3, 262: 0, 273: 8, 279: len(data)}, data)


def _strips(count: int) -> bytes:
    """A picture one pixel wide, every row a strip of its own."""
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
}
# Harmless pictures as large as the default limit lets them be.
LARGEST = (7000, 7142)
LARGEST_KINDS = (
    Kind("PNG", "RGBA", {"compress_level": 1}, ""),
    Kind("PNG", "P", {"compress_level": 1}, ""),
    Kind("PNG", "I;16", {"compress_level": 1}, ""),
    Kind("JPEG", "RGB", {}, ""),
    Kind("JPEG", "CMYK", {"progressive": True}, "progressive"),
    Kind("WEBP", "RGBA", {"lossless": True, "method": 0}, "lossless"),
    Kind("WEBP", "RGBA", {"method": 0}, "lossy"),
    Kind("GIF", "P", {}, ""),
    Kind("BMP", "1", {}, ""),
    Kind("TIFF", "I", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "F", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "RGBA", {"compression": "tiff_lzw"}, "lzw"),
    Kind("TIFF", "LA", {"compression": "tiff_adobe_deflate"}, "deflate"),
    Kind("TIFF", "YCbCr", {"compression": "jpeg"}, "jpeg"),
)


def largest(kind: Kind) -> bytes:
    """A picture of a kind, of as many pixels as are accepted."""
    width, height = LARGEST
    if kind.mode in ("I", "F", "I;16"):
        levels = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[kind.mode]
        row = (np.arange(width) // 500 * 4000).astype(levels)
        image = Image.fromarray(np.broadcast_to(row, (height, width)).copy())
    else:
        steps = Image.linear_gradient("L").resize((7, 7)).resize(LARGEST, Image.Resampling.NEAREST)
        image = steps.convert("RGB").convert(kind.mode)
    return encode(image, kind.image_format, **kind.options)
