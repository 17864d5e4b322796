"""The colours of AVIF and HEIC: range, matrix, primaries and transfer function."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.images.preprocess import preprocess
from model.images.structure.heif.profile import profile_of
from model.spec import PreprocessSpec
from tests.hostile.heif import Heif, coded, nclx

from .heifs import BOTH, decoded

SPEC = PreprocessSpec(image_size=48)
Pixels = NDArray[Any]


@BOTH
@pytest.mark.parametrize("full_range", [True, False])
def test_grey_of_both_ranges(image_format: str, full_range: bool) -> None:
    grey = coded(Image.linear_gradient("L").resize((64, 64)), image_format, quality=95)
    item = replace(grey, properties=[*grey.properties[:2], nclx(1, 13, 6, full_range=full_range)])
    stored = np.asarray(decoded(Heif([grey]).data()).convert("L")).astype(float)
    found = np.asarray(decoded(Heif([item]).data()).convert("L"))
    expected = stored if full_range else (stored - 16) * 255 / 219
    assert np.abs(found - expected.clip(0, 255)).max() <= 1


MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@BOTH
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [True, False])
def test_matrix_and_range_are_those_of_the_file(
    image_format: str, matrix: int, full_range: bool
) -> None:
    colour = np.array([120, 130, 140.0])
    red, blue = MATRICES[6]  # as encoded
    luma = red * colour[0] + blue * colour[2] + (1 - red - blue) * colour[1]
    chroma = (colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)
    if not full_range:
        luma, chroma = (luma - 16) * 255 / 219, (chroma[0] * 255 / 224, chroma[1] * 255 / 224)
    red, blue = MATRICES[matrix]
    first, last = luma + (2 - 2 * red) * chroma[1], luma + (2 - 2 * blue) * chroma[0]
    middle = (luma - red * first - blue * last) / (1 - red - blue)
    item = coded(Image.new("RGB", (64, 64), (120, 130, 140)), image_format, quality=95)
    named = nclx(1, 13, matrix, full_range=full_range)
    item = replace(item, properties=[*item.properties[:2], named])
    found = np.asarray(decoded(Heif([item]).data()).convert("RGB"))[32, 32]
    assert np.abs(found - [first, middle, last]).max() <= 3


def linear(colours: Pixels) -> Pixels:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def coded_level(light: Pixels) -> Pixels:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


# From linear Display P3 and BT.2020 to linear sRGB.
GAMUTS = {
    12: [[1.2249, -0.2249, 0], [-0.0421, 1.0421, 0], [-0.0196, -0.0786, 1.0983]],
    9: [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
}


@BOTH
@pytest.mark.parametrize("primaries", GAMUTS)
def test_wide_gamut_named_by_number_is_converted_to_srgb(image_format: str, primaries: int) -> None:
    colour = np.array([200, 120, 60])
    item = coded(Image.new("RGB", (64, 64), tuple(colour.tolist())), image_format, quality=95)
    item = replace(item, properties=[*item.properties[:2], nclx(primaries, 13, 6)])
    expected = 255 * coded_level(np.array(GAMUTS[primaries]) @ linear(colour / 255))
    found = preprocess(Heif([item]).data(), SPEC)[20, 20]
    assert np.abs(found - expected).max() <= 3
    assert np.abs(found - colour).max() > 8


def test_srgb_needs_no_profile() -> None:
    assert [profile_of(1, transfer) for transfer in (1, 2, 6, 13)] == [None] * 4
    assert profile_of(99, 13) is None
    assert profile_of(1, 99) is None


@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [(4, 0.5, 0.5**2.2), (8, 0.5, 0.5), (16, 0.58, 1.0), (16, 0.5, 0.454), (18, 0.75, 1.0)],
)
def test_transfer_functions(transfer: int, code: float, light: float) -> None:
    """White is the reference white of HDR: 58 % of PQ and 75 % of HLG (BT.2408)."""
    profile = profile_of(1, transfer)
    assert profile is not None
    curve = np.frombuffer(profile[profile.index(b"curv") + 12 :][:2048], ">u2") / 65535
    assert curve[round(code * 1023)] == pytest.approx(light, abs=0.02)
