"""BMP files: supported kinds and their pixels."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import InvalidImage, UnsupportedImage
from model.images.preprocess import Pixels, preprocess
from model.spec import PreprocessSpec
from tests.hostile import bmp


def pixels_of(data: bytes) -> Pixels:
    return preprocess(data, PreprocessSpec(image_size=32))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ({"compression": 4}, "BMP with compression JPEG"),
        ({"bits": 3}, "BMP with 3 bits per pixel"),
        ({"bits": 16, "compression": 3}, "BMP of 16 bits with the masks"),
    ],
)
def test_unsupported_kinds_of_bmp_are_named(header: dict[str, int], name: str) -> None:
    values = {"bits": 24, "compression": 0} | header
    with pytest.raises(UnsupportedImage, match=name):
        pixels_of(bmp((32, 32), values["bits"], values["compression"], b"", bytes(4096)))


@given(
    st.lists(st.tuples(st.integers(1, 255), st.integers(0, 255)), min_size=1, max_size=30),
    st.booleans(),
)
@settings(max_examples=50)
def test_run_length_encoded_bmp_is_decoded(runs: list[tuple[int, int]], four_bits: bool) -> None:
    """Each run fills one row and is cut off at 32 pixels; the rest of a row has colour 0."""
    greys = bytes(level for i in range(256) for level in (i, i, i, 0))
    data = b"".join(bytes(run) + b"\0\0" for run in runs) + b"\0\1"
    kind = (4, 2) if four_bits else (8, 1)
    file = bmp((32, 32), *kind, greys[: 64 if four_bits else 1024], data)
    expected = np.zeros((32, 32), int)
    for row, (count, value) in zip(expected[::-1], runs, strict=False):
        halves = (value >> 4, value & 15) if four_bits else (value, value)
        row[: min(count, 32)] = np.resize(halves, min(count, 32))
    assert np.array_equal(pixels_of(file)[..., 0], expected)


def masked_bmp(masks: tuple[int, ...], bits: int, size: int = 56, compression: int = 3) -> bytes:
    """32 x 32 random pixels of ``bits``, and masks of red, green, blue and alpha."""
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (32, 32), np.uint32)
    content = pixels.astype(f"<u{bits // 8}").tobytes()
    header = struct.pack("<IiiHHIIiiII", size, 32, 32, 1, bits, compression, 0, 0, 0, 0, 0)
    header += struct.pack("<4I", *masks)
    header += bytes(max(0, size - len(header)))
    start = 14 + len(header)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + header + content


MASKS = {
    16: [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0x8000), (0xF, 0xF0, 0xF00, 0xF000)],
    32: [
        (0xFF, 0xFF00, 0xFF0000, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
        (0xFF0000, 0xFF00, 0, 0),
    ],
}


@pytest.mark.parametrize("compression", [3, 6])
@pytest.mark.parametrize(
    ("bits", "masks"), [(bits, masks) for bits in MASKS for masks in MASKS[bits]]
)
def test_bmp_masks_are_applied(bits: int, masks: tuple[int, ...], compression: int) -> None:
    size = 56 if compression == 3 else 40
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (32, 32), np.uint32)[::-1]
    parts = [(numbers & mask) / mask if mask else numbers * 0.0 for mask in masks]
    alpha = parts[3] if masks[3] else 1.0
    shown = np.stack([255 * (part * alpha + 1 - alpha) for part in parts[:3]], -1)
    pixels = pixels_of(masked_bmp(masks, bits, size, compression))
    assert np.abs(pixels - shown).max() <= 2


def test_bmp_without_masks_has_alpha_only_from_the_fourth_header_version() -> None:
    masks = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    with_alpha, without = (pixels_of(masked_bmp(masks, 32, size, 0)) for size in (108, 56))
    assert not np.array_equal(with_alpha, without)


@pytest.mark.parametrize("masks", [(0, 0, 0, 0), (0xF801, 0x7E0, 0x1E, 0), (0xFF, 0xF0, 0xF00, 0)])
def test_invalid_bmp_masks_are_refused_by_name(masks: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedImage, match=f"BMP of 16 bits with the masks {masks[0]:X}, "):
        pixels_of(masked_bmp(masks, 16))


def test_two_bit_bmp_is_read() -> None:
    colours = bytes((0, 0, 0, 0, 90, 90, 90, 0, 180, 180, 180, 0, 255, 255, 255, 0))
    pixels = pixels_of(bmp((32, 32), 2, 0, colours, b"\x1b" * 256))
    assert (pixels[..., 0] == np.tile([0, 90, 180, 255], 8)).all()


def test_bmp_runs_may_end_with_the_last_pixel() -> None:
    greys = bytes(level for i in range(256) for level in (i, i, i, 0))
    runs = b"\x20\x64\0\0" * 31 + b"\x20\x64"
    assert (pixels_of(bmp((32, 32), 8, 1, greys, runs)) == 100).all()
    with pytest.raises(InvalidImage, match="its runs end too early"):
        pixels_of(bmp((32, 32), 8, 1, greys, runs[:-2]))


@pytest.mark.parametrize(("bits", "masks"), [(16, (0xF800, 0x7E0, 0x1F, 0))])
def test_bmp_may_lack_the_padding_of_its_last_row(bits: int, masks: tuple[int, ...]) -> None:
    data = bytearray(masked_bmp(masks, bits))
    data[18:22] = struct.pack("<i", 31)
    assert np.array_equal(pixels_of(bytes(data[:-2])), pixels_of(bytes(data)))
    with pytest.raises(InvalidImage, match="pixels are missing"):
        pixels_of(bytes(data[:-4]))
