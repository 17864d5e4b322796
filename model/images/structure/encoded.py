"""The result of reading an image file's structure."""

from collections import Counter
from dataclasses import dataclass, field


def public_name(image_format: str) -> str:
    """The usual spelling of Pillow's name for a format."""
    return "WebP" if image_format == "WEBP" else image_format


@dataclass(frozen=True, slots=True)
class Canvas:
    """The full picture around a smaller first frame; transparent outside the frame.

    Sizes and positions are in pixels, as (width, height) and (left, top).
    """

    size: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Greys:
    """How wide grey samples become pixels.

    Attributes:
        white: sample value of white; None if the file does not say.
        inverted: whether 0 is white.
        unsigned: whether 32-bit integers are unsigned.
        swapped: whether Pillow reads the bytes of each sample in the wrong order.
        transparent: sample value that is transparent, if any.
    """

    white: float | None = None
    inverted: bool = False
    unsigned: bool = False
    swapped: bool = False
    transparent: int | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file for Pillow, with its cost and metadata.

    Attributes:
        data: the file.
        work: number of each unit in `model.images.structure.work` for the decoder.
        profile: the ICC profile.
        orientation: as in EXIF; 1 is upright.
        complete: False if the end of the file is missing, so that pixels may be missing too.
        canvas: the canvas of the frame, if the frame is not the whole picture.
        greys: for pictures with one wide sample per pixel.
        block: bytes that Pillow reads at once from an uncompressed file; see `rows_of_a_block`.
            Default: the whole file.
    """

    data: bytes
    work: Counter[str] = field(default_factory=Counter)
    profile: bytes | None = None
    orientation: int = 1
    complete: bool = True
    canvas: Canvas | None = None
    greys: Greys = Greys()
    block: int | None = None


def rows_of_a_block(row: int, rows: int = 2**16) -> int:
    """Bytes of whole rows, about 64 KiB: at least one and at most ``rows`` rows of ``row`` bytes.

    Pillow copies what it reads with the interpreter lock held, and reads a partial row again from
    its start.
    """
    return row * max(1, min(rows, 2**16 // row))
