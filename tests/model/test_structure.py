"""Image structure: complete, broken and unsupported files."""

import io
import struct
import time
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from model.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.formats import sniff_format
from model.images.preprocess import Pixels, preprocess
from model.images.structure import read_structure
from model.spec import PreprocessSpec
from tests.hostile import (
    HostileFile,
    encode,
    kinds,
    picture,
    rows_of,
    transparent_colours,
    write,
    written_by_hand,
)
from tests.pictures import chunk, png
from tests.yardstick import slowness

from .costly.family import STEPS
from .costly.tiff import overlapping_jpegs
from .tiffs import LONG, SHORT, Tags, write_tiff

SPEC = PreprocessSpec(image_size=32)
MANY_PIXELS = 50_000_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
WHOLE = [*map(write, kinds()), *transparent_colours(), *written_by_hand()]


def pixels_of(data: bytes) -> Pixels:
    return preprocess(data, SPEC)


@pytest.mark.parametrize("file", WHOLE, ids=lambda file: file.name)
@pytest.mark.parametrize("garbage", [b"\0", b"garbage", bytes(5000), b"\xff\xd8\xff\xe0\0\x10"])
def test_bytes_after_a_picture_are_ignored(file: HostileFile, garbage: bytes) -> None:
    assert np.array_equal(pixels_of(file.data + garbage), pixels_of(file.data))


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"gAMA", b"eXIf", b"tRNS", b"teSt"])
def test_wrong_checksum_of_an_ancillary_chunk_is_ignored(kind: bytes) -> None:
    wrong = chunk(kind, bytes(6))[:-4] + b"abcd"
    data = png((32, 32), 8, 2, rows_of(np.asarray(picture(32, 32))), before=wrong)
    assert np.array_equal(pixels_of(data), np.asarray(picture(32, 32)))


def test_wrong_checksum_of_the_header_is_an_error() -> None:
    data = bytearray(encode(picture(), "PNG"))
    data[29] ^= 1
    with pytest.raises(InvalidImage, match="header is truncated or corrupt: its checksum is wrong"):
        pixels_of(bytes(data))


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_picture_without_its_trailer_is_complete(image_format: str) -> None:
    data = encode(picture(), image_format)
    end = data.rindex(b"IEND") - 4 if image_format == "PNG" else len(data) - 1
    assert np.array_equal(pixels_of(data[:end]), pixels_of(data))


def test_transparent_16_bit_grey_is_composited_over_white() -> None:
    samples = np.full((32, 32), 1000, ">u2")
    samples[:16] = 1001
    transparent = chunk(b"tRNS", struct.pack(">H", 1000))
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    pixels = pixels_of(png((32, 32), 16, 0, rows, before=transparent))
    assert (pixels[:16] == round(1001 / 257)).all()
    assert (pixels[16:] == 255).all()


