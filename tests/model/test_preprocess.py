"""Preprocessing: every format and mode as a viewer shows it, and refusals."""

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images import resize
from model.images.formats import FORMATS, NAMES, public_name
from model.images.preprocess import Pixels, preprocess
from model.spec import Interpolation, PreprocessSpec
from tests import hostile
from tests.pictures import bomb

SPEC = PreprocessSpec(image_size=32)
KEYS = [one.key for one in FORMATS]


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """Smooth colours and one edge, which reveal a flip, a crop or a channel swap."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    red, green = 255 * x, 255 * y
    blue = np.where(x + y > 1, 200, 40)
    return Image.fromarray(np.stack((red, green, blue), -1).round().astype(np.uint8))


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    return hostile.encode(image, image_format, **options)


def distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean absolute difference of two images, in levels of 255."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


@pytest.fixture(autouse=True, params=["SIMD", "Pillow"])
def resizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both ways of resizing."""
    monkeypatch.setattr(resize, "SIMD", resize.SIMD and request.param == "SIMD")


@pytest.fixture
def expected(resizer: None) -> Pixels:
    return preprocess(encode(photo()), SPEC)


def test_image_of_the_models_size_is_not_changed() -> None:
    image = photo(32, 32)
    pixels = preprocess(encode(image), SPEC)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (50, 41), (33, 500)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_resize_and_crop_in_one_step_equal_two_steps(
    width: int, height: int, interpolation: Interpolation
) -> None:
    image = photo(width, height)
    spec = PreprocessSpec(image_size=32, interpolation=interpolation)
    scale = 32 / min(width, height)
    size = (round(width * scale), round(height * scale))
    resized = image.resize(size, Image.Resampling[interpolation.upper()])
    left, top = (size[0] - 32) // 2, (size[1] - 32) // 2
    two_steps = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    assert distance(preprocess(encode(image), spec), two_steps) < 4


def test_crop_pct_keeps_the_centre() -> None:
    pixels = preprocess(encode(photo(64, 64)), PreprocessSpec(image_size=32, crop_pct=0.5))
    assert np.array_equal(pixels, np.asarray(photo(64, 64).crop((16, 16, 48, 48))))


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("GIF", {}, 12),
        ("AVIF", {"quality": 95}, 4),
        ("HEIF", {"quality": 95}, 4),
    ],
)
def test_every_format_gives_the_same_pixels(
    expected: Pixels, image_format: str, options: dict[str, Any], tolerance: float
) -> None:
    data = encode(photo(), image_format, **options)
    assert distance(preprocess(data, SPEC), expected) <= tolerance


@pytest.mark.parametrize(
    ("mode", "image_format", "tolerance"),
    [
        ("P", "PNG", 12),
        ("RGBA", "PNG", 0),
        ("RGBA", "WEBP", 0),
        ("RGBA", "AVIF", 4),
        ("RGBA", "HEIF", 4),
        ("CMYK", "JPEG", 4),
        ("CMYK", "TIFF", 1),
        ("YCbCr", "TIFF", 3),
        ("LAB", "TIFF", 12),
    ],
)
def test_every_colour_mode_gives_the_same_pixels(
    expected: Pixels, mode: str, image_format: str, tolerance: float
) -> None:
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        image = ImageCms.applyTransform(photo(), to_lab)
        assert image is not None
    else:
        image = photo().convert(mode)
    best: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    data = encode(image, image_format, **best.get(image_format, {}))
    assert distance(preprocess(data, SPEC), expected) <= tolerance


def grey_levels() -> NDArray[np.float64]:
    """A ramp from 0 to 1, ``(32, 32)``."""
    return np.linspace(0, 1, 32)[None].repeat(32, 0)


@pytest.mark.parametrize(
    ("image", "image_format"),
    [
        (Image.fromarray((255 * grey_levels()).round().astype(np.uint8)), "PNG"),
        (Image.fromarray((65535 * grey_levels()).round().astype(np.uint16)), "PNG"),
        (Image.fromarray((65535 * grey_levels()).round().astype(np.uint16)), "TIFF"),
        (Image.fromarray((65535 * grey_levels()).round().astype(">u2")), "TIFF"),
        (Image.fromarray((65535 * grey_levels()).round().astype(np.int32)), "TIFF"),
        (Image.fromarray(grey_levels().astype(np.float32)), "TIFF"),
        (Image.fromarray((255 * grey_levels()).astype(np.float32)), "TIFF"),
    ],
    ids=["8 bit", "16 bit", "16 bit TIFF", "big-endian", "32 bit", "float", "float to 255"],
)
def test_grey_of_any_depth_is_scaled_to_8_bits(image: Image.Image, image_format: str) -> None:
    pixels = preprocess(encode(image, image_format), SPEC)
    ramp = (255 * grey_levels()).round()
    for channel in range(3):
        assert np.abs(pixels[..., channel] - ramp).max() <= 1


def test_one_bit_image_is_resampled_as_grey() -> None:
    image = photo().convert("1")
    expected = preprocess(encode(image.convert("L")), SPEC)
    assert np.array_equal(preprocess(encode(image), SPEC), expected)


