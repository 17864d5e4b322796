"""WebP: the first frame, without metadata."""

import struct
from collections import Counter
from collections.abc import Iterator

from model.errors import ImageTooLarge, InvalidImage
from model.images.structure.directory import orientation
from model.images.structure.encoded import Canvas, Encoded
from model.images.structure.splice import splice
from model.images.structure.work import check_pixels

MAX_CHUNKS = 16_384

_BROKEN = "the WebP data is truncated or corrupt"
_ALPHA, _LOSSY, _LOSSLESS = b"ALPH", b"VP8 ", b"VP8L"
_ANNOUNCED = {_ALPHA: 0x10, b"ICCP": 0x20, b"EXIF": 0x08}  # flags in the header

Chunks = dict[bytes, memoryview]


def read_webp(data: bytes, max_pixels: int) -> Encoded:
    """The picture of a WebP file; for an animation, the first frame."""
    chunks = _announced(_first_chunks(memoryview(data), 12))
    picture = chunks
    canvas: Canvas | None = None
    if b"ANMF" in chunks:
        picture = _first_chunks(chunks[b"ANMF"], 16)
    image = picture.get(_LOSSY, picture.get(_LOSSLESS))
    if image is None:
        raise InvalidImage(f"{_BROKEN}: it has no picture")
    size = _lossy_size(image) if _LOSSY in picture else _lossless_size(image)
    if b"VP8X" in chunks:
        canvas = _canvas(chunks, size)
        canvas = None if canvas.size == size else canvas
    check_pixels(*(canvas.size if canvas else size), max_pixels)
    check_pixels(*size, max_pixels)
    exif = bytes(chunks.get(b"EXIF", b""))
    profile = bytes(chunks[b"ICCP"]) if b"ICCP" in chunks else None
    return Encoded(
        _write(picture, size),
        _count(picture, size, canvas),
        profile,
        orientation(exif.removeprefix(b"Exif\0\0")) if exif else 1,
        canvas=canvas,
    )


def _first_chunks(data: memoryview, start: int) -> Chunks:
    """The content of the first chunk of each kind."""
    found: Chunks = {}
    for kind, content in _chunks(data, start):
        found.setdefault(kind, content)
    return found


def _announced(chunks: Chunks) -> Chunks:
    """The chunks without those that the header does not announce, which browsers ignore too."""
    flags = bytes(chunks.get(b"VP8X", b""))[:1] or b"\0"
    return {
        kind: content
        for kind, content in chunks.items()
        if kind not in _ANNOUNCED or flags[0] & _ANNOUNCED[kind]
    }


def _chunks(data: memoryview, position: int) -> Iterator[tuple[bytes, memoryview]]:
    for _ in range(MAX_CHUNKS):
        kind = bytes(data[position : position + 4])
        if len(kind) < 4:
            return
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length
        if end > len(data) and kind in (_ALPHA, _LOSSY, _LOSSLESS, b"ANMF"):
            raise InvalidImage(f"{_BROKEN}: part of the picture is missing")
        yield kind, data[position + 8 : end]
        position = end + length % 2
    raise ImageTooLarge(f"the WebP has over {MAX_CHUNKS} chunks; save it with fewer")


def _lossy_size(image: memoryview) -> tuple[int, int]:
    if len(image) < 10 or bytes(image[3:6]) != b"\x9d\x01\x2a":
        raise InvalidImage(f"{_BROKEN}: the picture has no header")
    width, height = struct.unpack_from("<HH", image, 6)
    return width & 0x3FFF, height & 0x3FFF


def _lossless_size(image: memoryview) -> tuple[int, int]:
    if len(image) < 5 or image[0] != 0x2F:
        raise InvalidImage(f"{_BROKEN}: the picture has no header")
    bits = int.from_bytes(image[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _canvas(chunks: Chunks, size: tuple[int, int]) -> Canvas:
    header = bytes(chunks[b"VP8X"][:10]).ljust(10, b"\0")
    canvas = (int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1)
    frame = bytes(chunks[b"ANMF"][:6] if b"ANMF" in chunks else b"").ljust(6, b"\0")
    left, top = (2 * int.from_bytes(frame[i : i + 3], "little") for i in (0, 3))
    if left + size[0] > canvas[0] or top + size[1] > canvas[1]:
        raise InvalidImage(f"{_BROKEN}: the picture is larger than its canvas")
    if b"ANMF" not in chunks and canvas != size:
        raise InvalidImage(f"{_BROKEN}: the picture has another size than its canvas")
    return Canvas(canvas, (left, top))


def _write(picture: Chunks, size: tuple[int, int]) -> bytes:
    """Write a file with this one picture and its alpha channel."""
    parts: list[bytes | memoryview] = [b"WEBP"]
    if _LOSSY in picture and _ALPHA in picture:
        flags = bytes((0x10, 0, 0, 0))
        sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
        parts += _chunk(b"VP8X", flags + sides)
        parts += _chunk(_ALPHA, picture[_ALPHA])
    kind = _LOSSY if _LOSSY in picture else _LOSSLESS
    parts += _chunk(kind, picture[kind])
    return splice(b"RIFF", struct.pack("<I", sum(map(len, parts))), *parts)


def _chunk(kind: bytes, content: bytes | memoryview) -> list[bytes | memoryview]:
    return [kind, struct.pack("<I", len(content)), content, b"\0" * (len(content) % 2)]


def _count(picture: Chunks, size: tuple[int, int], canvas: Canvas | None) -> Counter[str]:
    pixels = size[0] * size[1]
    all_pixels = canvas.size[0] * canvas.size[1] if canvas else pixels
    work = Counter({"pixel": all_pixels, "WebP pixel": pixels})
    work["WebP byte"] = len(picture.get(_LOSSY, b""))
    work["WebP lossless byte"] = len(picture.get(_LOSSLESS, b"")) + len(picture.get(_ALPHA, b""))
    if _ALPHA in picture or _LOSSLESS in picture or canvas:
        work["alpha pixel"] = all_pixels
    if canvas:
        work["converted pixel"] = all_pixels
    return work