def test_transparent_16_bit_colour_is_refused_by_name() -> None:
    rows = (b"\0" + bytes(6 * 32)) * 32
    with pytest.raises(UnsupportedImage, match="PNG with 16-bit colours and a transparent colour"):
        pixels_of(png((32, 32), 16, 2, rows, before=chunk(b"tRNS", bytes(6))))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_grey_of_few_bits_is_composited_over_white(depth: int) -> None:
    top = 2**depth - 1
    row = b"\0" + bytes(4 * depth // 2) + b"\xff" * (4 * depth // 2)  # 16 of 0, 16 of the maximum
    for level, left, right in ((0, 255, 255), (top, 0, 255)):
        transparent = chunk(b"tRNS", struct.pack(">H", level))
        pixels = pixels_of(png((32, 32), depth, 0, row * 32, before=transparent))
        assert (pixels[:, :16] == left).all()
        assert (pixels[:, 16:] == right).all()


def test_default_image_of_an_animated_png_is_used() -> None:
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    apart = {"save_all": True, "append_images": others, "default_image": True}
    data = encode(picture(), "PNG", **apart)
    assert b"acTL" in data
    assert np.array_equal(pixels_of(data), pixels_of(encode(picture(), "PNG")))


def test_png_chunks_are_limited() -> None:
    data = encode(picture(), "PNG")
    many = chunk(b"teSt", b"") * 65_537
    read_structure(data + many, "PNG", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 65536 chunks"):
        read_structure(data[:33] + many + data[33:], "PNG", MANY_PIXELS)


def test_gif_blocks_are_limited_over_all_extensions() -> None:
    data = encode(Image.new("L", (32, 32)), "GIF")
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    comment = b"!\xfe" + b"\1x" * 999 + b"\0"
    read_structure(data[:place] + comment * 65 + data[place:], "GIF", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 65536 blocks"):
        read_structure(data[:place] + comment * 66 + data[place:], "GIF", MANY_PIXELS)


def test_first_frame_is_placed_on_its_canvas() -> None:
    data = bytearray(encode(Image.new("L", (16, 16), 0), "GIF"))
    data[6:10] = struct.pack("<HH", 32, 32)
    place = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[place + 1 : place + 5] = struct.pack("<HH", 16, 0)
    pixels = pixels_of(bytes(data))
    assert (pixels[:16, 16:] == 0).all()
    assert (pixels[16:] == 255).all()
    assert (pixels[:, :16] == 255).all()


@pytest.mark.parametrize(("flag", "kind"), [(0x10, "alpha"), (0x20, "profile"), (0x08, "EXIF")])
def test_webp_chunks_missing_from_the_header_flags_are_ignored(flag: int, kind: str) -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, dict[str, Any]] = {
        "alpha": {},
        "profile": {"icc_profile": swapped_profile()},
        "EXIF": {"exif": exif},
    }
    image.putalpha(100 if kind == "alpha" else 255)
    data = bytearray(encode(image, "WEBP", quality=100, **options[kind]))
    changed = pixels_of(bytes(data))
    data[20] &= ~flag
    plain = np.asarray(image.convert("RGB").crop((8, 0, 56, 48)).resize((32, 32)))
    assert np.abs(pixels_of(bytes(data)).astype(int) - plain).mean() < 10
    assert np.abs(changed.astype(int) - plain).mean() > 20


def swapped_profile() -> bytes:
    """sRGB with red and green swapped."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("lossless", [False, True])
def test_cut_webp_is_refused_as_truncated(lossless: bool) -> None:
    data = encode(picture(), "WEBP", lossless=lossless)
    for kept in (0.2, 0.5, 0.9):
        with pytest.raises(InvalidImage, match="truncated"):
            pixels_of(data[: int(kept * len(data))])


STARTS = [b"\xff\xd8\xff", SIGNATURE, b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]
STARTS += [b"RIFF\x16\0\0\0WEBP"]


@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes_raise_an_image_error(start: bytes, rest: bytes) -> None:
    data = start + rest
    with suppress(ImageError):
        read_structure(data, sniff_format(data), 100)


@given(st.sampled_from(WHOLE), st.data())
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_give_pixels_or_an_image_error(
    file: HostileFile, draw: st.DataObject
) -> None:
    data = bytearray(file.data)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, min(len(data), 600) - 1))
        data[place] = draw.draw(st.integers(0, 255))
    with suppress(ImageError):
        assert preprocess(bytes(data), SPEC, max_pixels=10**6).shape == (32, 32, 3)


def test_large_png_profile_is_not_fully_inflated() -> None:
    bomb = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26)))
    data = png((32, 32), 8, 2, rows_of(np.asarray(picture(32, 32))), before=bomb)
    assert read_structure(data, "PNG", MANY_PIXELS).profile is None


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_metadata_never_reaches_a_decoder(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret word"
    data = encode(picture(), image_format, exif=exif, icc_profile=b"another secret" * 50)
    assert b"a secret word" in data
    kept = read_structure(data, image_format, MANY_PIXELS).data
    assert b"secret" not in kept
    assert Image.open(io.BytesIO(kept)).size == (64, 48)


def test_tile_over_the_pixel_limit_is_refused() -> None:
    tags: Tags = {256: (LONG, 32), 257: (LONG, 32), 258: (SHORT, 8), 259: (SHORT, 8)}
    tags |= {262: (SHORT, 1), 277: (SHORT, 1), 322: (LONG, 1000), 323: (LONG, 2000)}
    data = write_tiff(tags, [zlib.compress(bytes(2_000_000))], tiled=True)
    read_structure(data, "TIFF", 2_000_000)
    with pytest.raises(ImageTooLarge, match="a tile of the TIFF is 1000 x 2000; at most 1999999"):
        read_structure(data, "TIFF", 1_999_999)


def test_overlapping_jpegs_in_a_tiff_are_refused_before_all_are_read() -> None:
    begun = time.thread_time()
    with pytest.raises(ImageTooLarge, match="decoding the TIFF"):
        read_structure(overlapping_jpegs(STEPS), "TIFF", MANY_PIXELS)
    assert time.thread_time() - begun < 2 * slowness()
