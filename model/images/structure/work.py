"""Limits on the work of a decoder, and the estimated cost of each unit of work.

Readers count units; `NANOSECONDS` is the approximate CPU time of each, measured with Pillow 13 on a
Xeon. A file is refused if its units add up to more than `MAX_SECONDS`. ``tests/model/test_work.py``
searches generated files for the most expensive ones that are accepted. The cost of photos of 50
megapixels is in ``docs/reference/images.md``.
"""

from collections.abc import Mapping

from model.errors import ImageTooLarge

MAX_SECONDS = 2.0
MAX_ROWS = 4_000_000  # each takes 16 bytes in Pillow, apart from its pixels
_DEFAULT_PIXELS = 50_000_000  # with a higher pixel limit, the work limit grows in proportion

NANOSECONDS: Mapping[str, float] = {
    "pixel": 4,  # stored, resampled, converted
    "converted pixel": 10,  # from a palette, one bit or another colour space to RGB, on top
    "alpha pixel": 14,  # converted to RGBA and premultiplied, on top
    "wide pixel": 10,  # 16 or 32 bits scaled to 8, on top
    "row": 30,  # per-row work of decoder and resampler
    "file byte": 8,  # read and copied; Huffman codes decoded
    "deflated byte": 65,  # 12 bytes of deflate or Zstandard may hold new tables and no pixel
    "segment": 2_000,  # a part of a file that is read in Python
    "JPEG block": 60,  # 8 x 8 coefficients to pixels
    "JPEG block in a scan": 40,
    "JPEG byte": 25,
    "PNG byte": 2.6,  # inflated and unfiltered
    "PNG deflated byte": 50,  # less than elsewhere, because PNG's pixels are overestimated
    "PNG row": 40,
    "GIF pixel": 6,
    "WebP pixel": 14,
    "WebP byte": 65,
    "WebP lossless byte": 20,
    "BMP byte": 1,
    "BMP run": 700,
    "BMP masked pixel": 40,
    "TIFF piece": 6_000,  # a strip or tile
    "TIFF byte": 3,  # decoded
    "TIFF fax pixel": 10,
    "TIFF fax row": 400,
    "AVIF tile": 200_000,  # a file of its own for the decoder
    "AVIF pixel": 28,
    "AVIF wide pixel": 8,  # 10 and 12 bits, on top
    "AVIF byte": 30,
    "HEIC tile": 400_000,
    "HEIC sample": 17,  # of a channel; the most expensive photos, while hostile data takes 42
    "HEIC wide sample": 15,  # 10 and 12 bits, on top
    "HEIC byte": 40,
}


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a picture of more than ``max_pixels`` pixels or `MAX_ROWS` rows."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height}, {width * height} pixels; "
            f"at most {max_pixels} pixels are accepted"
        )
    if height > MAX_ROWS:
        raise ImageTooLarge(f"the image has {height} rows; at most {MAX_ROWS} are accepted")


def seconds(work: Mapping[str, int]) -> float:
    """Upper estimate of the CPU seconds for the counted units."""
    return sum(NANOSECONDS[unit] * count for unit, count in work.items()) / 1e9


def check_work(image_format: str, work: Mapping[str, int], max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a file that would take a decoder too long."""
    limit = MAX_SECONDS * max(1.0, max_pixels / _DEFAULT_PIXELS)
    needed = seconds(work)
    if needed > limit:
        raise ImageTooLarge(
            f"decoding the {image_format} would take up to {needed:.1f} s of CPU time; "
            f"at most {limit:.1f} s are accepted: save it smaller or as a baseline JPEG"
        )
