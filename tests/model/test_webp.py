"""Decoding WebP without Pillow's decoder gives the same pixels."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from model.errors import InvalidImage
from model.images.decode import decode
from model.images.preprocess import preprocess
from model.images.structure import read_structure
from model.images.webp import can_decode_webp, decode_webp
from model.spec import PreprocessSpec
from tests.hostile import encode, in_mode, picture

pytestmark = pytest.mark.skipif(
    not can_decode_webp(), reason="Pillow was built without the functions of libwebp"
)
MANY = 10**6


def files() -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "RGBA", "L"):
        image, _ = in_mode(mode, picture(63, 47))
        for label, options in (("lossy", {}), ("lossless", {"lossless": True, "exact": True})):
            yield f"{mode} {label}", encode(image, "WEBP", **options)
    others = [Image.new("RGBA", (63, 47), colour) for colour in ("red", "blue")]
    for mode in ("RGB", "RGBA"):
        first = in_mode(mode, picture(63, 47))[0]
        yield f"{mode} animation", encode(first, "WEBP", save_all=True, append_images=others)
    yield "one pixel", encode(Image.new("RGBA", (1, 1), (1, 2, 3, 4)), "WEBP", lossless=True)


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in files()])
def test_pixels_equal_those_of_pillow(data: bytes) -> None:
    encoded = read_structure(data, "WEBP", MANY)
    expected = Image.open(io.BytesIO(encoded.data))
    found = decode(encoded, "WEBP", 32).image
    assert np.array_equal(np.asarray(found.convert("RGBA")), np.asarray(expected.convert("RGBA")))
    assert found.mode == {"RGB": "RGBX", "RGBA": "RGBA"}[expected.mode]


def test_pillows_decoder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL._webp.WebPAnimDecoder", None)
    assert preprocess(encode(picture(), "WEBP"), PreprocessSpec(image_size=32)).any()


@pytest.mark.parametrize("lossless", [True, False])
def test_without_the_library_pillow_decodes(
    monkeypatch: pytest.MonkeyPatch, *, lossless: bool
) -> None:
    data = encode(picture(), "WEBP", lossless=lossless)
    expected = preprocess(data, PreprocessSpec(image_size=32))
    monkeypatch.setattr("model.images.webp._library", None)
    assert np.array_equal(preprocess(data, PreprocessSpec(image_size=32)), expected)


@pytest.mark.parametrize("kept", [12, 20, 25, 30, 60, 100])
def test_cut_file_is_an_error(kept: int) -> None:
    data = read_structure(encode(picture(), "WEBP"), "WEBP", MANY).data
    with pytest.raises(OSError, match="corrupt"):
        decode_webp(data[:kept])


def test_corrupt_pixels_are_refused() -> None:
    data = bytearray(encode(picture(), "WEBP", lossless=True))
    data[30:] = b"\xff" * (len(data) - 30)
    with pytest.raises(InvalidImage, match="truncated or corrupt"):
        preprocess(bytes(data), PreprocessSpec(image_size=32))
