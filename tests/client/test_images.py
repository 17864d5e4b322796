"""The encoding of images."""

import io
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageOps
from xcit_client import UnreadableImage
from xcit_client.images import encode


def decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def test_bytes_and_files_are_sent_unchanged(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8 whatever")
    for image in (b"\xff\xd8 whatever", bytearray(b"\xff\xd8 whatever"), tmp_path / "x.jpg"):
        assert encode(image) == b"\xff\xd8 whatever"
    assert encode(memoryview(b"abc")[1:]) == b"bc"
    assert encode(str(tmp_path / "x.jpg")) == b"\xff\xd8 whatever"


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_an_array_is_sent_as_png(shape: tuple[int, ...]) -> None:
    array = numpy.arange(numpy.prod(shape), dtype=numpy.uint8).reshape(shape)
    image = decoded(encode(array))
    assert image.format == "PNG"
    assert numpy.array_equal(numpy.asarray(image), array)
    assert numpy.array_equal(numpy.asarray(decoded(encode(array[::2, ::-1]))), array[::2, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_picture_in_a_png_mode_is_lossless(mode: str) -> None:
    picture = Image.radial_gradient("L").convert(mode)
    assert decoded(encode(picture)).convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "LAB", "YCbCr"])
def test_picture_in_another_mode_becomes_rgb(mode: str) -> None:
    profile = "RGB" if mode != "LAB" else "LAB"
    picture = Image.radial_gradient("L").convert("RGB").convert(mode if profile == "RGB" else "RGB")
    if mode == "LAB":
        picture = Image.merge("LAB", [Image.radial_gradient("L")] * 3)
    assert decoded(encode(picture)).mode == "RGB"


def test_picture_keeps_its_exif_orientation() -> None:
    upright = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=95, exif=exif)
    photo = decoded(buffer.getvalue())
    seen = ImageOps.exif_transpose(decoded(encode(photo)))
    assert seen.size == (40, 60)
    assert seen.tobytes() == ImageOps.exif_transpose(photo).tobytes()


BAD: dict[str, tuple[Any, str]] = {
    "float array": (numpy.zeros((4, 4, 3)), "the array is float64 of shape (4, 4, 3); it must be"),
    "four channels": (numpy.zeros((4, 4, 4), numpy.uint8), "of shape (4, 4, 4)"),
    "batch": (numpy.zeros((1, 4, 4, 3), numpy.uint8), "of shape (1, 4, 4, 3)"),
    "vector": (numpy.zeros(4, numpy.uint8), "of shape (4,)"),
    "empty array": (numpy.zeros((0, 4), numpy.uint8), "of shape (0, 4)"),
    "picture of floats": (Image.new("F", (4, 4)), "cannot be written as PNG"),
    "nothing": (None, "cannot send an object of type NoneType; give a path"),
    "number": (3, "cannot send an object of type int"),
    "absent file": ("absent.jpg", "absent.jpg: No such file or directory"),
    "directory": (Path(__file__).parent, "is a directory; name the files in it"),
    "NUL": ("a\0b", "null byte"),
}


@pytest.mark.parametrize(("image", "message"), BAD.values(), ids=BAD)
def test_invalid_image_is_reported(image: Any, message: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        encode(image)
    assert message in str(caught.value)
