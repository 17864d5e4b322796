"""AV1: the headers of a picture, which say what its decoder allocates."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.errors import ImageTooLarge
from model.images.structure.heif.bits import Bits
from model.images.structure.heif.boxes import BrokenBox, TooMany, UnsupportedKind
from model.images.structure.heif.coded import Coded
from model.images.structure.splice import splice

MAX_UNITS = 8_192
MAX_SIDE = 32_768  # of libavif

_SEQUENCE, _FRAME_HEADER, _TILES, _FRAME = 1, 3, 4, 6  # kinds of units
_HEADER = 512  # bytes; a sequence header of 32 operating points has 360
_KEY_FRAME = 0
_CHOSEN_BY_FRAME = 2
_SRGB = (1, 13, 0)


@dataclass(slots=True)
class _Sequence:
    """The fields of a sequence header that its frames depend on."""

    profile: int
    reduced: bool
    level: int = 0
    tier: int = 0
    equal_intervals: bool = True
    interval_bits: int = 0  # of a frame's presentation time
    size: tuple[int, int] = (0, 0)
    id_bits: int = 0
    screen_content: int = _CHOSEN_BY_FRAME
    integer_vectors: int = _CHOSEN_BY_FRAME
    bits: int = 8
    grey: bool = False
    subsampling: tuple[int, int] = (1, 1)
    siting: int = 0
    colours: tuple[int, int, int] = (2, 2, 2)  # primaries, transfer, matrix; unspecified

    def configuration(self) -> bytes:
        """The content of ``av1C``."""
        kind = self.tier << 7 | (self.bits > 8) << 6 | (self.bits > 10) << 5 | self.grey << 4
        across, down = self.subsampling
        kind |= across << 3 | down << 2 | self.siting
        return bytes((0x81, self.profile << 5 | self.level, kind, 0))


def read_av1(data: bytes) -> Coded:
    """A picture of one frame.

    Raises:
        BrokenBox: it is truncated or corrupt.
        UnsupportedKind: it has several frames, or one that depends on others.
        TooMany: it has over `MAX_UNITS` units.
    """
    kept: list[memoryview] = []
    header: memoryview | None = None
    frames: list[memoryview] = []
    units = 0
    for kind, unit, content in _units(data):
        units += 1
        if kind == _SEQUENCE:
            if header is not None and content != header:
                raise UnsupportedKind("in several sequences")
            header = content
        elif kind in (_FRAME, _FRAME_HEADER):
            frames.append(content)
        elif kind != _TILES:
            continue  # metadata
        kept.append(unit)
    if header is None or not frames:
        raise BrokenBox("it has no picture")
    if len(frames) > 1:
        raise UnsupportedKind("in several layers or frames")
    sequence = _read_sequence(Bits(bytes(header[:_HEADER])))
    _check_frame(sequence, Bits(bytes(frames[0][:_HEADER])))
    width, height = sequence.size
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(
            f"the AVIF is {width} x {height}; at most {MAX_SIDE} in a side are accepted"
        )
    return Coded(
        b"av01",
        sequence.configuration(),
        splice(*kept),
        sequence.size,
        sequence.size,
        channels=1 if sequence.grey else 3,
        bits=sequence.bits,
        cost=width * height,
        units=units,
        colours=sequence.colours[:2],
    )


def _units(data: bytes) -> Iterator[tuple[int, memoryview, memoryview]]:
    """The kind, the bytes and the content of each unit."""
    whole = memoryview(data)
    position = 0
    for _ in range(MAX_UNITS):
        if position == len(data):
            return
        head = data[position]
        if head & 0x80:
            raise BrokenBox("a unit of its AV1 data is corrupt")
        start = position + (2 if head & 4 else 1)
        length = len(data) - start
        if head & 2:
            length, start = _leb128(data, start)
        end = start + length
        if not start <= end <= len(data):
            raise BrokenBox("a unit of its AV1 data ends too early")
        yield head >> 3 & 15, whole[position:end], whole[start:end]
        position = end
    raise TooMany(f"{MAX_UNITS} units of AV1 in a picture")


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and the position after it."""
    value = 0
    for number, byte in enumerate(data[position : position + 8]):
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, position + number + 1
    raise BrokenBox("a unit of its AV1 data is corrupt")


