"""The supported kinds of TIFF: those that Pillow reads correctly.

Tests compare every combination of bits, sample format, photometric interpretation, planes, byte
order, alpha and compression with tifffile: each is either read correctly or refused by name.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.errors import InvalidImage, UnsupportedImage
from model.images.structure.directory import Directory
from model.images.structure.encoded import Greys

NONE, LZW, JPEG, DEFLATE, PACKED = 1, 5, 7, 8, 32773
FAX = (2, 3, 4)
_OLD_DEFLATE, _ZSTD = 32946, 50000
DEFLATED = (DEFLATE, _OLD_DEFLATE, _ZSTD)  # or similar, with coding tables in the data
_COMPRESSIONS = {NONE, *FAX, LZW, JPEG, DEFLATE, _OLD_DEFLATE, PACKED, _ZSTD}
_COMPRESSION_NAMES = {6: "old-style JPEG", 34925: "LZMA", 50001: "WebP", 34712: "JPEG 2000"}
_PREDICTED = {LZW, *DEFLATED}

_WHITE_IS_0, _BLACK_IS_0, _RGB, PALETTE, CMYK, _YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_COLOUR_SAMPLES = {_RGB: 3, CMYK: 4, _YCBCR: 3, LAB: 3}
_PALETTE_BITS = (1, 2, 4, 8)
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_FORMAT_NAMES = {1: "", 2: " signed", 3: " float"}
_UNSPECIFIED, _ASSOCIATED, _ALPHA = 0, 1, 2
_FULL_RANGE = (0, 255, 128, 255, 128, 255)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the samples of a TIFF are stored and what they mean.

    Attributes:
        separate: each component is in a separate plane.
        extras: meaning of the samples beyond the colour: 0 unspecified, 1 associated and 2
            unassociated alpha.
        colours: the palette of 16-bit values: reds, greens and blues.
    """

    photometric: int
    bits: int
    sample_format: int
    samples: int
    extras: tuple[int, ...]
    separate: bool
    compression: int
    order: str
    fill_order: int
    colours: NDArray[np.uint16] | None = None

    @property
    def alpha(self) -> bool:
        return any(self.extras)

    @property
    def name(self) -> str:
        """The name for messages, such as ``TIFF with 16-bit RGB in separate planes``."""
        colour = _NAMES.get(self.photometric, f"photometric interpretation {self.photometric}")
        kind = _FORMAT_NAMES.get(self.sample_format, f" format {self.sample_format}")
        text = f"TIFF with {self.bits}-bit{kind} {colour}"
        if self.photometric == _WHITE_IS_0:
            text += ", white as 0"
        if self.alpha:
            text += " and alpha"
        elif self.extras:
            text += f" and {len(self.extras)} more samples"
        return text + (" in separate planes" if self.separate else "")

    def tags(self) -> dict[int, int | list[int]]:
        """The tags that describe this kind, except for the palette."""
        tags: dict[int, int | list[int]] = {
            258: [self.bits] * self.samples,
            259: self.compression,
            262: self.photometric,
            266: self.fill_order,
            277: self.samples,
            284: 2 if self.separate else 1,
            339: [self.sample_format] * self.samples,
        }
        return tags | ({338: list(self.extras)} if self.extras else {})


def greys_of(kind: Kind) -> Greys:
    """How to convert Pillow's samples of one wide component to pixels."""
    white = {12: 4095.0, 16: 65535.0}.get(kind.bits)
    inverted = kind.photometric == _WHITE_IS_0 and kind.bits > 8
    wide = kind.bits == 32
    return Greys(
        white,
        inverted,
        unsigned=wide and kind.sample_format == _UNSIGNED,
        # libtiff returns samples in native byte order, and Pillow swaps them again.
        swapped=wide and kind.order == ">" and kind.compression != NONE,
    )


def read_kind(directory: Directory) -> Kind:
    """Read the kind of a TIFF.

    Raises:
        UnsupportedImage: it is not supported; the message names it.
        InvalidImage: its tags contradict each other.
    """
    if 262 not in directory:
        raise UnsupportedImage("TIFF without a photometric interpretation is not supported")
    photometric = directory.number(262, 0)
    samples = directory.number(277, 1)
    bits = _one_of_all(directory, 258, 1, samples, "bits")
    kind = Kind(
        photometric,
        bits,
        _one_of_all(directory, 339, _UNSIGNED, samples, "format"),
        samples,
        _extras(directory, photometric, samples),
        directory.number(284, 1) == 2 and samples > 1,
        directory.number(259, NONE),
        directory.order,
        directory.number(266, 1),
        _palette(directory, bits) if photometric == PALETTE and bits in _PALETTE_BITS else None,
    )
    _check_compression(kind, directory)
    if not (_is_grey(kind) or _is_palette(kind) or _is_colour(kind, directory)):
        raise UnsupportedImage(f"{kind.name} is not supported; save it as 8-bit RGB")
    return kind


def _one_of_all(directory: Directory, tag: int, default: int, samples: int, what: str) -> int:
    """The value of a tag, which must be the same for every sample."""
    values = {int(value) for value in directory.numbers(tag)[: max(1, samples)]} or {default}
    if len(values) > 1:
        raise UnsupportedImage(f"TIFF whose samples differ in their {what} is not supported")
    return values.pop()


