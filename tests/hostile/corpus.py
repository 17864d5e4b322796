"""Thousands of small files: valid, damaged, polyglot and of other types."""

from collections.abc import Iterator
from random import Random

import numpy as np
from PIL import Image

from tests.pictures import chunk, png

from .byte_by_byte import interlaced_png, jpeg_segment, rle_bmp, rows_of, tiled_tiff, top_down_bmp
from .heif import box
from .kinds import STORED, HostileFile, encode, in_mode, kinds, picture, write

WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")


def transparent_colours() -> list[HostileFile]:
    """Files with one transparent colour."""
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
    """Valid files that Pillow reads but cannot write."""
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
    """Every kind, in each orientation that its metadata can express."""
    for kind in kinds():
        yield write(kind)
        others = kind.image_format in ("AVIF", "HEIF") and (kind.label or kind.mode != "RGB")
        if kind.image_format in WITH_EXIF and not kind.options.get("save_all") and not others:
            for orientation in STORED:
                yield write(kind, orientation)
    yield from transparent_colours()
    yield from written_by_hand()
    for width, height in ((1, 1), (1, 9000), (9000, 1), (3, 2), (2, 700)):
        for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"):
            if image_format == "HEIF" and max(width, height) > 1000:
                continue  # x265 writes no such shapes
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
    """A file truncated at ten places, and with bits flipped twenty times."""
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
    """Files that are valid in a second format too."""
    image = picture()
    jpeg, png_, gif = (encode(image, name) for name in ("JPEG", "PNG", "GIF"))
    bmp, tiff_, webp = (encode(image, name) for name in ("BMP", "TIFF", "WEBP"))
    avif, heic = encode(image, "AVIF"), encode(image, "HEIF")
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
        HostileFile("AVIF and ZIP", avif + archive),
        HostileFile("HEIC and HTML", heic + page),
        HostileFile("HTML in a free box and HEIC", heic[:24] + box(b"free", page) + heic[24:]),
        HostileFile("PDF and JPEG", b"%PDF-1.7\n" + jpeg),
    ]


def other_types() -> list[HostileFile]:
    """Files in none of the accepted formats, although Pillow may read them."""
    image = picture()
    files = [
        HostileFile(name, encode(image, name))
        for name in ("PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "PDF", "JPEG2000")
    ]
    starts = {
        "HTML": b"<!DOCTYPE html><img src=x>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "ELF": b"\x7fELF\2\1\1" + bytes(200),
        "ZIP": b"PK\3\4" + bytes(200),
        "PSD": b"8BPS\0\1" + bytes(200),
        "WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "MP4": b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + bytes(100),
        "AVIF's name alone": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
        "HEIC's name alone": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1",
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
    """All of these files: thousands."""
    files = [*good_files(), *polyglots(), *other_types()]
    whole = [*map(write, kinds()), *transparent_colours(), *written_by_hand()]
    for file in whole:
        files += damaged(file, Random(f"{seed} {file.name}"))
    return files
