"""Colour profiles: conversion to sRGB, and its cost."""

import struct
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.images import colour
from model.images.colour import to_srgb
from model.images.preprocess import preprocess
from model.spec import PreprocessSpec
from tests.hostile import encode, picture
from tests.yardstick import slowness

SPEC = PreprocessSpec(image_size=32)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Columns are the CIE XYZ of the primaries under D50, as in the profiles of these spaces.
PRIMARIES = {
    "Display P3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
    "Adobe RGB": [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]],
}
GAMMA = 2.2
TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def profile(tags: dict[bytes, bytes], space: bytes = b"RGB ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)} | tags
    start = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = bytearray(128)
    head[8:12] = b"\2\x40\0\0"
    head[12:24] = kind + space + b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = fixed(0.9642, 1, 0.8249)
    head[:4] = struct.pack(">I", start + len(body))
    return bytes(head) + table + body


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))


def matrix_profile(name: str, **others: bytes) -> bytes:
    columns = np.array(PRIMARIES[name]).T
    tags = {tag.encode(): content for tag, content in others.items()}
    for letter, column in zip(b"rgb", columns, strict=True):
        tags[bytes((letter,)) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
        tags[bytes((letter,)) + b"TRC"] = curve(GAMMA)
    return profile(tags)


def expected(image: Image.Image, name: str) -> NDArray[np.float64]:
    """Colours of a space in sRGB, ``(h, w, 3)``."""
    linear = (np.asarray(image) / 255) ** GAMMA @ np.array(PRIMARIES[name]).T @ TO_SRGB.T
    linear = linear.clip(0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * np.asarray(coded)


@pytest.mark.parametrize("name", PRIMARIES)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "HEIF"])
def test_wide_gamut_image_is_converted_to_srgb(name: str, image_format: str) -> None:
    image = Image.new("RGB", (32, 32))
    for i, shade in enumerate([(200, 120, 90), (90, 180, 120), (60, 90, 200), (128, 128, 128)]):
        image.paste(shade, (8 * i, 0, 8 * i + 8, 32))
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "HEIF": {"quality": 100, "chroma": "444"},
    }
    data = encode(
        image, image_format, icc_profile=matrix_profile(name), **options.get(image_format, {})
    )
    pixels = preprocess(data, SPEC)
    centres = np.s_[16, 4::8]
    # libavif rounds YCbCr even at the best quality, which shows in dark colours.
    tolerance = 10 if image_format == "AVIF" else 3
    assert np.abs(pixels[centres] - expected(image, name)[centres]).max() <= tolerance
    assert np.abs(pixels[centres].astype(int) - np.asarray(image)[centres]).max() > 10


def test_profile_does_not_change_alpha() -> None:
    image = picture(32, 32).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((32, 32)))
    found = to_srgb(image, matrix_profile("Adobe RGB"))
    assert found.mode == "RGBA"
    assert np.array_equal(np.asarray(found)[..., 3], np.asarray(image)[..., 3])


def test_grey_profile_curve_is_applied() -> None:
    found = to_srgb(Image.new("L", (1, 1), 128), profile({b"kTRC": curve(1.0)}, b"GRAY"))
    assert np.abs(np.asarray(found.convert("L")).astype(int) - 188).max() <= 1  # half the light


def lookup(inputs: int, points: int, level: int) -> bytes:
    """A table that maps every colour to the same one, in CIE XYZ or Lab."""
    head = b"mft1\0\0\0\0" + bytes((inputs, 3, points, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = bytes(range(256))
    grid = bytes((level, 128, 128)) * int(points**inputs)
    return head + ramp * inputs + grid + ramp * 3


def test_cmyk_image_is_converted_by_its_profile() -> None:
    press = bytearray(profile({b"A2B0": lookup(4, 2, 255)}, b"CMYK", b"prtr"))
    press[20:24] = b"Lab "
    found = to_srgb(Image.new("CMYK", (1, 1), (255, 255, 255, 255)), bytes(press))
    assert np.asarray(found.convert("RGB")).min() >= 254  # ink as white as paper


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"x",
        b"not a profile" * 100,
        SRGB[:200],
        SRGB[:128] + b"\xff\xff\xff\xff" + SRGB[132:],
        SRGB.ljust(colour.MAX_PROFILE_BYTES + 1, b"\0"),
        profile({b"A2B0": b"mft1garbage"}),
        profile({}, b"GRAY"),
    ],
    ids=range(8),
)
def test_broken_profile_is_ignored(broken: bytes) -> None:
    image = picture(32, 32)
    assert np.array_equal(np.asarray(to_srgb(image, broken)), np.asarray(image))