def _extras(directory: Directory, photometric: int, samples: int) -> tuple[int, ...]:
    number = samples - _COLOUR_SAMPLES.get(photometric, 1)
    if number < 0:
        raise InvalidImage("the TIFF data is corrupt: it has too few samples for its colours")
    extras = tuple(directory.numbers(338)[: min(number, 16)].tolist())
    if len(extras) < number:  # often absent if the fourth sample of RGB is alpha
        missing = min(number, 16) - len(extras)
        first = _ALPHA if photometric == _RGB and not extras else _UNSPECIFIED
        extras += (first, *[_UNSPECIFIED] * (missing - 1))[:missing]
    return extras


def _palette(directory: Directory, bits: int) -> NDArray[np.uint16]:
    colours = directory.numbers(320)
    if len(colours) < 3 * 2**bits:
        raise InvalidImage("the TIFF data is corrupt: its palette is too short")
    if colours.max() < 256:  # 8-bit values, against the standard
        colours = colours * 257
    return colours[: 3 * 2**bits].astype(np.uint16)


def _check_compression(kind: Kind, directory: Directory) -> None:
    compression, predictor = kind.compression, directory.number(317, 1)
    if compression not in _COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(compression, f"number {compression}")
        raise UnsupportedImage(f"TIFF with compression {name} is not supported; save it with LZW")
    if compression in FAX and (kind.bits, kind.samples) != (1, 1):
        raise InvalidImage("the TIFF data is corrupt: fax compression needs one bit per pixel")
    fits = {1: True, 2: kind.bits in (8, 16, 32), 3: kind.sample_format == _FLOAT}
    if predictor != 1 and not (compression in _PREDICTED and fits.get(predictor)):
        raise UnsupportedImage(
            f"TIFF with predictor {predictor} for {kind.bits} bits is not supported"
        )
    one_bit = kind.bits == 1 and kind.photometric in (_WHITE_IS_0, _BLACK_IS_0)
    if kind.fill_order != 1 and not one_bit:
        raise UnsupportedImage(
            f"{kind.name} in reversed bits is not supported; save it as 8-bit RGB"
        )
    if compression == JPEG and (kind.bits != 8 or kind.alpha):
        raise UnsupportedImage(f"{kind.name} as JPEG is not supported; save it as 8-bit RGB")


def _is_grey(kind: Kind) -> bool:
    if kind.photometric not in (_WHITE_IS_0, _BLACK_IS_0):
        return False
    if kind.extras:
        plain = kind.photometric == _BLACK_IS_0 and not kind.separate
        return plain and (kind.bits, kind.sample_format, len(kind.extras)) == (8, _UNSIGNED, 1)
    bits = {_UNSIGNED: {1, 2, 4, 8, 16}, _SIGNED: {32}, _FLOAT: {32}}
    if kind.photometric == _BLACK_IS_0:
        bits[_UNSIGNED] |= {12, 32} if kind.order == "<" else set()
    elif kind.sample_format == _SIGNED or (kind.bits == 16 and kind.order == ">"):
        return False
    return kind.bits in bits.get(kind.sample_format, ())


def _is_palette(kind: Kind) -> bool:
    if kind.colours is None or kind.sample_format != _UNSIGNED:
        return False
    with_extra = kind.bits == 8 and kind.extras in ((0,), (2,)) and not kind.separate
    return not kind.extras or with_extra


def _is_colour(kind: Kind, directory: Directory) -> bool:
    if kind.sample_format != _UNSIGNED or kind.photometric not in _COLOUR_SAMPLES:
        return False
    if kind.photometric == _RGB:
        return _is_rgb(kind)
    if kind.photometric == CMYK:
        wide = kind.bits == 16 and not kind.extras and not kind.separate
        narrow = kind.bits == 8 and (
            not kind.extras or (kind.extras in ((0,), (0, 0)) and not kind.separate)
        )
        return directory.number(332, 1) == 1 and (wide or narrow)
    plain = kind.bits == 8 and not kind.extras
    if kind.photometric == LAB:
        return plain and not kind.separate
    return plain and _is_read_ycbcr(kind, directory)


def _is_rgb(kind: Kind) -> bool:
    first, others = kind.extras[:1], kind.extras[1:]
    if kind.separate:
        return kind.bits == 8 and kind.extras in ((), (_ALPHA,))
    if any(others) or first not in ((), (_UNSPECIFIED,), (_ASSOCIATED,), (_ALPHA,)):
        return False
    return (kind.bits == 8 and len(others) <= 2) or (kind.bits == 16 and not others)


def _is_read_ycbcr(kind: Kind, directory: Directory) -> bool:
    """As JPEG, or with full chroma resolution and the usual range and coefficients."""
    if kind.separate:
        return False
    if kind.compression == JPEG:
        return True
    black_and_white = directory.numbers(532).tolist() or list(_FULL_RANGE)
    whole = directory.entries.get(532, (0, 0, 0))[0] != 5 and tuple(black_and_white) == _FULL_RANGE
    subsampled = directory.numbers(530).tolist() != [1, 1]
    return not subsampled and (whole or _is_full_range(directory)) and 529 not in directory


def _is_full_range(directory: Directory) -> bool:
    """Whether the reference values of black and white, as fractions, are those of JPEG."""
    content = directory.content(532)
    if len(content) != 48:
        return 532 not in directory
    values = np.frombuffer(content, directory.order + "u4").reshape(6, 2)
    return all(
        bottom and top == white * bottom
        for (top, bottom), white in zip(values.tolist(), _FULL_RANGE, strict=True)
    )
