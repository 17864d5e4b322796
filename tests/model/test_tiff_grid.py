"""Every combination of TIFF tags is read correctly or refused by name.

The files are written sample by sample and read back with tifffile, to exclude mistakes of the
writer.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from model.errors import InvalidImage, UnsupportedImage
from model.images.preprocess import preprocess
from model.spec import PreprocessSpec

from .tiff_kinds import (
    BITS,
    BLACK_IS_0,
    CMYK,
    COLOUR_MAP,
    COLOURS,
    EXTRAS,
    FLOAT,
    LAB,
    LAYOUTS,
    MASK,
    ORDERS,
    PALETTE,
    RGB,
    SIDE,
    SIGNED,
    WHITE_IS_0,
    YCBCR,
    Kind,
    make_samples,
    write,
)
from .tiffs import DEFLATE, LONG, LZW, NONE, PACKED, SHORT, ZSTD, Order, Tags, write_tiff

SPEC = PreprocessSpec(image_size=SIDE)


def grid() -> Iterator[Kind]:
    """All combinations of the properties that determine layout and meaning of samples."""
    photometrics = (WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, MASK, CMYK, YCBCR, LAB)
    for photometric, form, order in product(photometrics, BITS, ORDERS):
        for bits, extras, separate in product(BITS[form], EXTRAS, (False, True)):
            yield Kind(photometric, bits, form, extras, separate, order)


def packings(kind: Kind) -> Iterator[Kind]:
    """A kind with every compression, predictor and layout."""
    for compression, layout in product((NONE, LZW, DEFLATE, PACKED, ZSTD), LAYOUTS):
        yield replace(kind, compression=compression, layout=layout)
    for predictor, layout in product((2, 3), LAYOUTS):
        yield replace(kind, compression=DEFLATE, predictor=predictor, layout=layout)


def read_with_tifffile(data: bytes, kind: Kind) -> NDArray[Any] | None:
    """The samples ``(SIDE, SIDE, samples)``; None for kinds that need native codecs."""
    try:
        page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
        assert isinstance(page, tifffile.TiffPage)
        samples = page.asarray()
    except (ImportError, NotImplementedError, ValueError, tifffile.TiffFileError):
        return None
    if kind.separate and kind.samples > 1:
        samples = np.moveaxis(samples, 0, -1)
    return samples.reshape(SIDE, SIDE, kind.samples)


def shown(kind: Kind, samples: Any) -> Any:
    """The picture over white according to the specification, ``(SIDE, SIDE, 3)``."""
    colours = COLOURS.get(kind.photometric, 1)
    values = scale(kind, samples)
    rgb = to_rgb(kind, samples[..., :colours], values[..., :colours])
    alphas = [i for i, extra in enumerate(kind.extras) if extra]
    if alphas:
        alpha = values[..., colours + alphas[0], None]
        rgb = rgb * (alpha if kind.extras[alphas[0]] == 2 else 1) + 1 - alpha
    return 255 * rgb.clip(0, 1)


def scale(kind: Kind, samples: Any) -> Any:
    """Scale to 0 to 1. For floats and 32-bit integers, white is the lowest usual one that fits."""
    values = samples.astype(np.float64)
    if kind.bits < 32:
        return values / (2**kind.bits - 1)
    usual = [1.0] if kind.sample_format == FLOAT else []
    white = next((w for w in [*usual, 255.0, 65535.0] if values.max() <= w), values.max())
    return values.clip(0) / white


def to_rgb(kind: Kind, samples: Any, values: Any) -> Any:
    match kind.photometric:
        case 0:
            return 1 - values.repeat(3, -1)
        case 1:
            return values.repeat(3, -1)
        case 3:
            return np.moveaxis(COLOUR_MAP[:, samples[..., 0].astype(int)], 0, -1) / 65535
        case 5:
            return (1 - values[..., :3]) * (1 - values[..., 3:])
        case 6:
            y, cb, cr = (values[..., i] for i in range(3))
            red, blue = y + 1.402 * (cr - 128 / 255), y + 1.772 * (cb - 128 / 255)
            green = (y - 0.299 * red - 0.114 * blue) / 0.587
            return np.stack((red, green, blue), -1)
        case 8:
            return lab_to_rgb(samples)
    return values


def lab_to_rgb(samples: Any) -> Any:
    """From CIELAB under D50, with signed 8-bit a and b, to sRGB."""
    light = samples[..., 0] * 100 / 255
    a, b = (samples[..., i].astype(np.uint8).view(np.int8).astype(float) for i in (1, 2))
    fy = (light + 16) / 116
    f = np.stack((fy + a / 500, fy, fy - b / 200), -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    to_linear = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = (xyz @ to_linear.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def difference(kind: Kind, samples: NDArray[Any]) -> float | None:
    """Difference from a viewer's result in levels of 255; None if the file is refused by name."""
    data = write(kind, samples)
    try:
        pixels = preprocess(data, SPEC)
    except UnsupportedImage as error:
        return None if str(error).startswith("TIFF with") else float("inf")
    except InvalidImage:
        return float("inf")  # the file is valid
    stored = read_with_tifffile(data, kind)
    assert stored is None or np.array_equal(stored, samples), f"{kind} is written wrong"
    return float(np.abs(pixels - shown(kind, samples)).max())


