"""Image files that a server may be sent: every kind, damaged ones and bombs."""

from .bombs import BOMBS, scan_bomb
from .byte_by_byte import bmp, jpeg_segment, rgb_tags, rows_of, tiff
from .corpus import corpus, good_files, transparent_colours, written_by_hand
from .kinds import HostileFile, Kind, encode, in_mode, kinds, picture, write
from .largest import LARGEST_KINDS, largest

__all__ = [
    "BOMBS",
    "LARGEST_KINDS",
    "HostileFile",
    "Kind",
    "bmp",
    "corpus",
    "encode",
    "good_files",
    "in_mode",
    "jpeg_segment",
    "kinds",
    "largest",
    "picture",
    "rgb_tags",
    "rows_of",
    "scan_bomb",
    "tiff",
    "transparent_colours",
    "write",
    "written_by_hand",
]
