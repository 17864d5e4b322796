"""The result of reading an image file's structure."""

from collections import Counter
from dataclasses import dataclass, field


def public_name(image_format: str) -> str:
    """The usual spelling of a format that Pillow calls ``image_format``."""
    return "WebP" if image_format == "WEBP" else image_format


@dataclass(frozen=True, slots=True)
class Canvas:
    """The picture that a smaller first frame is part of; the rest of it is transparent.

    Sizes and positions are in pixels, as (width, height) and (left, top).
    """

    size: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Greys:
    """How wide grey samples become pixels.

    Attributes:
        white: the sample value of white; None if the file does not say.
        inverted: whether 0 is white.
        unsigned: whether 32-bit integers are unsigned.
        swapped: whether Pillow reads the bytes of each sample in the wrong order.
        transparent: the sample value that is transparent, if any.
    """

    white: float | None = None
    inverted: bool = False
    unsigned: bool = False
    swapped: bool = False
    transparent: int | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One picture as a file for Pillow, with its cost and its metadata.

    Attributes:
        data: the file.
        work: how many of each unit in `model.images.structure.work` the decoder has to do.
        profile: the ICC profile.
        orientation: as EXIF counts them; 1 is upright.
        complete: whether the file has its end. Without it pixels may be missing.
        canvas: where the frame belongs, if it is not the whole picture.
        greys: for pictures of one wide sample a pixel.
        block: how many bytes Pillow reads at once, where the file is not compressed: see
            `rows_of_a_block`. All of the file by default.
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
    """Bytes of whole rows of ``row`` bytes, at least one and at most ``rows``, of about 64 KiB.

    Pillow copies what it reads with the interpreter lock held, and reads a row that is not whole
    again from its start.
    """
    return row * max(1, min(rows, 2**16 // row))
