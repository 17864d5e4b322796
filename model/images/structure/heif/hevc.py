"""HEVC: the headers of a picture, which say what its decoder allocates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.images.structure.heif.bits import Bits
from model.images.structure.heif.boxes import BrokenBox, Fields, TooMany, UnsupportedKind
from model.images.structure.heif.coded import Coded
from model.images.structure.splice import splice

MAX_UNITS = 8_192
MAX_SET_BYTES = 4_096  # of the parameter sets, which are copied for each tile
MAX_BITS = 12  # per sample

_PICTURES = range(32)  # kinds of units with slices of a picture
_COMPLETE = range(16, 22)  # those of pictures that depend on no other
_VIDEO_SET, _SEQUENCE_SET, _PICTURE_SET = 32, 33, 34
_HEADER = 512  # bytes; the parts of the headers that are read have at most 100
_LARGEST_BLOCK, _SHARE_OF_SLICE = 64, 16
_PHONES_CHROMA = 1
_SUBSAMPLING = {1: (2, 2), 2: (2, 1), 3: (1, 1)}  # by the number of the chroma format; 0 is grey


@dataclass(frozen=True, slots=True)
class _Unit:
    kind: int
    data: memoryview

    def bits(self) -> Bits:
        """The bits after the header, without emulation prevention."""
        return Bits(bytes(self.data[2:_HEADER]).replace(b"\0\0\3", b"\0\0"))


@dataclass(frozen=True, slots=True)
class _Format:
    """Fields of a sequence parameter set."""

    chroma: int
    coded: tuple[int, int]
    shown: tuple[int, int]
    bits: int


def read_hevc(data: bytes, configuration: memoryview) -> Coded:
    """A picture of one frame, with only the parameter sets that it uses.

    Args:
        configuration: the content of ``hvcC``.

    Raises:
        BrokenBox: it is truncated or corrupt.
        UnsupportedKind: it has several frames, or one that depends on others, or its samples are
            of an unsupported kind.
        TooMany: it has over `MAX_UNITS` units or `MAX_SET_BYTES`.
    """
    fields = Fields(configuration)
    head = bytes(fields.take(22))
    units = [*_listed_units(fields), *_units(memoryview(data), (head[21] & 3) + 1)]
    slices = [unit for unit in units if unit.kind in _PICTURES]
    sets = [unit for unit in units if unit.kind in (_VIDEO_SET, _SEQUENCE_SET, _PICTURE_SET)]
    used = _used_sets(sets, _picture_set(slices))
    sequence = _read_format(used[-2].bits())
    return Coded(
        b"hvc1",
        _write_configuration(head, sequence, used),
        splice(
            *(part for unit in slices for part in (len(unit.data).to_bytes(4, "big"), unit.data))
        ),
        sequence.shown,
        sequence.coded,
        channels=3 if sequence.chroma else 1,
        bits=sequence.bits,
        cost=_cost(sequence, len(slices)),
        units=len(units),
    )


def _listed_units(fields: Fields) -> Iterator[_Unit]:
    """The units in ``hvcC``."""
    for _ in range(fields.number(1)):
        fields.take(1)
        for _ in range(fields.number(2)):
            yield from _unit(fields.take(fields.number(2)))


def _units(data: memoryview, width: int) -> Iterator[_Unit]:
    """The units of the picture, each after its length of ``width`` bytes."""
    fields = Fields(data)
    for _ in range(MAX_UNITS):
        if not fields.rest:
            return
        yield from _unit(fields.take(fields.number(width)))
    raise TooMany(f"{MAX_UNITS} units of HEVC in a picture")


def _unit(data: memoryview) -> Iterator[_Unit]:
    """The unit, if it is of the first layer; others are for other views."""
    if len(data) < 3:
        raise BrokenBox("a unit of its HEVC data ends too early")
    if not data[0] & 1 and not data[1] & 0xF8:
        yield _Unit(data[0] >> 1 & 63, data)


def _picture_set(slices: Sequence[_Unit]) -> int:
    """The number of the picture parameter set of all slices."""
    if not slices:
        raise BrokenBox("it has no picture")
    numbers = set()
    for place, unit in enumerate(slices):
        if unit.kind not in _COMPLETE:
            raise UnsupportedKind("whose first frame is not a picture in itself")
        bits = unit.bits()
        if bits.flag() != (place == 0):
            raise UnsupportedKind("in several frames")
        bits.read(1)
        numbers.add(bits.golomb())
    if len(numbers) > 1:
        raise UnsupportedKind("in slices with different parameters")
    return numbers.pop()


def _used_sets(sets: Sequence[_Unit], picture: int) -> list[_Unit]:
    """The video, sequence and picture parameter sets that a picture uses.

    Of several with the same number, the last counts.
    """
    numbered: dict[tuple[int, int], tuple[_Unit, int]] = {}
    for unit in sets:
        bits = unit.bits()
        if unit.kind == _VIDEO_SET:
            numbered[unit.kind, bits.read(4)] = unit, 0
        elif unit.kind == _SEQUENCE_SET:
            video = bits.read(4)
            _skip_levels(bits)
            numbered[unit.kind, bits.golomb()] = unit, video
        else:
            number, sequence = bits.golomb(), bits.golomb()
            numbered[unit.kind, number] = unit, sequence
    try:
        last, sequence = numbered[_PICTURE_SET, picture]
        middle, video = numbered[_SEQUENCE_SET, sequence]
    except KeyError as error:
        raise BrokenBox("it lacks a parameter set") from error
    first = numbered.get((_VIDEO_SET, video))
    used = [*([first[0]] if first else []), middle, last]
    if sum(len(unit.data) for unit in used) > MAX_SET_BYTES:
        raise TooMany(f"{MAX_SET_BYTES} bytes of parameter sets")
    return used


def _skip_levels(bits: Bits) -> None:
    """Skip the profile and level of the sequence and of its sub-layers."""
    layers = bits.read(3)
    bits.read(1 + 88 + 8)
    present = [(bits.flag(), bits.flag()) for _ in range(layers)]
    bits.read(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.read(88 * profile + 8 * level)


def _read_format(bits: Bits) -> _Format:
    bits.read(4)
    _skip_levels(bits)
    bits.golomb()
    chroma = bits.golomb()
    if chroma > 3 or (chroma == 3 and bits.flag()):
        raise UnsupportedKind("in separate colour planes")
    width, height = bits.golomb(), bits.golomb()
    across, down = _SUBSAMPLING.get(chroma, (1, 1))
    left, right, top, bottom = (bits.golomb() for _ in range(4)) if bits.flag() else (0, 0, 0, 0)
    shown = width - across * (left + right), height - down * (top + bottom)
    if min(shown) <= 0:
        raise BrokenBox("its picture has no pixels")
    depths = bits.golomb() + 8, bits.golomb() + 8
    if max(depths) > MAX_BITS or (chroma and len({*depths}) > 1):
        raise UnsupportedKind(f"with samples of {depths[0]} and {depths[1]} bits")
    return _Format(chroma, (width, height), shown, depths[0])


def _write_configuration(head: bytes, sequence: _Format, used: Sequence[_Unit]) -> bytes:
    """The content of ``hvcC``, whose own fields agree with the parameter sets."""
    bits = 0xF8 | sequence.bits - 8
    formats = bytes((0xFC | sequence.chroma, bits, bits))
    head = head[:16] + formats + head[19:21] + bytes((head[21] | 3, len(used)))
    sets = (
        bytes((0x80 | unit.kind, 0, 1)) + len(unit.data).to_bytes(2, "big") + bytes(unit.data)
        for unit in used
    )
    return head + b"".join(sets)


def _cost(sequence: _Format, slices: int) -> int:
    """Samples that the decoder computes.

    Those of 4:2:2 and 4:4:4, which phones do not write, count a quarter more: hostile data takes
    twice the time of the most expensive photos, and a photo of 48 megapixels must pass.

    A slice that overlaps others, as no encoder writes them, is decoded for at most a row of blocks
    and makes the decoder visit all blocks.
    """
    width, height = sequence.coded
    across, down = _SUBSAMPLING.get(sequence.chroma, (1, 1))
    chroma = 2 * (width // across) * (height // down) if sequence.chroma else 0
    samples = width * height + chroma
    if sequence.chroma > _PHONES_CHROMA:
        samples = samples * 5 // 4
    rows = height // _LARGEST_BLOCK
    return samples + (slices - 1) * samples // max(1, min(rows, _SHARE_OF_SLICE))
