"""The maximum decoding time of any accepted file.

CPU time is measured relative to a reference in the same process: the constants of
`model.images.structure.work` come from a machine on which it takes `REFERENCE_SECONDS`. The limit
adds a half, since other processes compete for caches and memory.
"""

import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random

import pytest
from PIL import Image

from model.errors import ImageError, ImageTooLarge
from model.images.formats import sniff_format
from model.images.preprocess import DEFAULT_MAX_PIXELS, preprocess_sizes
from model.images.structure import read_structure
from model.images.structure.bmp import MAX_RUN_ROW
from model.images.structure.work import MAX_ROWS, MAX_SECONDS, NANOSECONDS, check_work, seconds
from model.spec import PreprocessSpec
from tests.hostile import bmp, encode, jpeg_segment
from tests.pictures import chunk

from .costly import Family, families
from .tiffs import DEFLATE, LONG, SHORT, Tags, write_tiff

pytestmark = pytest.mark.thorough

SPEC = PreprocessSpec(image_size=224)
SIZES = (224, 448)  # for a prediction and for an explanation
REFERENCE_SECONDS = 0.15  # of `reference`, where the constants were measured
ATTEMPTS = 3  # the fastest counts
SIDE = 7071  # of a square of 50 megapixels
FAMILIES = {family.name: family for family in families()}
# One of each kind, quick to build, among the most expensive that the search finds. The last two
# are the quickest.
COSTLY = (
    "GIF of one pixel on a large canvas",
    "GIF with comments",
    "BMP in runs of 8 bits, short runs, wide",
    "JPEG of 10 empty scans, square, without an end",
    "PNG colour 6, 8 bits, behind empty blocks",
    "TIFF RGBA, behind empty blocks",
    "TIFF JPEG of 30 scans, tiles of 512",
    "TIFF fax 3, rows, square",
    "AVIF in tiles of 256, small blocks, 4:2:0",
    "HEIC of cheap data, 8 bits, 4:4:4, square",
    "TIFF palette, rows, square, zstd",
)
# Multiple of the limit for the families whose names begin with these words.
ALLOWED = {"HEIC of cheap data": 1.2}


def reference() -> float:
    """CPU seconds of work similar to a decoder's."""
    image = Image.new("RGBA", (4000, 4000))
    begun = time.thread_time()
    image.resize((224, 224), Image.Resampling.BICUBIC)
    return time.thread_time() - begun


@pytest.fixture
def limit() -> float:
    """CPU seconds that a file may take on this machine now."""
    return 1.5 * MAX_SECONDS * max(1.0, min(reference() for _ in range(3)) / REFERENCE_SECONDS)


def measure(data: bytes) -> float:
    """CPU seconds until there are pixels or an error, in all threads, as libde265 has its own."""
    begun = time.process_time()
    with suppress(ImageError):
        preprocess_sizes(data, SPEC, SIZES)
    return time.process_time() - begun


def is_within(limit: float, data: bytes, name: str = "") -> bool:
    allowed = limit * ALLOWED.get(name.partition(",")[0], 1)
    return any(measure(data) < allowed for _ in range(ATTEMPTS))


def estimate(data: bytes) -> float:
    """Estimated seconds from the structure; raises if the file is refused."""
    return seconds(read_structure(data, sniff_format(data), DEFAULT_MAX_PIXELS).work)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.thorough) for name in COSTLY[:-2]),
        *COSTLY[-2:],
    ],
)
def test_most_expensive_accepted_file_is_within_the_limit(name: str, limit: float) -> None:
    worst = FAMILIES[name].worst()
    assert worst is not None
    assert estimate(worst) <= MAX_SECONDS
    assert is_within(limit, worst, name)


