"""The result of reading an image file's structure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


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
class Tiles:
    """A picture as one or more files of AV1 or HEVC, which are decoded one by one.

    Attributes:
        files: row by row; all have the same size.
        tile: their width and height in pixels.
        size: of the picture; tiles may reach beyond its right and bottom edge.
        bits: per sample.
        black_is_16: for grey HEVC, whether black is 16 and white 235 of 255.
    """

    hevc: bool
    files: Sequence[bytes]
    tile: tuple[int, int]
    columns: int
    size: tuple[int, int]
    bits: int
    black_is_16: bool = False


@dataclass(frozen=True, slots=True)
class Mosaic:
    """The parts of a picture in HEIF.

    Attributes:
        alpha: the transparency, with grey levels.
        premultiplied: whether the colours have been multiplied by it.
        crop: left, top, right and bottom of the pixels to show, before the orientation.
    """

    colours: Tiles
    alpha: Tiles | None = None
    premultiplied: bool = False
    crop: tuple[int, int, int, int] | None = None


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
        mosaic: the picture of a HEIF file, instead of ``data``.
        block: bytes that Pillow reads at once from an uncompressed file; see `rows_of_a_block`.
            Default: the whole file.
    """

    data: bytes = b""
    work: Counter[str] = field(default_factory=Counter)
    profile: bytes | None = None
    orientation: int = 1
    complete: bool = True
    canvas: Canvas | None = None
    greys: Greys = Greys()
    mosaic: Mosaic | None = None
    block: int | None = None

    @property
    def pixels(self) -> int:
        """Width times height of the picture."""
        return self.work["pixel"]


def rows_of_a_block(row: int, rows: int = 2**16) -> int:
    """Bytes of whole rows, about 64 KiB: at least one and at most ``rows`` rows of ``row`` bytes.

    Pillow copies what it reads with the interpreter lock held, and reads a partial row again from
    its start.
    """
    return row * max(1, min(rows, 2**16 // row))
