"""Every combination of TIFF tags is read right or refused by name.

The files are written here sample by sample, and read back with tifffile, so that a mistake of the
writer does not pass for one of the reader.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from model.errors import InvalidImage, UnsupportedImage
from model.preprocess import preprocess
from model.spec import PreprocessSpec

from .tiffs import DEFLATE, LONG, LZW, NONE, PACKED, SHORT, ZSTD, Order, Tags, compress, write_tiff

SIDE = 32
SPEC = PreprocessSpec(image_size=SIDE)
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
COLOURS = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}
BITS = {UNSIGNED: (1, 2, 4, 8, 10, 12, 16, 24, 32, 64), SIGNED: (8, 16, 32, 64)}
BITS[FLOAT] = (16, 24, 32, 64)
EXTRAS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 0), (2, 0))
ORDERS: tuple[Order, ...] = ("<", ">")
LAYOUTS = ("one strip", "strips", "tiles")
RNG = np.random.default_rng(33)
COLOUR_MAP = RNG.integers(0, 65536, (3, 256))


@dataclass(frozen=True)
class Kind:
    photometric: int
    bits: int
    sample_format: int = UNSIGNED
    extras: tuple[int, ...] = ()
    separate: bool = False
    order: Order = "<"
    compression: int = NONE
    layout: str = "one strip"
    predictor: int = 1

    @property
    def samples(self) -> int:
        return COLOURS.get(self.photometric, 1) + len(self.extras)


def grid() -> Iterator[Kind]:
    """The product of what decides how samples lie and what they mean."""
    photometrics = (WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, MASK, CMYK, YCBCR, LAB)
    for photometric, form, order in product(photometrics, BITS, ORDERS):
        for bits, extras, separate in product(BITS[form], EXTRAS, (False, True)):
            yield Kind(photometric, bits, form, extras, separate, order)


def packings(kind: Kind) -> Iterator[Kind]:
    """A kind in every compression, predictor and layout."""
    for compression, layout in product((NONE, LZW, DEFLATE, PACKED, ZSTD), LAYOUTS):
        yield replace(kind, compression=compression, layout=layout)
    for predictor, layout in product((2, 3), LAYOUTS):
        yield replace(kind, compression=DEFLATE, predictor=predictor, layout=layout)


def make_samples(kind: Kind) -> Any:
    """Random values, ``(SIDE, SIDE, samples)``, over the whole range of the kind."""
    shape = (SIDE, SIDE, kind.samples)
    if kind.sample_format == FLOAT:
        return RNG.random(shape).astype({16: "f2", 64: "f8"}.get(kind.bits, "f4"))
    if kind.sample_format == SIGNED:
        low, high = -(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1
        return RNG.integers(low, high, shape, endpoint=True)
    top = 2 ** min(kind.bits, 62) - 1
    samples = RNG.integers(0, top, shape, endpoint=True)
    if kind.photometric == LAB:  # colours that sRGB has: a and b near 0
        samples[..., 0] = samples[..., 0] // 2 + top // 4
        samples[..., 1:] = RNG.integers(-15, 16, shape)[..., 1:] % (top + 1)
    return associate(samples, kind) if 1 in kind.extras else samples


def associate(samples: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Colours at most as high as their alpha, which is multiplied in."""
    colours = COLOURS.get(kind.photometric, 1)
    samples[..., :colours] = samples[..., :colours].clip(None, samples[..., colours:][..., :1])
    return samples


def pack(samples: NDArray[Any], kind: Kind) -> NDArray[np.uint8]:
    """Rows of bytes of samples ``(h, w, c)``, first bit first."""
    height = samples.shape[0]
    if kind.sample_format == FLOAT and kind.bits == 24:
        samples = samples.astype("f4").view(np.uint32) >> 8  # any 24 bits
    if kind.bits in (8, 16, 32, 64):
        letter = "f" if kind.sample_format == FLOAT else "iu"[kind.sample_format == UNSIGNED]
        stored = np.ascontiguousarray(samples.astype(f"{kind.order}{letter}{kind.bits // 8}"))
        return stored.reshape(height, -1).view(np.uint8)
    if kind.bits == 24:
        wide = np.ascontiguousarray(samples.astype(kind.order + "u4")).view(np.uint8)
        kept = slice(0, 3) if kind.order == "<" else slice(1, 4)
        return wide.reshape(height, -1, 4)[..., kept].reshape(height, -1)
    places = np.arange(kind.bits)[::-1]
    bits = (samples[..., None].astype(np.int64) >> places & 1).astype(np.uint8)
    return np.packbits(bits.reshape(height, -1), axis=1)


def cut(kind: Kind) -> Iterator[tuple[slice, slice]]:
    if kind.layout == "tiles":
        for top, left in product(range(0, SIDE, 16), range(0, SIDE, 16)):
            yield slice(top, top + 16), slice(left, left + 16)
    else:
        step = SIDE if kind.layout == "one strip" else 12
        for top in range(0, SIDE, step):
            yield slice(top, top + step), slice(0, SIDE)


