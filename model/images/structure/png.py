"""PNG: keeps only the chunks that make the pixels."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.structure.directory import orientation
from model.images.structure.encoded import Encoded, Greys
from model.images.structure.splice import splice
from model.images.structure.work import check_pixels

MAX_CHUNKS = 65_536  # encoders write chunks of 8 KB or more
MAX_PROFILE_BYTES = 4 * 2**20

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_GREY, _COLOUR, _PALETTE, _GREY_AND_ALPHA = 0, 2, 3, 4
_SCALES = {2: 85, 4: 17}  # Pillow's factor for grey samples, by their bits


@dataclass(slots=True)
class _Parts:
    """The content of the relevant chunks."""

    number: int = 0
    header: bytes = b""
    image: list[memoryview] = field(default_factory=list)
    image_ends: bool = True
    others: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def pixels(self) -> Sequence[memoryview]:
        """The compressed pixels, without the last byte of their checksum.

        Pillow then does not verify it, like browsers. If rows are missing, Pillow also waits for
        more data; after a complete checksum it would fill them with black.
        """
        pieces = [piece for piece in self.image if piece]
        if pieces and self.image_ends:
            pieces[-1] = pieces[-1][:-1]
        return pieces


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool


def read_png(data: bytes, max_pixels: int) -> Encoded:
    """The picture of a PNG file; for an animation, the default image."""
    parts = _collect(data)
    header = _read_header(parts.header)
    check_pixels(header.width, header.height, max_pixels)
    if header.colour == _PALETTE and b"PLTE" not in parts.others:
        raise InvalidImage(
            "the PNG data is corrupt: its palette is missing or has a wrong checksum"
        )
    transparent = _transparent(header, parts.others)
    chunks: list[tuple[bytes, Sequence[bytes | memoryview]]] = [(b"IHDR", [parts.header[:13]])]
    if b"PLTE" in parts.others:
        chunks.append((b"PLTE", [parts.others[b"PLTE"]]))
    if transparent and header.depth < 16:
        chunks.append((b"tRNS", [transparent]))
    chunks += [(b"IDAT", parts.pixels), (b"IEND", [])]
    greys = Greys(white=65535.0)
    if transparent and header.depth == 16:
        greys = Greys(white=65535.0, transparent=int.from_bytes(transparent, "big"))
    exif = parts.others.get(b"eXIf", b"")
    profile = parts.others.get(b"iCCP", b"")[:MAX_PROFILE_BYTES]
    deflated = len(profile) + sum(map(len, parts.image))
    work = _count(header, deflated, transparent=bool(transparent))
    work["segment"] = parts.number
    return Encoded(
        splice(_SIGNATURE, *(part for kind, content in chunks for part in _chunk(kind, content))),
        work,
        _inflate_profile(profile),
        orientation(exif.removeprefix(b"Exif\0\0")) if exif else 1,
        greys=greys,
    )


def _collect(data: bytes) -> _Parts:
    """The first chunk of each kind, without chunks whose checksum is wrong.

    Checksums of the pixels are not verified, as in browsers.
    """
    parts = _Parts()
    for kind, content, sound in _chunks(data):
        parts.number += 1
        if kind == b"IDAT":
            parts.image.append(content)
            parts.image_ends = sound.end <= len(data)
        elif kind == b"IHDR" and not parts.header:
            parts.header = bytes(content)
        elif kind in (b"PLTE", b"tRNS", b"iCCP") and parts.image:
            continue
        elif kind in (b"PLTE", b"tRNS", b"iCCP", b"eXIf") and sound():
            parts.others.setdefault(kind, bytes(content))
        elif kind.isalpha() and kind[:1].isupper() and kind not in _CRITICAL:
            name = kind.decode()
            raise UnsupportedImage(
                f"PNG with a chunk {name} is not supported; save it as plain PNG"
            )
    return parts


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, "_Checksum"]]:
    """Each chunk up to the end: its kind, its content and its checksum."""
    position = len(_SIGNATURE)
    whole = memoryview(data)
    for _ in range(MAX_CHUNKS):
        kind = data[position + 4 : position + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        checksum = _Checksum(data, position + 4, end)
        if kind == b"IHDR" and not checksum():
            raise InvalidImage("the PNG header is truncated or corrupt: its checksum is wrong")
        yield kind, whole[position + 8 : end], checksum
        position = end + 4
    raise ImageTooLarge(f"the PNG has over {MAX_CHUNKS} chunks; save it with fewer")


@dataclass(frozen=True, slots=True)
class _Checksum:
    """Whether a chunk is complete and its checksum is right; computed when called."""

    data: bytes
    start: int
    end: int

    def __call__(self) -> bool:
        stored = self.data[self.end : self.end + 4]
        computed = zlib.crc32(memoryview(self.data)[self.start : self.end])
        return stored == computed.to_bytes(4, "big")


def _read_header(content: bytes) -> _Header:
    if len(content) < 13:
        raise InvalidImage("the PNG header is truncated or corrupt")
    width, height, depth, colour, compression, filters, interlace = struct.unpack_from(
        ">IIBBBBB", content
    )
    sound = depth in _DEPTHS.get(colour, ()) and not compression and not filters
    if not (sound and width and height and interlace in (0, 1)):
        raise InvalidImage("the PNG header is truncated or corrupt")
    return _Header(width, height, depth, colour, bool(interlace))


def _transparent(header: _Header, chunks: Mapping[bytes, bytes]) -> bytes | None:
    """The content of tRNS, converted to what Pillow compares pixels with."""
    content = chunks.get(b"tRNS")
    if content is None:
        return None
    if header.colour == _PALETTE:
        order = [*chunks]
        behind = order.index(b"PLTE") < order.index(b"tRNS")
        return content if behind and len(content) <= len(chunks[b"PLTE"]) // 3 else None
    if header.colour not in (_GREY, _COLOUR) or len(content) < 2 * _CHANNELS[header.colour]:
        return None
    if header.colour == _COLOUR:
        if header.depth == 16:
            raise UnsupportedImage(
                "PNG with 16-bit colours and a transparent colour is not supported; "
                "save it with an alpha channel"
            )
        return bytes(byte if i % 2 else 0 for i, byte in enumerate(content[:6]))
    level = int.from_bytes(content[:2], "big") & (2**header.depth - 1)
    return (level * _SCALES.get(header.depth, 1)).to_bytes(2, "big")


def _count(header: _Header, deflated: int, *, transparent: bool) -> Counter[str]:
    pixels = header.width * header.height
    channels = _CHANNELS[header.colour]
    row = -(-header.width * header.depth * channels // 8)
    rows = header.height * (2 if header.interlaced else 1)
    work = Counter({"pixel": pixels, "row": header.height, "PNG row": rows})
    work["PNG byte"] = header.height * (row + 1) * (2 if header.interlaced else 1)
    work["PNG deflated byte"] = deflated
    if transparent or channels in (2, 4):
        work["alpha pixel"] = pixels
    if header.colour in (_PALETTE, _GREY_AND_ALPHA) or header.depth == 1:
        work["converted pixel"] = pixels
    if header.depth == 16 and header.colour == _GREY:
        work["wide pixel"] = pixels
    return work


def _inflate_profile(content: bytes) -> bytes | None:
    """The colour profile of an iCCP chunk; None if it is broken or over `MAX_PROFILE_BYTES`."""
    _, found, rest = content.partition(b"\0")
    if not found or rest[:1] != b"\0":
        return None
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflate.eof else None


def _chunk(kind: bytes, content: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A chunk, as parts to join."""
    checksum = zlib.crc32(kind)
    for part in content:
        checksum = zlib.crc32(part, checksum)
    length = sum(map(len, content))
    return [struct.pack(">I", length), kind, *content, struct.pack(">I", checksum)]
