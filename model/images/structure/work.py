"""How much work a decoder may be given, and what each part of it takes.

Readers count units; `NANOSECONDS` is about what one of each takes a core, measured with Pillow 13
on a Xeon. A file is refused if its units add up to more than `MAX_SECONDS`. A search over generated
files, ``tests/model/test_work.py``, looks for the costliest that is accepted. What photos of 50
megapixels take is in ``docs/reference/images.md``.
"""

from collections.abc import Mapping

from model.errors import ImageTooLarge

MAX_SECONDS = 2.0
MAX_ROWS = 4_000_000  # Pillow takes 16 bytes for each beside its pixels
_DEFAULT_PIXELS = 50_000_000  # with a higher limit on pixels the limit on work grows in proportion

NANOSECONDS: Mapping[str, float] = {
    "pixel": 4,  # stored, resampled, converted
    "converted pixel": 10,  # from a palette, one bit or another colour space to RGB, on top
    "alpha pixel": 14,  # converted to RGBA and premultiplied, on top
    "wide pixel": 10,  # 16 or 32 bits scaled to 8, on top
    "row": 30,  # work of a decoder and a resampler once a row
    "file byte": 8,  # read and copied; Huffman codes decoded
    "deflated byte": 65,  # 12 bytes of deflate or Zstandard may bring new tables and no pixel
    "segment": 2_000,  # a piece of a file that is read in Python
    "JPEG block": 60,  # 8 x 8 coefficients to pixels
    "JPEG block in a scan": 40,
    "JPEG byte": 25,
    "PNG byte": 2.6,  # inflated and unfiltered
    "PNG deflated byte": 50,  # less than elsewhere, as the costs of PNG's pixels are generous
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
}


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a picture of more than ``max_pixels``, or `MAX_ROWS`."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height}, {width * height} pixels; "
            f"at most {max_pixels} pixels are accepted"
        )
    if height > MAX_ROWS:
        raise ImageTooLarge(f"the image has {height} rows; at most {MAX_ROWS} are accepted")


def seconds(work: Mapping[str, int]) -> float:
    """Seconds of a core that the counted units take, at most."""
    return sum(NANOSECONDS[unit] * count for unit, count in work.items()) / 1e9


def check_work(image_format: str, work: Mapping[str, int], max_pixels: int) -> None:
    """Raise `ImageTooLarge` for a file that takes a decoder too long."""
    limit = MAX_SECONDS * max(1.0, max_pixels / _DEFAULT_PIXELS)
    needed = seconds(work)
    if needed > limit:
        raise ImageTooLarge(
            f"decoding the {image_format} would take up to {needed:.1f} s of a core; "
            f"at most {limit:.1f} s are accepted: save it smaller or as a baseline JPEG"
        )
