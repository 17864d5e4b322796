"""The encoding of images as bytes.

Pillow and numpy are imported only when a PIL image or an array is given.
"""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

from xcit_client.errors import UnreadableImage

if TYPE_CHECKING:
    import numpy.typing
    import PIL.Image

ImageLike: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    "PIL.Image.Image",
    "numpy.typing.NDArray[numpy.uint8]",
]

_TO_RGB = {"CMYK", "HSV", "LAB", "RGBX", "RGBa", "YCbCr"}  # modes that PNG lacks
_FAST = 1  # zlib level: speed matters more than size


def encode(image: ImageLike) -> bytes:
    """The encoded image. Files and bytes are not changed; PIL images and arrays become PNG.

    Args:
        image: a path, encoded bytes, a PIL image, or a uint8 array of shape ``(height, width)`` or
            ``(height, width, 3)``.

    Raises:
        UnreadableImage: the image is of another type, empty, or cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        if not len(image):
            raise UnreadableImage("the image is empty (0 bytes)")
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _read(Path(image))
    if _is_a(image, "PIL.Image", "Image"):
        return _encode_picture(cast("PIL.Image.Image", image))
    if _is_a(image, "numpy", "ndarray"):
        return _encode_array(image)
    raise UnreadableImage(
        f"cannot send an object of type {type(image).__name__}; "
        "give a path, bytes, a PIL image or a uint8 array"
    )


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of ``module.name``, without importing the module."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise UnreadableImage(f"{path}: is a directory; name the files in it") from error
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror}") from error
    except ValueError as error:  # the path contains NUL
        raise UnreadableImage(f"{str(path)!r}: {error}") from error


def _encode_picture(picture: "PIL.Image.Image") -> bytes:
    """PNG bytes that keep the EXIF orientation."""
    buffer = io.BytesIO()
    try:
        exif = picture.info.get("exif", b"")
        picture = picture.convert("RGB") if picture.mode in _TO_RGB else picture
        picture.save(buffer, "PNG", exif=exif, compress_level=_FAST)
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableImage(f"the PIL image cannot be written as PNG: {error}") from error
    return buffer.getvalue()


def _encode_array(array: Any) -> bytes:
    from PIL import Image

    grey_or_rgb = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != "uint8" or not grey_or_rgb or not array.size:
        raise UnreadableImage(
            f"the array is {array.dtype} of shape {array.shape}; it must be uint8 of shape "
            "(height, width) or (height, width, 3)"
        )
    return _encode_picture(Image.fromarray(array))
