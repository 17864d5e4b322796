"""Families of image files whose cost grows with one number, from cheap to far too expensive.

A family fixes everything about a file but its size; its worst member is the largest accepted one.
Families are the product of formats, sample kinds, shapes, layouts, compressions, contents and
metadata.
"""

from collections.abc import Iterator

from .bmp import bmps
from .family import MAX_BODY, Family
from .gif import gifs
from .heif import heifs
from .jpeg import jpegs
from .png import pngs
from .tiff import tiffs
from .webp import webps

__all__ = ["MAX_BODY", "Family", "families"]


def families() -> Iterator[Family]:
    for of_format in (pngs, jpegs, gifs, bmps, webps, heifs, tiffs):
        yield from of_format()
