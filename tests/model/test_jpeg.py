"""JPEG decoded by simplejpeg, compared with Pillow."""

import io
from typing import Any

import pytest
from PIL import Image

from model.images.jpeg import decode_jpeg

from .test_preprocess import encode, photo

KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [*KINDS, "grey"])
def test_pixels_are_those_of_pillow(kind: str, scale: int) -> None:
    image = photo(333, 250)
    data = encode(image.convert("L") if kind == "grey" else image, "JPEG", **KINDS.get(kind, {}))
    least = 250 // scale
    decoded = decode_jpeg(data, least)
    assert decoded
    expected = Image.open(io.BytesIO(data))
    expected.draft(None, (least, least))
    assert decoded[0].mode == ("L" if kind == "grey" else "RGBX")
    assert decoded[0].convert(expected.mode).tobytes() == expected.tobytes()
    assert decoded[1] == (333 / scale, 250 / scale)


def test_cmyk_is_left_to_pillow() -> None:
    assert decode_jpeg(encode(photo().convert("CMYK"), "JPEG"), 32) is None


def test_corrupt_header_is_an_error() -> None:
    data = encode(photo(), "JPEG")
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(data.replace(b"\xff\xc0", b"\xff\xc1\0\0"), 32)