def test_profile_for_another_colour_space_is_ignored() -> None:
    image = Image.new("CMYK", (1, 1), (1, 2, 3, 4))
    assert to_srgb(image, SRGB) is image


def test_srgb_profile_changes_nothing() -> None:
    image = picture(32, 32)
    assert to_srgb(image, SRGB) is image


def test_transform_of_a_known_profile_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = matrix_profile("Display P3")
    to_srgb(picture(), wide)
    monkeypatch.setattr(colour, "_build", None)
    to_srgb(picture(), wide)


def test_number_of_cached_transforms_is_bounded() -> None:
    transforms = colour._Transforms(2)
    for gamma in (1.0, 1.5, 2.5):
        transforms.get(profile({b"kTRC": curve(gamma)}, b"GRAY"), "L")
    assert len(transforms._known) == 2


def test_srgb_profile_costs_under_a_tenth_of_a_millisecond() -> None:
    image = picture(224, 224)
    to_srgb(image, SRGB)
    begun = time.thread_time()
    for _ in range(1000):
        to_srgb(image, SRGB)
    assert time.thread_time() - begun < 0.1 * slowness()


def float_steps(count: int) -> bytes:
    """A table of ``count`` steps, all of them the same matrix."""
    step = b"matf\0\0\0\0" + struct.pack(">HH12f", 3, 3, *np.eye(3).ravel(), 0, 0, 0)
    places = struct.pack(">II", 16 + 8 * count, len(step)) * count
    return b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, count) + places + step


@pytest.mark.parametrize("tag", ["D2B0", "D2B1", "D2B3"])
def test_profile_with_many_steps_is_fast(tag: str) -> None:
    bomb = bytearray(matrix_profile("Adobe RGB", **{tag: float_steps(20_000)}))
    bomb[8:12] = b"\4\x30\0\0"  # a version in which such tables are read
    image = picture(32, 32)
    begun = time.thread_time()
    found = to_srgb(image, bytes(bomb))
    assert time.thread_time() - begun < 0.5 * slowness()  # 18 s if the tables are evaluated
    plain = bytearray(matrix_profile("Adobe RGB"))
    plain[8:12] = b"\4\x30\0\0"
    assert np.array_equal(np.asarray(found), np.asarray(to_srgb(image, bytes(plain))))


@pytest.mark.parametrize(("inputs", "points", "space"), [(3, 80, b"RGB "), (4, 30, b"CMYK")])
def test_largest_profile_tables_build_in_half_a_second(
    inputs: int, points: int, space: bytes
) -> None:
    large = bytearray(profile({b"A2B0": lookup(inputs, points, 99)}, space, b"prtr"))
    large[20:24] = b"Lab "
    assert 10**6 < len(large) <= colour.MAX_PROFILE_BYTES
    image = Image.new("RGB" if inputs == 3 else "CMYK", (32, 32))
    begun = time.thread_time()
    assert to_srgb(image, bytes(large)) is not image
    assert time.thread_time() - begun < 0.5 * slowness()


def test_jpeg_profile_parts_may_be_in_any_order() -> None:
    wide = matrix_profile("Adobe RGB", text=bytes(150_000))
    image = picture(32, 32)
    data = encode(image, "JPEG", icc_profile=wide)
    places = [i for i in range(len(data)) if data[i : i + 12] == b"ICC_PROFILE\0"]
    assert len(places) == 3
    starts = [place - 4 for place in places]
    ends = [s + 2 + int.from_bytes(data[s + 2 : s + 4], "big") for s in starts]
    parts = [data[s:e] for s, e in zip(starts, ends, strict=True)]
    mixed = data[: starts[0]] + b"".join(reversed(parts)) + data[ends[-1] :]
    assert np.array_equal(preprocess(mixed, SPEC), preprocess(data, SPEC))
    missing = data[: starts[0]] + b"".join(parts[:2]) + data[ends[-1] :]
    plain = encode(image, "JPEG")
    assert np.array_equal(preprocess(missing, SPEC), preprocess(plain, SPEC))
    assert not np.array_equal(preprocess(data, SPEC), preprocess(plain, SPEC))
