"""Colour profiles: converting pixels to sRGB, as browsers do.

The conversion runs on the resized pixels. It maps each pixel independently, so the order of the two
hardly matters (under one level of 255 in a photo), and it is a thousand times cheaper for a large
photo.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from functools import cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # the largest in use, for printing, have 3 MiB
_MAX_TRANSFORMS = 32
_SAME = 2  # levels of 255; profiles that differ less from sRGB are skipped
_MAX_TAGS = 100  # Little CMS reads no more
_STEPS = 9  # levels of each colour that are compared with sRGB
_NO_CACHE = ImageCms.Flags.NOCACHE  # transforms are shared by threads
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")

Transform = ImageCms.ImageCmsTransform


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image to sRGB according to its profile.

    A profile is ignored if it is broken, over `MAX_PROFILE_BYTES`, or for a colour space that the
    image does not have.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return image
    mode = _SPACES.get(profile[16:20])
    colours = {"RGBA": "RGB", "RGBX": "RGB", "LA": "L"}.get(image.mode, image.mode)
    if mode is None or (mode != colours and (mode, colours) != ("RGB", "L")):
        return image
    transform = _transforms.get(profile, mode)
    return image if transform is None else _apply(transform, image, mode)


def _apply(transform: Transform, image: Image.Image, mode: str) -> Image.Image:
    converted = transform.apply(image if image.mode == mode else image.convert(mode))
    if image.mode in ("RGBA", "LA"):
        converted.putalpha(image.getchannel("A"))
    return converted


class _Transforms:
    """A cache of recent profiles' transforms, by digest; None for those that change nothing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[bytes, Transform | None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, profile: bytes, mode: str) -> Transform | None:
        key = hashlib.blake2b(profile, digest_size=16).digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        transform = _build(profile, mode)
        with self._lock:
            self._known[key] = transform
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return transform


_transforms = _Transforms(_MAX_TRANSFORMS)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _build(profile: bytes, mode: str) -> Transform | None:
    """The transform from the profile to sRGB; None if the profile is broken or is sRGB."""
    if profile[12:16] not in _CLASSES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_without_float_tables(profile)))
        transform = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB", flags=_NO_CACHE)
        samples = _samples(mode)
        moved = np.asarray(transform.apply(samples)).astype(int)
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        return None
    plain = np.asarray(samples.convert("RGB")).astype(int)
    return None if mode != "CMYK" and np.abs(moved - plain).max() <= _SAME else transform


def _without_float_tables(profile: bytes) -> bytes:
    """The profile with its D2Bx tags disabled by renaming them.

    These tables may have any number of steps, and 4 MiB of them take minutes. Browsers ignore them
    and use the tables in 8 or 16 bits.
    """
    count = min(int.from_bytes(profile[128:132], "big"), _MAX_TAGS)
    table = bytearray(profile[132 : 132 + 12 * count])
    for start in range(0, len(table), 12):
        if table[start : start + 3] == b"D2B":
            table[start : start + 3] = b"xxx"
    return profile[:132] + table + profile[132 + len(table) :]


def _samples(mode: str) -> Image.Image:
    """Colours from the whole space, in one row."""
    levels = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * len(mode)), -1).reshape(1, -1, len(mode))
    return Image.fromarray(grid[..., 0] if mode == "L" else np.ascontiguousarray(grid), mode)