def chosen() -> list[Family]:
    """All families except TIFF, and a tenth of those."""
    names = list(FAMILIES)
    others = [name for name in names if not name.startswith("TIFF")]
    tiffs = [name for name in names if name.startswith("TIFF")]
    return [FAMILIES[name] for name in others + Random(39).sample(tiffs, len(tiffs) // 10)]


@pytest.mark.slow
@pytest.mark.parametrize("family", chosen(), ids=lambda family: family.name)
def test_search_finds_no_file_beyond_the_limit(family: Family, limit: float) -> None:
    worst = family.worst()
    if worst is not None:
        assert estimate(worst) <= MAX_SECONDS
        assert is_within(limit, worst, family.name)


def honest_jpeg(*, progressive: bool) -> bytes:
    """A photo of 50 megapixels with 10 MB of coefficients, in a usual encoder's scans."""
    data = encode(Image.new("RGB", (64, 48)), "JPEG", progressive=progressive)
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data = data[: frame + 5] + struct.pack(">HH", SIDE, SIDE) + data[frame + 9 :]
    scans = data.split(b"\xff\xda")
    filling = b"x" * (10 * 2**20 // len(scans[1:]))
    profile = jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(3144))
    scans[0] = scans[0][:2] + profile + scans[0][2:]
    return b"\xff\xda".join([scans[0], *(scan[:12] + filling + scan[12:] for scan in scans[1:])])


def honest_png(colour: int, depth: int, megabytes: int) -> bytes:
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", bytes(8192)) for _ in range(megabytes * 128))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    parts = [chunk(b"IHDR", header), palette, pixels, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def honest_webp(megabytes: int) -> bytes:
    """A lossy photo with metadata."""
    image = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", SIDE, SIDE) + bytes(megabytes * 2**20)
    sides = 2 * (SIDE - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I4x", 10) + sides
    body += b"VP8 " + struct.pack("<I", len(image)) + image
    return b"RIFF" + struct.pack("<I", len(body)) + body


def honest_tiff(samples: int, bits: int, tile: int, compression: int, megabytes: int) -> bytes:
    number = (-(-SIDE // tile)) ** 2
    tags: Tags = {256: (LONG, SIDE), 257: (LONG, SIDE), 258: (SHORT, [bits] * samples)}
    tags |= {259: (SHORT, compression), 262: (SHORT, 2 if samples > 2 else 1)}
    tags |= {277: (SHORT, samples), 322: (LONG, tile), 323: (LONG, tile), 317: (SHORT, 2)}
    piece = bytes(megabytes * 2**20 // number)
    return write_tiff(tags, [piece] * number, tiled=True)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(honest_jpeg, progressive=False), id="JPEG"),
        pytest.param(partial(honest_jpeg, progressive=True), id="progressive JPEG"),
        *(
            pytest.param(partial(honest_png, *kind), id=f"PNG, colour {kind[0]}, {kind[1]} bits")
            for kind in (
                (0, 8, 19),
                (0, 16, 19),
                (2, 8, 19),
                (2, 16, 19),
                (3, 8, 19),
                (4, 8, 6),
                (6, 8, 10),
            )
        ),
        pytest.param(partial(honest_webp, 15), id="WebP"),
        pytest.param(partial(honest_tiff, 3, 8, 256, 5, 19), id="TIFF, LZW, tiles of 256"),
        pytest.param(partial(honest_tiff, 3, 8, 512, DEFLATE, 19), id="TIFF, deflate"),
        pytest.param(partial(honest_tiff, 3, 16, 512, DEFLATE, 12), id="TIFF, 16 bits, deflate"),
        pytest.param(partial(honest_tiff, 4, 8, 512, DEFLATE, 6), id="TIFF, RGBA, deflate"),
    ],
)
def test_photos_of_50_megapixels_are_accepted(make: Callable[[], bytes]) -> None:
    data = make()
    assert len(data) <= 20 * 2**20
    assert 0.1 < estimate(data) <= MAX_SECONDS


def test_repeated_tiff_tiles_are_counted_each_time() -> None:
    tile = zlib.compress(bytes(7000 * 7000), 9)
    tags: Tags = {256: (LONG, 1), 257: (LONG, 700_000), 258: (SHORT, 8), 277: (SHORT, 1)}
    tags |= {259: (SHORT, DEFLATE), 262: (SHORT, 1), 322: (LONG, 7000), 323: (LONG, 7000)}
    data = write_tiff(tags, [tile], tiled=True, times=100)
    with pytest.raises(ImageTooLarge, match=r"decoding the TIFF would take up to \d+\.\d s"):
        estimate(data)


def test_long_bmp_rows_are_not_copied_for_each_run(limit: float) -> None:
    data = bmp((MAX_RUN_ROW, 47), 8, 1, bytes(1024), b"\xff\0" * 10 + b"\0\1")
    assert estimate(data) <= MAX_SECONDS
    assert is_within(limit, data)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_padded_rows_are_not_copied_one_by_one(width: int, limit: float) -> None:
    data = bmp((width, MAX_ROWS), 8, 1, bytes(1024), b"\xff\0" * 10 + b"\0\1")
    assert estimate(data) <= MAX_SECONDS
    assert is_within(limit, data)


def test_runs_of_a_refused_bmp_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.images.structure.bmp._unroll", None)
    monkeypatch.setattr("model.images.structure.work.MAX_SECONDS", 0.1)
    with pytest.raises(ImageTooLarge, match=r"decoding the BMP would take up to \d\.\d s"):
        estimate(bmp((47, 1_000_000), 8, 1, bytes(1024), b"\xff\0" * 10**6))


@pytest.mark.parametrize("width", [1, 7])
def test_number_of_rows_is_limited_separately(width: int) -> None:
    header = struct.pack(">IIBBBBB", width, MAX_ROWS + 1, 8, 0, 0, 0, 0)
    with pytest.raises(ImageTooLarge, match="has 4000001 rows; at most 4000000 are accepted"):
        estimate(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))


def test_only_one_of_many_profiles_is_inflated(limit: float) -> None:
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20)))
    data = encode(Image.new("RGB", (32, 32)), "PNG")
    assert is_within(limit, data[:33] + profile * 15_000 + data[33:])


def test_work_limit_grows_with_the_pixel_limit() -> None:
    work = Counter({"pixel": round(1.5 * MAX_SECONDS * 1e9 / NANOSECONDS["pixel"])})
    with pytest.raises(ImageTooLarge, match=r"at most 2\.0 s are accepted"):
        check_work("PNG", work, DEFAULT_MAX_PIXELS)
    check_work("PNG", work, 2 * DEFAULT_MAX_PIXELS)
    with pytest.raises(ImageTooLarge):
        check_work("PNG", work, 1000)