def tolerance(kind: Kind) -> float:
    """Levels of 255: rounding, including 8-bit alpha, and Little CMS's grid from CIELAB to sRGB."""
    if kind.photometric == LAB:
        return 8.0
    return 3.0 if any(kind.extras) else 2.01 if kind.photometric in (CMYK, YCBCR) else 1.51


def accepted() -> list[Kind]:
    return [kind for kind in grid() if difference(kind, make_samples(kind)) is not None]


def test_no_combination_of_tags_gives_wrong_pixels() -> None:
    wrong, read = [], 0
    for kind in grid():
        found = difference(kind, make_samples(kind))
        read += found is not None
        if found is not None and found > tolerance(kind):
            wrong.append(f"{kind}: {found:.1f}")
    assert not wrong, f"{len(wrong)} of {read}:\n" + "\n".join(wrong)
    assert read > 60


@pytest.mark.thorough
def test_no_packing_gives_wrong_pixels() -> None:
    wrong, read = [], 0
    for kind in accepted():
        samples = make_samples(kind)
        for packed in packings(kind):
            if packed.predictor == 2 and (kind.sample_format == FLOAT or kind.bits < 8):
                continue
            if packed.predictor == 3 and kind.sample_format != FLOAT:
                continue
            found = difference(packed, samples)
            read += found is not None
            if found is not None and found > tolerance(kind):
                wrong.append(f"{packed}: {found:.1f}")
    assert not wrong, f"{len(wrong)} of {read}:\n" + "\n".join(wrong)
    assert read > 600


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "kind",
    [
        *(Kind(BLACK_IS_0, bits) for bits in (1, 2, 4, 8, 16)),
        *(Kind(WHITE_IS_0, bits) for bits in (1, 2, 4, 8)),
        *(Kind(photometric, 8) for photometric in (RGB, PALETTE, CMYK, YCBCR, LAB)),
        *(Kind(RGB, 16, extras=extras) for extras in ((), (1,), (2,))),
        *(Kind(RGB, 8, extras=extras) for extras in ((), (0,), (1,), (2,))),
        Kind(RGB, 8, separate=True),
        Kind(BLACK_IS_0, 32, FLOAT),
    ],
    ids=str,
)
def test_usual_kinds_are_read(kind: Kind, order: Order) -> None:
    assert difference(replace(kind, order=order), make_samples(kind)) is not None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind(RGB, 16, separate=True), "TIFF with 16-bit RGB in separate planes"),
        (Kind(BLACK_IS_0, 64, FLOAT), "TIFF with 64-bit float grey"),
        (Kind(BLACK_IS_0, 16, FLOAT), "TIFF with 16-bit float grey"),
        (Kind(RGB, 32, FLOAT), "TIFF with 32-bit float RGB"),
        (Kind(BLACK_IS_0, 16, extras=(2,)), "TIFF with 16-bit grey and alpha"),
        (Kind(WHITE_IS_0, 32, SIGNED), "TIFF with 32-bit signed grey, white as 0"),
        (Kind(BLACK_IS_0, 8, extras=(0,) * 4), "TIFF with 8-bit grey and 4 more samples"),
    ],
)
def test_refusals_name_the_kind(kind: Kind, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"^{name} is not supported; save it as 8-bit RGB$"):
        preprocess(write(kind, make_samples(kind)), SPEC)


@pytest.mark.parametrize("photometric", [WHITE_IS_0, BLACK_IS_0, PALETTE])
def test_reversed_bits_are_read_or_refused_by_name(photometric: int) -> None:
    """Fill order 2, as written by fax machines, with one bit per pixel."""
    rows = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE // 8), np.uint8)
    tags: Tags = {256: (LONG, SIDE), 257: (LONG, SIDE), 258: (SHORT, 1), 259: (SHORT, 1)}
    tags |= {262: (SHORT, photometric), 277: (SHORT, 1), 320: (SHORT, [0, 65535] * 3)}
    plain = preprocess(write_tiff(tags, [rows.tobytes()]), SPEC)
    turned = np.packbits(np.unpackbits(rows, axis=1, bitorder="little"), axis=1)
    data = write_tiff(tags | {266: (SHORT, 2)}, [turned.tobytes()])
    if photometric == PALETTE:
        with pytest.raises(UnsupportedImage, match="TIFF with 1-bit palette in reversed bits"):
            preprocess(data, SPEC)
    else:
        assert np.array_equal(preprocess(data, SPEC), plain)
