"""Resizing with SIMD instructions, compared with Pillow."""

import os
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.images import resize as module
from model.images.resize import SIMD, Box, resize
from model.spec import Interpolation

from .test_preprocess import photo

MODES = ("L", "LA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr")
FILTERS: tuple[Interpolation, ...] = get_args(Interpolation)


def test_simd_is_installed_where_its_wheels_exist() -> None:
    assert SIMD or os.uname().machine != "x86_64"


def by_pillow(image: Image.Image, side: int, box: Box, interpolation: Interpolation) -> Image.Image:
    """Resize in two calls: rows first, as Pillow did before version 13 in a single call."""
    left, top, right, bottom = box
    mode, premultiplied = image.mode, {"RGBA": "RGBa", "LA": "La"}.get(image.mode, image.mode)
    filter_ = Image.Resampling[interpolation.upper()]
    if interpolation == "nearest":
        return image.resize((side, side), filter_, box=box)
    whole = image.convert(premultiplied)
    narrow = whole.resize((side, image.height), filter_, box=(left, 0, right, image.height))
    return narrow.resize((side, side), filter_, box=(0, top, side, bottom)).convert(mode)


def shown(image: Image.Image) -> NDArray[np.int64]:
    """The values as integers; colours with alpha on white, as the model sees them."""
    if image.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return np.asarray(image).astype(int)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    image = image.convert("RGB").convert("L" if mode == "LA" else mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def centre(width: int, height: int, crop_pct: float) -> Box:
    side = min(width, height) * crop_pct
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("size", "crop_pct"), [((500, 375), 1), ((500, 375), 0.875), ((90, 333), 0.95), ((40, 31), 1)]
)
def test_photos_are_resized_as_by_pillow(
    mode: str, interpolation: Interpolation, size: tuple[int, int], crop_pct: float
) -> None:
    image = in_mode(photo(*size), mode)
    before = image.tobytes()
    box = centre(*size, crop_pct)
    resized = resize(image, 224, box, interpolation)
    assert (resized.mode, resized.size) == (mode, (224, 224))
    assert (image.mode, image.tobytes()) == (mode, before)
    distance = np.abs(shown(resized) - shown(by_pillow(image, 224, box, interpolation)))
    edges = np.concatenate([distance[[0, -1]].ravel(), distance[:, [0, -1]].ravel()])
    mean, largest = (0.3, 3) if mode in ("RGBA", "LA") else (0.04, 2)  # a small alpha magnifies
    assert distance.mean() <= mean
    assert edges.mean() <= mean
    assert distance.max() <= largest


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    side=st.integers(1, 48),
    crop_pct=st.floats(0, 1, exclude_min=True),
    interpolation=st.sampled_from(FILTERS),
    seed=st.integers(0, 2**16),
)
def test_any_part_of_noise_is_resized_as_by_pillow(
    *, width: int, height: int, side: int, crop_pct: float, interpolation: Interpolation, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    image = Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8))
    box = centre(width, height, crop_pct)
    distance = np.abs(
        shown(resize(image, side, box, interpolation))
        - shown(by_pillow(image, side, box, interpolation))
    )
    assert distance.max() <= 2


@pytest.mark.parametrize("simd", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_columns_first_is_rows_first_of_the_transposed_image(
    interpolation: Interpolation, mode: str, simd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIMD", SIMD and simd)
    image = in_mode(photo(120, 90), mode)
    transposed = image.transpose(Image.Transpose.TRANSPOSE)
    rows_first = resize(transposed, 64, centre(90, 120, 0.9), interpolation)
    resized = resize(image, 64, centre(120, 90, 0.9), interpolation, columns_first=True)
    assert resized.transpose(Image.Transpose.TRANSPOSE).tobytes() == rows_first.tobytes()


def test_part_may_end_an_ulp_outside_the_image() -> None:
    image = photo(30, 30)
    outside = resize(image, 16, (0.0, 0.0, np.nextafter(30, 31), np.nextafter(30, 31)), "bicubic")
    assert outside.tobytes() == resize(image, 16, (0, 0, 30, 30), "bicubic").tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_without_simd_pillow_resizes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIMD", False)
    image, box = in_mode(photo(300, 400), mode), centre(300, 400, 0.9)
    resized = resize(image, 224, box, "bicubic")
    assert resized.tobytes() == by_pillow(image, 224, box, "bicubic").tobytes()