def test_alpha_is_composited_over_white() -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((255, 0, 0, 128), (0, 0, 16, 32))
    pixels = preprocess(encode(image), SPEC)
    assert pixels[0, 31].tolist() == [255, 255, 255]
    assert np.abs(pixels[0, 0].astype(int) - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_colour_is_composited_over_white(mode: str) -> None:
    image = Image.new(mode, (32, 32), 0)
    key = (0, 0, 0) if mode == "RGB" else 0
    pixels = preprocess(encode(image, transparency=key), SPEC)
    assert pixels.min() == 255


def test_grey_with_alpha_is_composited_over_white() -> None:
    image = Image.new("LA", (32, 32), (0, 128))
    assert np.abs(preprocess(encode(image), SPEC).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(image_format: str, orientation: int) -> None:
    stored = photo(96, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    best: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}
    best |= {"AVIF": {"quality": 95}, "HEIF": {"quality": 95}}
    # Pillow and pillow-heif turn it into boxes of AVIF and HEIC, the latter only from bytes.
    content = exif.tobytes() if image_format == "HEIF" else exif
    data = encode(stored, image_format, exif=content, **best.get(image_format, {}))
    turns = {
        1: (),
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.ROTATE_270, Image.Transpose.FLIP_LEFT_RIGHT),
        6: (Image.Transpose.ROTATE_270,),
        7: (Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT),
        8: (Image.Transpose.ROTATE_90,),
    }
    shown = stored
    for turn in turns[orientation]:
        shown = shown.transpose(turn)
    tolerance = 3 if image_format in ("JPEG", "AVIF", "HEIF") else 0.05
    assert distance(preprocess(data, SPEC), preprocess(encode(shown), SPEC)) <= tolerance


def test_orientation_out_of_range_is_ignored(expected: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(preprocess(encode(photo(), exif=exif), SPEC), expected)


@pytest.mark.parametrize(("kind", "applied"), [(3, True), (1, False), (4, False)])
def test_orientation_counts_only_with_the_exif_type(
    expected: Pixels, kind: int, applied: bool
) -> None:
    value = b"\6\0\0\0"
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x0112, kind, 1) + value + bytes(4)
    upright = photo().transpose(Image.Transpose.ROTATE_270)
    wanted = preprocess(encode(upright), SPEC) if applied else expected
    assert np.array_equal(preprocess(encode(photo(), exif=exif), SPEC), wanted)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_corrupt_metadata_is_ignored(expected: Pixels) -> None:
    data = encode(photo(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert distance(preprocess(data, SPEC), expected) < 4


def test_first_frame_of_an_animation_is_used(expected: Pixels) -> None:
    others = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")]
    data = encode(photo(), "WEBP", save_all=True, append_images=others, lossless=True)
    assert np.array_equal(preprocess(data, SPEC), expected)


def test_large_jpeg_at_reduced_scale_is_close_to_the_full_decode() -> None:
    large = photo(1600, 1200)
    reduced = preprocess(encode(large, "JPEG", quality=95), SPEC)
    full = preprocess(encode(large), SPEC)
    assert distance(reduced, full) < 1


@pytest.mark.parametrize("size", [(497, 371), (500, 375), (321, 489)])
def test_reduced_scale_does_not_shift_the_image(
    size: tuple[int, int],
) -> None:
    ramp = np.linspace(0, 255, size[0]) * np.ones((size[1], 1))
    image = Image.fromarray(np.stack((ramp, ramp.clip(0, 128), 255 - ramp), -1).astype(np.uint8))
    reduced = preprocess(encode(image, "JPEG", quality=95), SPEC)
    full = preprocess(encode(image), SPEC)
    assert np.abs(reduced[:, 1:-1].astype(int) - full[:, 1:-1]).max() <= 2


def test_large_photo_is_reduced_without_aliasing() -> None:
    checks = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = preprocess(encode(Image.fromarray(checks)), SPEC)
    assert np.abs(pixels.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_extreme_aspect_ratios_are_accepted(size: tuple[int, int]) -> None:
    assert preprocess(encode(photo(*size)), SPEC).shape == (32, 32, 3)


def test_pixel_limit_is_checked_in_the_header() -> None:
    data = encode(photo(100, 100))
    assert preprocess(data, SPEC, max_pixels=10_000).shape == (32, 32, 3)
    with pytest.raises(ImageTooLarge, match=r"100 x 100, 10000 pixels; at most 9999"):
        preprocess(data, SPEC, max_pixels=9_999)


@pytest.mark.parametrize("side", [7_072, 12_000, 60_000])
def test_decompression_bomb_is_refused_without_decoding(side: int) -> None:
    with pytest.raises(ImageTooLarge):
        preprocess(bomb(side), SPEC)


@pytest.mark.parametrize("image_format", KEYS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
def test_truncated_images_are_invalid(image_format: str, kept: float) -> None:
    data, name = encode(photo(), image_format), public_name(image_format)
    with pytest.raises(InvalidImage, match=rf"(?i)the {name} .*\bis truncated"):
        preprocess(data[: max(16, int(kept * len(data)))], SPEC)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 100, b"<svg/>", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE", b"\x89PNG", b"\xff\xd8"],
)
def test_other_formats_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match=f"it is not a {NAMES} image"):
        preprocess(data, SPEC)


def test_other_formats_that_pillow_reads_are_unsupported() -> None:
    with pytest.raises(UnsupportedImage):
        preprocess(encode(photo(), "PPM"), SPEC)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("image_format", KEYS)
def test_flipped_bits_give_pixels_or_an_image_error(image_format: str) -> None:
    data = bytearray(encode(photo(), image_format))
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), 4):
            damaged[position] ^= 1 << int(generator.integers(8))
        with suppress(InvalidImage, ImageTooLarge, UnsupportedImage):
            assert preprocess(bytes(damaged), SPEC).shape == (32, 32, 3)
