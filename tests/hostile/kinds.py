"""Image files of every kind that Pillow writes."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

MODE_TIFF_COMPRESSIONS = {
    "1": ("raw", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "L": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"),
    "LA": ("raw", "tiff_lzw"),
    "P": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "RGB": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"),
    "RGBA": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "CMYK": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"),
    "YCbCr": ("raw", "jpeg"),
    "I;16": ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"),
    "I;16B": ("raw",),
    "I": ("raw", "tiff_lzw", "tiff_adobe_deflate"),
    "F": ("raw", "tiff_lzw", "tiff_adobe_deflate"),
}
# The transformation of the stored picture that a viewer undoes, by EXIF orientation.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class HostileFile:
    """A file and, if it is valid, the upright RGB picture that a viewer shows."""

    name: str
    data: bytes
    shown: Image.Image | None = None
    lossy: bool = False


@dataclass(frozen=True)
class Kind:
    """A format, mode and options to write a picture with."""

    image_format: str
    mode: str
    options: dict[str, Any]
    label: str
    lossy: bool = False

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.image_format, self.mode, self.label)))


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A picture with smooth colours and two edges: flips, turns and channel swaps show."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    blue = np.where(x + y > 1, 200, 40)
    green = np.where(x > 0.7, 20, 255 * y)
    return Image.fromarray(np.stack((255 * x, green, blue), -1).round().astype(np.uint8))


def in_mode(mode: str, image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The picture in a mode, and its appearance as RGB."""
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        white = Image.new("RGBA", image.size, "white")
        return image, Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if mode == "P":
        image = image.quantize(60)
        return image, image.convert("RGB")
    if mode in ("I;16", "I;16B", "I", "F"):
        grey = image.convert("L")
        samples = np.asarray(grey).astype(np.float32)
        stored = {
            "I;16": (samples * 257).astype("<u2"),
            "I;16B": (samples * 257).astype(">u2"),
            "I": (samples * 257).astype(np.int32),
            "F": samples / 255,
        }[mode]
        return Image.fromarray(stored), grey.convert("RGB")
    image = image.convert(mode, dither=Image.Dither.NONE)
    return image, image.convert("RGB")


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def frames() -> dict[str, Any]:
    """Options that add two frames to a picture."""
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    return {"save_all": True, "append_images": others}


def kinds() -> list[Kind]:
    """Every format, mode and depth that Pillow writes, with the options that change decoding."""
    best: dict[str, Any] = {"quality": 95}
    found = [Kind("PNG", mode, {}, "") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    found += [Kind("PNG", "P", {"bits": 8, "optimize": True}, "optimised")]
    found += [
        Kind("PNG", "RGB", {"compress_level": 0}, "stored"),
        Kind("PNG", "RGB", frames(), "3"),
    ]
    found += [Kind("JPEG", mode, best, "", lossy=True) for mode in ("1", "L", "CMYK", "YCbCr")]
    variants: dict[str, dict[str, Any]] = {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "4:2:0": {"subsampling": 2},
        "progressive": {"progressive": True},
        "optimised": {"optimize": True},
        "restarts": {"restart_marker_blocks": 2},
        "not YCbCr": {"keep_rgb": True},
        "resolution": {"dpi": (300, 300), "comment": b"x" * 1000},
    }
    for label, options in variants.items():
        found.append(Kind("JPEG", "RGB", best | options, label, lossy=True))
    found.append(Kind("JPEG", "L", best | {"progressive": True}, "progressive", lossy=True))
    found.append(Kind("JPEG", "CMYK", best | {"progressive": True}, "progressive", lossy=True))
    found.append(Kind("MPO", "RGB", best | frames(), "3", lossy=True))
    for mode in ("RGB", "RGBA"):
        found.append(Kind("WEBP", mode, {"lossless": True}, "lossless"))
        found.append(Kind("WEBP", mode, best, "lossy", lossy=True))
    found.append(Kind("WEBP", "RGB", frames() | {"lossless": True}, "3"))
    for mode in ("L", "RGB", "RGBA"):
        found.append(Kind("AVIF", mode, best, "", lossy=True))
        found.append(Kind("HEIF", mode, best, "", lossy=True))
    for options in ({"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"range": "limited"}):
        (label,) = options.values()
        found.append(Kind("AVIF", "RGB", best | options, label, lossy=True))
    found.append(Kind("AVIF", "RGBA", best | {"alpha_premultiplied": True}, "premultiplied", True))
    found.append(Kind("AVIF", "RGB", best | frames(), "3", lossy=True))
    for options in ({"chroma": "444"}, frames()):
        label = options.get("chroma", "3")
        found.append(Kind("HEIF", "RGB", best | options, label, lossy=True))
    found += [Kind("GIF", mode, {}, "") for mode in ("1", "L", "P")]
    found += [Kind("GIF", "P", {"interlace": 0}, "in order"), Kind("GIF", "P", frames(), "3")]
    found += [Kind("BMP", mode, {}, "") for mode in ("1", "L", "P", "RGB", "RGBA")]
    for mode, compressions in MODE_TIFF_COMPRESSIONS.items():
        for compression in compressions:
            lossy = compression == "jpeg"
            options = {"compression": compression} | (best if lossy else {})
            found.append(Kind("TIFF", mode, options, compression, lossy=lossy))
    found.append(Kind("TIFF", "RGB", frames(), "3"))
    found.append(Kind("TIFF", "RGB", {"big_tiff": True}, "BigTIFF"))
    return found


def write(kind: Kind, orientation: int = 1) -> HostileFile:
    """A valid file of a kind, which viewers show upright."""
    image, shown = in_mode(kind.mode, picture())
    if kind.image_format == "BMP":
        shown = image.convert("RGB")  # the fourth channel of a BMP is not alpha
    options = dict(kind.options)
    name = kind.name
    if orientation != 1:
        image = image.transpose(STORED[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        # pillow-heif writes the boxes of an orientation only from bytes.
        options["exif"] = exif.tobytes() if kind.image_format == "HEIF" else exif
        name += f", orientation {orientation}"
    return HostileFile(name, encode(image, kind.image_format, **options), shown, kind.lossy)
