"""Files that take far more work than their pixels, refused by their structure."""

import io
import struct
import time
from contextlib import nullcontext, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import ImageTooLarge
from model.structure import (
    MAX_CHUNKS,
    MAX_RUN_BYTES,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_STRIPS,
    check_structure,
)

from .test_preprocess import encode, photo

MANY_PIXELS = 50_000_000


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


SCAN = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + b"\x12\xff\0\x34\xff\xd0\x56"


def tiff(order: str, big: bool, *entries: tuple[int, int, int, int]) -> bytes:
    """A directory of tag, type, count and value, and no more."""
    mark = b"II" if order == "<" else b"MM"
    start = (43, 8, 0, 16) if big else (42, 8)
    head = struct.pack(order + ("HHHQQ" if big else "HIH"), *start, len(entries))
    rows = []
    for tag, kind, count, value in entries:
        number = struct.pack(order + ("H" if kind == 3 else "I"), value)
        row = struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count)
        rows.append(row + number.ljust(8 if big else 4, b"\0"))
    return mark + head + b"".join(rows)


def test_scans_are_counted_and_nothing_else() -> None:
    check_structure(jpeg(SCAN * MAX_SCANS), "JPEG", MANY_PIXELS)
    check_structure(jpeg(SCAN) + SCAN * 1000, "JPEG", MANY_PIXELS)  # a video behind the picture
    comment = b"\xff\xfe" + (2 + len(SCAN) * 200).to_bytes(2, "big") + SCAN * 200
    check_structure(jpeg(comment, SCAN), "JPEG", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 100 scans"):
        check_structure(jpeg(SCAN * (MAX_SCANS + 1)), "JPEG", MANY_PIXELS)


def test_segments_are_counted() -> None:
    segment = b"\xff\xe1\0\x02"
    check_structure(jpeg(segment * (MAX_SEGMENTS - 1), SCAN), "JPEG", MANY_PIXELS)
    with pytest.raises(ImageTooLarge, match="over 2000 segments"):
        check_structure(jpeg(segment * (MAX_SEGMENTS + 1)), "JPEG", MANY_PIXELS)


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2])
@pytest.mark.parametrize("components", [1, 3])
def test_a_scan_of_all_components_is_the_last_that_a_sequential_decoder_reads(
    frame: int, components: int
) -> None:
    head = b"\xff%c\0\x0b\x08\0\x10\0\x10%c\x01\x11\0" % (frame, components)
    data = jpeg(head, SCAN * 1000)
    if frame != 0xC2 and components == 1:
        check_structure(data, "JPEG", MANY_PIXELS)
    else:
        with pytest.raises(ImageTooLarge, match="over 100 scans"):
            check_structure(data, "JPEG", MANY_PIXELS)


def test_a_decoder_goes_over_a_sequential_jpeg_but_once() -> None:
    def seconds(data: bytes) -> float:
        begun = time.perf_counter()
        with suppress(OSError):
            Image.open(io.BytesIO(data)).load()
        return time.perf_counter() - begun

    once = encode(Image.new("RGB", (4000, 4000), "grey"), "JPEG")
    scan = once[once.rindex(b"\xff\xda") : -2]
    often = once[:-2] + scan * 100 + once[-2:]
    check_structure(often, "JPEG", MANY_PIXELS)
    assert seconds(often) < 20 * min(seconds(once) for _ in range(3))


def test_chunks_of_a_png_are_counted() -> None:
    chunk = b"\0\0\0\x04tEXt" + b"a\0b." + bytes(4)
    head = b"\x89PNG\r\n\x1a\n"
    check_structure(head + chunk * MAX_CHUNKS, "PNG", MANY_PIXELS)
    check_structure(head + b"\xff" * 1000, "PNG", MANY_PIXELS)
    check_structure(head, "PNG", MANY_PIXELS)
    end = b"\0\0\0\0IEND" + bytes(4)
    check_structure(head + end + bytes(12 * MAX_CHUNKS), "PNG", MANY_PIXELS)  # behind the picture
    with pytest.raises(ImageTooLarge, match="over 65536 chunks"):
        check_structure(head + chunk * (MAX_CHUNKS + 1), "PNG", MANY_PIXELS)


@pytest.mark.parametrize(("compression", "accepted"), [(0, True), (1, False), (2, False)])
def test_runs_of_a_bmp_are_bounded(compression: int, accepted: bool) -> None:
    head = b"BM".ljust(30, b"\0") + compression.to_bytes(4, "little")
    check_structure(head.ljust(MAX_RUN_BYTES, b"\1"), "BMP", MANY_PIXELS)
    with nullcontext() if accepted else pytest.raises(ImageTooLarge, match="bytes of runs"):
        check_structure(head.ljust(MAX_RUN_BYTES + 1, b"\1"), "BMP", MANY_PIXELS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [3, 4])
def test_pieces_and_tiles_of_a_tiff_are_bounded(order: str, big: bool, kind: int) -> None:
    check_structure(tiff(order, big, (273, 4, MAX_STRIPS, 8)), "TIFF", MANY_PIXELS)
    for tag in (273, 324):
        with pytest.raises(ImageTooLarge, match="over 65536 pieces"):
            check_structure(tiff(order, big, (tag, 4, MAX_STRIPS + 1, 8)), "TIFF", MANY_PIXELS)
    tile = tiff(order, big, (322, kind, 1, 1000), (323, kind, 1, 2000))
    check_structure(tile, "TIFF", 2_000_000)
    with pytest.raises(ImageTooLarge, match="a tile of the TIFF is 1000 x 2000"):
        check_structure(tile, "TIFF", 1_999_999)


@pytest.mark.parametrize("cut", [4, 7, 9, 12, 20, 30])
def test_a_directory_that_ends_too_early_is_left_to_the_decoder(cut: int) -> None:
    check_structure(tiff("<", False, (322, 4, 1, 9), (323, 4, 1, 9))[:cut], "TIFF", 10**9)


@given(st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8\xff"]), st.binary())
def test_whatever_comes_nothing_but_a_refusal_comes_of_it(head: bytes, rest: bytes) -> None:
    for image_format in ("JPEG", "PNG", "BMP", "TIFF"):
        with suppress(ImageTooLarge):
            check_structure(head + rest, image_format, 100)


@pytest.mark.parametrize("start", [2**62, 2**63, 2**64 - 1])
def test_a_directory_beyond_all_bounds_is_left_to_the_decoder(start: int) -> None:
    check_structure(b"II" + struct.pack("<HHHQ", 43, 8, 0, start), "TIFF", 10**9)


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_usual_files_pass(image_format: str, options: dict[str, bool]) -> None:
    profile = {"icc_profile": bytes(3_000_000)} if image_format == "JPEG" else {}
    data = encode(photo(1600, 1200), image_format, **options, **profile)
    check_structure(data, image_format, MANY_PIXELS)
    assert Image.open(io.BytesIO(data)).format == image_format
