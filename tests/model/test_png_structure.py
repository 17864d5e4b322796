"""PNG files: complete, truncated and unsupported ones."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import InvalidImage, UnsupportedImage
from model.images.preprocess import Pixels, preprocess
from model.spec import PreprocessSpec
from tests.hostile import picture, rows_of
from tests.pictures import chunk, png


def pixels_of(data: bytes) -> Pixels:
    return preprocess(data, PreprocessSpec(image_size=32))


def test_palette_with_a_wrong_checksum_is_an_error() -> None:
    wrong = chunk(b"PLTE", bytes(768))[:-4] + b"abcd"
    for palette in (wrong, b""):
        with pytest.raises(InvalidImage, match="its palette is missing or has a wrong checksum"):
            pixels_of(png((32, 32), 8, 3, (b"\0" + bytes(32)) * 32, before=palette))


def test_unknown_critical_chunk_is_refused_by_name() -> None:
    rows = rows_of(np.asarray(picture(32, 32)))
    with pytest.raises(UnsupportedImage, match="PNG with a chunk CgBI"):
        pixels_of(png((32, 32), 8, 2, rows, before=chunk(b"CgBI", bytes(4))))


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(b"PLTE", b"\x80" * 6) + chunk(b"tRNS", bytes(3)),
        chunk(b"tRNS", bytes(2)) + chunk(b"PLTE", b"\x80" * 6),
    ],
    ids=["longer than the palette", "before the palette"],
)
def test_transparency_that_does_not_fit_the_palette_is_ignored(chunks: bytes) -> None:
    pixels = pixels_of(png((32, 32), 8, 3, (b"\0" + bytes(32)) * 32, before=chunks))
    assert (pixels == 128).all()


PNG_KINDS = [(0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 2), (3, 8), (4, 8), (6, 8), (6, 16)]


def written_png(kind: tuple[int, int], size: tuple[int, int], compressed: bytes) -> bytes:
    colour, depth = kind
    data = png(size, depth, colour, b"", before=chunk(b"PLTE", bytes(768)) if colour == 3 else b"")
    return data.replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", compressed))


@given(
    st.sampled_from(PNG_KINDS),
    st.tuples(st.integers(1, 70), st.integers(2, 70)),
    st.integers(0, 9),
    st.booleans(),
)
def test_png_with_missing_rows_is_refused_and_its_checksum_is_not_needed(
    kind: tuple[int, int], size: tuple[int, int], level: int, noise: bool
) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind[0]]
    length = -(-size[0] * channels * kind[1] // 8)
    chance = np.random.default_rng(length)
    filling = [chance.bytes(length) if noise else b"\x55" * length for _ in range(size[1])]
    rows = b"".join(b"\0" + row for row in filling)
    compressed = zlib.compress(rows, level)
    expected = pixels_of(written_png(kind, size, compressed))
    wrong_checksum = compressed[:-4] + b"abcd"
    assert np.array_equal(pixels_of(written_png(kind, size, wrong_checksum)), expected)
    for missing in (1, length + 1):
        with pytest.raises(InvalidImage, match="truncated"):
            pixels_of(written_png(kind, size, zlib.compress(rows[:-missing], level)))
