"""Kinds of TIFF: layout and meaning of samples, and files of random samples of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tiffs import LONG, NONE, SHORT, Order, Tags, compress, write_tiff

SIDE = 32
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
    if kind.photometric == LAB:  # colours within sRGB: a and b near 0
        samples[..., 0] = samples[..., 0] // 2 + top // 4
        samples[..., 1:] = RNG.integers(-15, 16, shape)[..., 1:] % (top + 1)
    return associate(samples, kind) if 1 in kind.extras else samples


def associate(samples: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Premultiply colours by alpha."""
    colours = COLOURS.get(kind.photometric, 1)
    samples[..., :colours] = samples[..., :colours].clip(None, samples[..., colours:][..., :1])
    return samples


def pack(samples: NDArray[Any], kind: Kind) -> NDArray[np.uint8]:
    """Pack samples ``(h, w, c)`` into rows of bytes, most significant bit first."""
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
    """The difference of each sample from the one to its left."""
    differences = samples.astype(np.int64)
    differences[:, 1:] -= samples.astype(np.int64)[:, :-1]
    return differences % 2**kind.bits


def predict_floats(samples: NDArray[Any], kind: Kind) -> NDArray[np.uint8]:
    """Bytes of equal significance side by side, as differences from the byte to the left."""
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