def _read_sequence(bits: Bits) -> _Sequence:
    sequence = _Sequence(bits.read(3), bool(bits.read(2) & 1))
    if sequence.profile > 2:
        raise UnsupportedKind(f"in AV1 profile {sequence.profile}")
    if sequence.reduced:
        sequence.level = bits.read(5)
    else:
        _read_operation(sequence, bits)
    width, height = bits.read(4) + 1, bits.read(4) + 1
    sequence.size = bits.read(width) + 1, bits.read(height) + 1
    if not sequence.reduced and bits.flag():  # frames have numbers
        sequence.id_bits = bits.read(4) + 2
        sequence.id_bits += bits.read(3) + 1
    bits.read(3)  # size of superblocks, filters
    if not sequence.reduced:
        _read_tools(sequence, bits)
    bits.read(3)  # super-resolution, filters
    _read_colours(sequence, bits)
    return sequence


def _read_operation(sequence: _Sequence, bits: Bits) -> None:
    """Timing and operating points; the first point is the one that is decoded."""
    delay = 0
    if bits.flag():
        bits.read(64)
        sequence.equal_intervals = bits.flag()
        if sequence.equal_intervals:
            bits.golomb()
        if bits.flag():  # a model of the decoder
            delay = bits.read(5) + 1
            bits.read(32 + 5)
            sequence.interval_bits = bits.read(5) + 1
    display_delays = bits.flag()
    for number in range(bits.read(5) + 1):
        bits.read(12)
        level = bits.read(5)
        tier = bits.read(1) if level > 7 else 0
        if number == 0:
            sequence.level, sequence.tier = level, tier
        if delay and bits.flag():
            bits.read(2 * delay + 1)
        if display_delays and bits.flag():
            bits.read(4)


def _read_tools(sequence: _Sequence, bits: Bits) -> None:
    bits.read(4)
    order = bits.flag()
    if order:
        bits.read(2)
    chosen = bits.flag()
    sequence.screen_content = _CHOSEN_BY_FRAME if chosen else bits.read(1)
    if sequence.screen_content:
        chosen = bits.flag()
        sequence.integer_vectors = _CHOSEN_BY_FRAME if chosen else bits.read(1)
    if order:
        bits.read(3)


def _read_colours(sequence: _Sequence, bits: Bits) -> None:
    """Bits per sample and subsampling."""
    wide = bits.flag()
    if sequence.profile == 2 and wide:
        sequence.bits = 12 if bits.flag() else 10
    else:
        sequence.bits = 10 if wide else 8
    sequence.grey = sequence.profile != 1 and bits.flag()
    if bits.flag():
        sequence.colours = bits.read(8), bits.read(8), bits.read(8)
    if sequence.colours == _SRGB and not sequence.grey:
        sequence.subsampling = 0, 0
        bits.read(1)
        return
    bits.read(1)  # the range
    if sequence.grey:
        return
    if sequence.profile == 1:
        sequence.subsampling = 0, 0
    elif sequence.profile == 2 and sequence.bits < 12:
        sequence.subsampling = 1, 0
    elif sequence.profile == 2:
        across = bits.read(1)
        sequence.subsampling = across, bits.read(1) if across else 0
    if sequence.subsampling == (1, 1):
        sequence.siting = bits.read(2)
    bits.read(1)


def _check_frame(sequence: _Sequence, bits: Bits) -> None:
    """Refuse a frame that is not complete in itself, or has another size than its sequence."""
    if sequence.reduced:
        return
    if bits.flag() or bits.read(2) != _KEY_FRAME or not bits.flag():
        raise UnsupportedKind("whose first frame is not a picture in itself")
    if not sequence.equal_intervals:
        bits.read(sequence.interval_bits)
    bits.read(1)
    screen_content = sequence.screen_content
    if screen_content == _CHOSEN_BY_FRAME:
        screen_content = bits.read(1)
    if screen_content and sequence.integer_vectors == _CHOSEN_BY_FRAME:
        bits.read(1)
    bits.read(sequence.id_bits)
    if bits.flag():
        raise UnsupportedKind("whose frame has another size than its sequence")
