"""JPEG files: complete, truncated and unsupported ones."""

import struct

import numpy as np
import pytest

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.preprocess import Pixels, preprocess
from model.images.structure import read_structure
from model.spec import PreprocessSpec
from tests.hostile import encode, in_mode, jpeg_segment, picture

SPEC = PreprocessSpec(image_size=32)
MANY_PIXELS = 50_000_000


def pixels_of(data: bytes) -> Pixels:
    return preprocess(data, SPEC)


def jpeg(**options: object) -> bytes:
    return encode(picture(), "JPEG", quality=90, **options)


def scan_ends(data: bytes) -> list[int]:
    """The end of the entropy-coded data of each scan."""
    ends, position = [], 0
    while (position := data.find(b"\xff\xda", position)) >= 0:
        position += 2
        while data[position] != 0xFF or data[position + 1] in (0, *range(0xD0, 0xD8)):
            position += 1
        ends.append(position)
    return ends


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_jpeg_without_its_end_marker_is_complete(mode: str, progressive: bool, cut: int) -> None:
    data = encode(in_mode(mode, picture())[0], "JPEG", progressive=progressive)
    assert np.array_equal(pixels_of(data[:-cut]), pixels_of(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.2, 0.4, 0.6, 0.8, 0.95])
def test_cut_jpeg_is_refused_as_truncated(mode: str, progressive: bool, kept: float) -> None:
    data = encode(in_mode(mode, picture())[0], "JPEG", progressive=progressive, quality=90)
    with pytest.raises(InvalidImage, match="is truncated"):
        pixels_of(data[: int(kept * len(data))])


def test_jpeg_that_ends_between_scans_is_refused_as_truncated() -> None:
    data = jpeg(progressive=True)
    *early, last = scan_ends(data)
    assert len(early) > 5
    for end in early:
        with pytest.raises(InvalidImage, match="whole scans are missing"):
            pixels_of(data[:end])
    assert np.array_equal(pixels_of(data[:last]), pixels_of(data))


@pytest.mark.parametrize("identifier", [b"Exif\0\0", b"Exif\0\xff"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_identifiers_of_exif_are_read(identifier: bytes, order: str) -> None:
    mark = b"II" if order == "<" else b"MM"
    tags = mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, 3, 0, 0)
    data = jpeg()
    turned = pixels_of(data[:2] + jpeg_segment(0xE1, identifier + tags) + data[2:])
    assert np.array_equal(turned, pixels_of(data)[::-1, ::-1])


def test_orientation_only_in_xmp_is_ignored() -> None:
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='3' xmlns:tiff='t'/>"
    data = jpeg()
    with_xmp = data[:2] + jpeg_segment(0xE1, xmp) + data[2:]
    assert np.array_equal(pixels_of(with_xmp), pixels_of(data))


@pytest.mark.parametrize(
    ("marker", "name"),
    [(0xC3, "lossless"), (0xC9, "arithmetic coding"), (0xC5, "hierarchical")],
)
def test_unsupported_kinds_of_jpeg_are_named(marker: int, name: str) -> None:
    data = jpeg().replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
    with pytest.raises(UnsupportedImage, match=f"JPEG.*{name}|{name} JPEG"):
        pixels_of(data)


@pytest.mark.parametrize(
    ("place", "value", "name"), [(2, b"\x0c", "12-bit"), (3, b"\0\0", "height")]
)
def test_unsupported_jpeg_frames_are_named(place: int, value: bytes, name: str) -> None:
    data = bytearray(jpeg())
    start = data.index(b"\xff\xc0") + 2 + place
    data[start : start + len(value)] = value
    with pytest.raises(UnsupportedImage, match=f"JPEG with.* {name}|{name}"):
        pixels_of(bytes(data))


def test_jpeg_scans_and_segments_are_limited() -> None:
    data = jpeg(progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    read_structure(data[:-2] + last * 80 + data[-2:], "JPEG", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 100 scans"):
        read_structure(data[:-2] + last * 100 + data[-2:], "JPEG", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 2000 segments"):
        read_structure(data[:2] + jpeg_segment(0xEA, b"") * 2001 + data[2:], "JPEG", MANY_PIXELS)
