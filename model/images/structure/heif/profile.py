"""ICC profiles of colours that a file names by numbers of ISO/IEC 23091-2 (H.273)."""

import struct
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

# The chromaticities (x, y) of red, green, blue and white.
_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),  # PAL
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),  # NTSC
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),  # Display P3
}
_SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_STEPS = 1024  # of a curve
_HDR_WHITE = 203.0  # cd/m2; brighter levels of PQ and HLG are shown white
_HLG_PEAK = 1000.0
_TO_CONES = np.array(  # Bradford
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


def _srgb(level: Floats) -> Floats:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def _pq(level: Floats) -> Floats:
    """The curve of SMPTE ST 2084."""
    root = level ** (1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 10_000 / _HDR_WHITE * light ** (1 / 0.1593017578125)


def _hlg(level: Floats) -> Floats:
    """The curve of BT.2100 HLG, on a display of 1000 cd/m2."""
    bright = (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return _HLG_PEAK / _HDR_WHITE * np.where(level <= 0.5, level**2 / 3, bright) ** 1.2


# BT.709 and BT.2020 have curves for cameras; as in browsers, they are shown with that of sRGB.
_CURVES: Mapping[int, Curve] = {
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _srgb),
    4: lambda level: level**2.2,
    5: lambda level: level**2.8,
    8: np.positive,
    16: _pq,
    18: _hlg,
}


@cache
def profile_of(primaries: int, transfer: int) -> bytes | None:
    """The profile; None if the colours are those of sRGB, or unknown."""
    curve = _CURVES.get(transfer)
    if curve is None or (curve is _srgb and primaries not in _PRIMARIES):
        return None
    levels = curve(np.linspace(0, 1, _STEPS)).clip(0, 1)
    return _write(_colorants(*_PRIMARIES.get(primaries, _SRGB)), levels)


def _colorants(*corners: tuple[float, float]) -> Floats:
    """The XYZ of red, green and blue, as columns, adapted to D50."""
    red, green, blue, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in corners)
    rays = np.stack((red, green, blue), 1)
    colours = rays * np.linalg.solve(rays, white)
    gains = np.diag(_TO_CONES @ _D50 / (_TO_CONES @ white))
    adapted: Floats = np.linalg.solve(_TO_CONES, gains @ _TO_CONES @ colours)
    return adapted


def _write(colorants: Floats, levels: Floats) -> bytes:
    """A matrix profile of version 2."""
    curve = b"curv" + struct.pack(">4xI", _STEPS) + (levels * 65535).round().astype(">u2").tobytes()
    tags = {b"wtpt": _xyz(_D50)}
    for name, column in zip((b"r", b"g", b"b"), colorants.T, strict=True):
        tags[name + b"XYZ"] = _xyz(column)
        tags[name + b"TRC"] = curve
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s",
        start + len(body),
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        _xyz(_D50)[8:],
    )
    return head.ljust(128, b"\0") + table + body


def _xyz(values: Floats) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(float(value) * 65536) for value in values))