def predict(samples: Any, kind: Kind) -> Any:
    """Each sample less the one at its left."""
    differences = samples.astype(np.int64)
    differences[:, 1:] -= samples.astype(np.int64)[:, :-1]
    return differences % 2**kind.bits


def predict_floats(samples: NDArray[Any], kind: Kind) -> NDArray[np.uint8]:
    """Bytes of equal weight side by side, each less the one at its left."""
    height, channels = samples.shape[0], samples.shape[2]
    big = samples.astype(f">f{kind.bits // 8}").reshape(height, -1)
    planes = big.view(np.uint8).reshape(height, -1, kind.bits // 8).transpose(0, 2, 1)
    rows = planes.reshape(height, -1).astype(np.int64)
    rows[:, channels:] -= planes.reshape(height, -1)[:, :-channels]
    return (rows % 256).astype(np.uint8)


def write(kind: Kind, samples: NDArray[Any]) -> bytes:
    planes = np.split(samples, kind.samples, -1) if kind.separate else [samples]
    pieces = []
    for plane, (rows, columns) in product(planes, list(cut(kind))):
        piece = plane[rows, columns]
        if kind.predictor == 3:
            packed = predict_floats(piece, kind)
        else:
            packed = pack(predict(piece, kind) if kind.predictor == 2 else piece, kind)
        pieces.append(compress(packed, kind.compression))
    tags: Tags = {
        256: (LONG, SIDE),
        257: (LONG, SIDE),
        258: (SHORT, [kind.bits] * kind.samples),
        259: (SHORT, kind.compression),
        262: (SHORT, kind.photometric),
        277: (SHORT, kind.samples),
        284: (SHORT, 2 if kind.separate else 1),
        339: (SHORT, [kind.sample_format] * kind.samples),
    }
    if kind.extras:
        tags[338] = SHORT, list(kind.extras)
    if kind.predictor != 1:
        tags[317] = SHORT, kind.predictor
    if kind.photometric == PALETTE:
        used = COLOUR_MAP[:, : min(256, 2**kind.bits)]
        tags[320] = SHORT, used.ravel().tolist()
    if kind.photometric == YCBCR:
        tags[530] = SHORT, [1, 1]
    tiled = kind.layout == "tiles"
    tags |= {322: (LONG, 16), 323: (LONG, 16)} if tiled else {}
    tags |= {} if tiled else {278: (LONG, 12 if kind.layout == "strips" else SIDE)}
    return write_tiff(tags, pieces, kind.order, tiled=tiled)


def read_with_tifffile(data: bytes, kind: Kind) -> NDArray[Any] | None:
    """The samples ``(SIDE, SIDE, samples)``; None for kinds that need its native codecs."""
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
    """What the specification says that a viewer shows over white, ``(SIDE, SIDE, 3)``."""
    colours = COLOURS.get(kind.photometric, 1)
    values = scale(kind, samples)
    rgb = to_rgb(kind, samples[..., :colours], values[..., :colours])
    alphas = [i for i, extra in enumerate(kind.extras) if extra]
    if alphas:
        alpha = values[..., colours + alphas[0], None]
        rgb = rgb * (alpha if kind.extras[alphas[0]] == 2 else 1) + 1 - alpha
    return 255 * rgb.clip(0, 1)


def scale(kind: Kind, samples: Any) -> Any:
    """From 0 to 1. Floats and 32-bit integers have the lowest usual white that none exceeds."""
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
    """Levels of 255 between what is read and what a viewer shows; None if it is refused by name."""
    data = write(kind, samples)
    try:
        pixels = preprocess(data, SPEC)
    except UnsupportedImage as error:
        return None if str(error).startswith("TIFF with") else float("inf")
    except InvalidImage:
        return float("inf")  # nothing is wrong with it
    stored = read_with_tifffile(data, kind)
    assert stored is None or np.array_equal(stored, samples), f"{kind} is written wrong"
    return float(np.abs(pixels - shown(kind, samples)).max())


def tolerance(kind: Kind) -> float:
    """Levels of 255: rounding, of 8-bit alpha too, and Little CMS's grid from CIELAB to sRGB."""
    if kind.photometric == LAB:
        return 8.0
    return 3.0 if any(kind.extras) else 2.01 if kind.photometric in (CMYK, YCBCR) else 1.51


def accepted() -> list[Kind]:
    return [kind for kind in grid() if difference(kind, make_samples(kind)) is not None]


def test_no_combination_of_tags_gives_other_pixels() -> None:
    wrong, read = [], 0
    for kind in grid():
        found = difference(kind, make_samples(kind))
        read += found is not None
        if found is not None and found > tolerance(kind):
            wrong.append(f"{kind}: {found:.1f}")
    assert not wrong, f"{len(wrong)} of {read}:\n" + "\n".join(wrong)
    assert read > 60


def test_no_packing_gives_other_pixels() -> None:
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
    with pytest.raises(UnsupportedImage, match=f"^{name} is not read; save it as 8-bit RGB$"):
        preprocess(write(kind, make_samples(kind)), SPEC)
