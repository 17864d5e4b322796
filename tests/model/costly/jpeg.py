"""JPEG: components, sampling, scans, shapes, contents, segments."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product

from PIL import Image

from tests.hostile import encode, jpeg_segment, scan_bomb

from .family import CONTENTS, SHAPES, Family, plane, repeated, sides


def jpegs() -> Iterator[Family]:
    modes = ("L", "RGB", "CMYK")
    for mode, progressive, sampling in product(modes, (False, True), (0, 2)):
        for filling, ratio in product(CONTENTS, (1.0, 40.0, 1 / 40)):
            if mode != "RGB" and sampling:
                continue
            name = f"JPEG {mode}, {'progressive' if progressive else 'baseline'}, {filling}"
            build = partial(_jpeg, mode, sampling, filling, ratio, progressive=progressive)
            yield Family(f"{name}, sampling {sampling}, {ratio:.2g} : 1", build)
    for scans, shape, end in product((1, 10, 90), ("square", "strip"), ("with", "without")):
        build = partial(_empty_scans, scans, SHAPES[shape], complete=end == "with")
        yield Family(f"JPEG of {scans} empty scans, {shape}, {end} an end", build)
    for name, one in {
        "comments": jpeg_segment(0xFE, b""),
        "large comments": jpeg_segment(0xFE, bytes(10_000)),
        "profiles": jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(10_000)),
        "EXIF": jpeg_segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\x0f\xff" + bytes(49_140)),
        "tables": jpeg_segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0"),
        "fill bytes": b"\xff" * 8_000,
        "stuffing": b"\xff\0" * 4_000,
    }.items():
        yield Family(f"JPEG with {name}", partial(_jpeg_with, repeated(one, 2_200)))


@cache
def _jpeg(
    mode: str, sampling: int, filling: str, ratio: float, size: int, *, progressive: bool
) -> bytes:
    width, height = sides(size, ratio, 65535)
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    if filling == "noise":  # limited to 20 MiB
        width, height = sides(max(1, size * 7 // (8 * channels)), ratio, 65535)
    bands = [plane(width, height, filling) for _ in range(channels)]
    image = bands[0] if mode == "L" else Image.merge(mode, bands)
    options = {"subsampling": sampling} if mode == "RGB" else {}
    return encode(image, "JPEG", quality=97, progressive=progressive, **options)


def _empty_scans(scans: int, ratio: float, size: int, *, complete: bool) -> bytes:
    data = scan_bomb(*sides(size, ratio, 65535), scans)
    return data if complete else data[:-2]


def _jpeg_with(segments: Callable[[int], bytes], size: int) -> bytes:
    data = encode(Image.new("RGB", (4000, 4000)), "JPEG")
    return data[:2] + segments(size) + data[2:]
