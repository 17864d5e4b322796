"""JPEG: scans, tables, colour profile and orientation."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.structure.directory import orientation
from model.images.structure.encoded import Encoded
from model.images.structure.splice import splice
from model.images.structure.work import check_pixels

MAX_SCANS = 100  # encoders write about 10
MAX_SEGMENTS = 2_000  # a large colour profile has 300
MAX_TABLE_BYTES = 2**16  # four quantization tables and eight Huffman tables take 2 KiB
MAX_PROFILE_BYTES = 4 * 2**20

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_REFUSED_FRAMES = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA), "JPEG with arithmetic coding"),
}
_START_OF_SCAN, _END = 0xDA, 0xD9
_TABLES = {0xC4, 0xDB, 0xDD}  # Huffman and quantization tables, restart interval
_EXIF, _PROFILE, _ADOBE, _JFIF = 0xE1, 0xE2, 0xEE, 0xE0
_STANDALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a restart nor data
_WINDOW = 2**18  # bytes searched before other threads may run


@dataclass(slots=True)
class _Head:
    """The segments before the first scan."""

    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    table_bytes: int = 0
    frame: bytes = b""
    frame_marker: int = 0
    exif: bytes = b""
    profile: dict[int, bytes] = field(default_factory=dict)
    profile_parts: int = 0


def read_jpeg(data: bytes, max_pixels: int) -> Encoded:
    """The first picture of a JPEG file."""
    head = _Head()
    segments = _segments(data)
    for number, (marker, start, end) in enumerate(segments):  # noqa: B007, the last counts
        if marker == _START_OF_SCAN:
            break
        _read_segment(head, marker, data[start - 2 : end])
    else:
        raise InvalidImage("the JPEG data is truncated or corrupt: it has no scan")
    _check_frame(head, max_pixels)
    work, complete = _follow_scans(head, data, start, segments)
    work["segment"] += number
    return Encoded(
        _without_metadata(head, data, start - 2, complete=complete),
        work,
        _profile(head),
        orientation(head.exif) if head.exif else 1,
        complete,
    )


def _without_metadata(head: _Head, data: bytes, scan: int, *, complete: bool) -> bytes:
    """The kept segments and everything from the first scan on; ``data`` itself if unchanged."""
    if complete and sum(map(len, head.kept)) == scan:
        return data
    end = len(data) if complete else len(data.rstrip(b"\xff"))  # drop half an end marker
    return splice(*head.kept, memoryview(data)[scan:end])


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Segments of the first picture: marker, position of the length, and end."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.match(data, position) or _find_marker(data, position)
        if match is None:
            return
        start = match.end()
        marker = data[start - 1]
        position = start
        if marker not in _STANDALONE:
            position += max(2, int.from_bytes(data[start : start + 2], "big"))
        yield marker, start, position
        if marker == _END:
            return
    raise ImageTooLarge(f"the JPEG has over {MAX_SEGMENTS} segments; save it without them")


def _find_marker(data: bytes, position: int) -> re.Match[bytes] | None:
    for start in range(position, len(data), _WINDOW):
        if match := _MARKER.search(data, start, start + _WINDOW + 1):
            return match
    return None


def _read_segment(head: _Head, marker: int, segment: bytes) -> None:
    """Keep a segment if the decoder needs it, and record the profile and orientation."""
    content = segment[4:]
    if marker in (_BASELINE, _EXTENDED, _PROGRESSIVE):
        if head.frame:
            raise InvalidImage("the JPEG data is corrupt: it has two frames")
        head.frame_marker, head.frame = marker, content
        head.kept.append(segment)
    elif marker in _REFUSED_FRAMES:
        raise UnsupportedImage(
            f"{_REFUSED_FRAMES[marker]} is not supported; save it as baseline JPEG"
        )
    elif marker in _TABLES:
        _keep_table(head, segment)
    elif marker == _EXIF and content[:5] == b"Exif\0":
        head.exif = head.exif or content[6:]
    elif marker == _PROFILE and content[:12] == b"ICC_PROFILE\0":
        head.profile.setdefault(content[12] if len(content) > 13 else 0, content[14:])
        head.profile_parts = content[13] if len(content) > 13 else 0
    elif (marker == _JFIF and content[:5] == b"JFIF\0") or (
        marker == _ADOBE and content[:5] == b"Adobe"
    ):
        _keep_table(head, segment)


def _keep_table(head: _Head, segment: bytes) -> None:
    head.table_bytes += len(segment)
    if head.table_bytes > MAX_TABLE_BYTES:
        raise ImageTooLarge(f"the JPEG has over {MAX_TABLE_BYTES} bytes of tables; save it again")
    head.kept.append(segment)


def _check_frame(head: _Head, max_pixels: int) -> None:
    frame = head.frame
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise InvalidImage("the JPEG data is truncated or corrupt: it has no frame header")
    if frame[0] != 8:
        raise UnsupportedImage(
            f"JPEG with {frame[0]}-bit samples is not supported; save it with 8 bits"
        )
    if frame[5] not in (1, 3, 4):
        raise UnsupportedImage(f"JPEG with {frame[5]} components is not supported")
    if frame[1:3] == b"\0\0":
        raise UnsupportedImage("JPEG without a height in its frame header is not supported")
    check_pixels(*_size(frame), max_pixels)


def _size(frame: bytes) -> tuple[int, int]:
    return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")


def _blocks(frame: bytes) -> list[int]:
    """Number of blocks of 8 x 8 coefficients in each component."""
    factors = frame[7 : 6 + 3 * frame[5] : 3]
    across = [factor >> 4 or 1 for factor in factors]
    down = [factor & 15 or 1 for factor in factors]
    width, height = _size(frame)
    units = -(-width // (8 * max(across))) * -(-height // (8 * max(down)))
    return [units * h * v for h, v in zip(across, down, strict=True)]


def _follow_scans(
    head: _Head, data: bytes, start: int, segments: Iterator[tuple[int, int, int]]
) -> tuple[Counter[str], bool]:
    """The work of all scans from ``start`` on, and whether the end of the picture was found."""
    blocks = _blocks(head.frame)
    pixels = _size(head.frame)[0] * _size(head.frame)[1]
    work = Counter({"pixel": pixels, "JPEG block": sum(blocks), "JPEG byte": len(data) - start})
    scans = [start]
    if head.frame_marker != _PROGRESSIVE and data[start + 2] == len(blocks):
        complete = data.rfind(b"\xff\xd9", start) >= 0  # a single scan contains everything
    else:
        complete = _find_scans(scans, work, segments)
    work["JPEG block in a scan"] = sum(_blocks_of_scan(data, scan, blocks) for scan in scans)
    if complete:
        return work, True
    if not _has_all_scans(head.frame, [data[scan : scan + 14] for scan in scans]):
        raise InvalidImage("the JPEG data is truncated: whole scans are missing at its end")
    return Counter({unit: 3 * count for unit, count in work.items()}), False


def _find_scans(
    scans: list[int], work: Counter[str], segments: Iterator[tuple[int, int, int]]
) -> bool:
    """Add the positions of all scans after the first; returns whether the end was found."""
    for marker, place, _ in segments:
        work["segment"] += 1
        if marker == _END:
            return True
        if marker == _START_OF_SCAN:
            scans.append(place)
        if len(scans) > MAX_SCANS:
            raise ImageTooLarge(f"the JPEG has over {MAX_SCANS} scans; save it with fewer")
    return False


def _has_all_scans(frame: bytes, scans: list[bytes]) -> bool:
    """Whether the scans contain every bit of every coefficient of every component."""
    missing = {frame[i]: set(range(64)) for i in range(6, 6 + 3 * frame[5], 3)}
    for header in scans:
        number = header[2] if len(header) > 2 else 0
        if len(header) < 6 + 2 * number:
            return False
        first, last, bits = header[3 + 2 * number : 6 + 2 * number]
        if bits & 15 == 0:
            for component in header[3 : 3 + 2 * number : 2]:
                missing.get(component, set()).difference_update(range(first, last + 1))
    return not any(missing.values())


def _blocks_of_scan(data: bytes, start: int, blocks: list[int]) -> int:
    components = data[start + 2] if start + 2 < len(data) else 0
    return sum(blocks) if components != 1 else max(blocks)


def _profile(head: _Head) -> bytes | None:
    """The assembled colour profile; None if parts are missing."""
    parts = head.profile_parts
    if not parts or sorted(head.profile) != list(range(1, parts + 1)):
        return None
    return b"".join(head.profile[number] for number in range(1, parts + 1))
