"""Preprocessing compared with other ways from a JPEG to the model's pixels, on one thread.

    python -m benchmarks.decoding
    pip install opencv-python-headless pyvips pyvips-binary    # optional

`full` decodes all pixels and resizes them with Pillow, as most servers do; the others decode at a
reduced scale where possible. `Pillow` is this project's preprocessing without simplejpeg and
cykooz-resizer. Each figure is the least CPU time of many calls, taken in turn, followed by the
distance of the pixels from those of `full`: a filter other than the checkpoint's is different
preprocessing, however fast.
"""

import io
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.images import Size, draw_photo
from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.resizing import pillow
from model.images import decode as decode_module
from model.images import resize
from model.images.preprocess import Pixels, preprocess
from model.spec import PreprocessSpec

PHOTOS: dict[str, tuple[Size, int]] = {
    "12 megapixels": ((4000, 3000), 85),
    "1000 x 750": ((1000, 750), 94),
    "500 x 375": ((500, 375), 94),
    "32 x 32": ((32, 32), 94),
}
SIZES = (224, 32)
SECONDS = 1.5  # of calls per figure

Decode = Callable[[bytes, int], Pixels]


def full(data: bytes, size: int) -> Pixels:
    return resize_by_pillow(Image.open(io.BytesIO(data)).convert("RGB"), size)


def ours(data: bytes, size: int) -> Pixels:
    return preprocess(data, PreprocessSpec(size))


def with_pillow(data: bytes, size: int) -> Pixels:
    """The same, but by Pillow alone."""
    names = vars(decode_module)
    by_simplejpeg, names["decode_jpeg"] = names["decode_jpeg"], lambda *_: None
    try:
        with pillow():
            return ours(data, size)
    finally:
        names["decode_jpeg"] = by_simplejpeg


def resize_by_pillow(image: Image.Image, size: int) -> Pixels:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def alternatives() -> dict[str, Decode]:
    """Decoders of the other libraries that are installed."""
    found: dict[str, Decode] = {}
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)

        def by_area(data: bytes, size: int) -> Pixels:
            least = 3 * size // 2
            pixels = simplejpeg.decode_jpeg(data, min_height=least, min_width=least)
            height, width = pixels.shape[:2]
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = pixels[top : top + side, left : left + side]
            resized: Pixels = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
            return resized

        found["OpenCV by area"] = by_area
    if find_spec("pyvips"):
        import pyvips

        def thumbnail(data: bytes, size: int) -> Pixels:
            image = pyvips.Image.thumbnail_buffer(data, size, height=size, crop="centre")
            pixels: Pixels = image.numpy()
            return pixels

        found["pyvips thumbnail"] = thumbnail
    return found


def best_seconds(decoders: dict[str, Decode], data: bytes, size: int) -> dict[str, float]:
    """Least CPU seconds of a call of each decoder, measured in turn."""
    best = dict.fromkeys(decoders, float("inf"))
    for decode in decoders.values():
        decode(data, size)
    end = time.perf_counter() + SECONDS * len(decoders)
    while time.perf_counter() < end:
        for name, decode in decoders.items():
            begun = time.process_time()
            decode(data, size)
            best[name] = min(best[name], time.process_time() - begun)
    return best


def main() -> None:
    if not resize.SIMD:
        raise SystemExit("cykooz-resizer is not installed; pip install cykooz-resizer")
    decoders = {"full": full, "Pillow": with_pillow, "xcit-serve": ours, **alternatives()}
    rows = []
    for title, (shape, quality) in PHOTOS.items():
        buffer = io.BytesIO()
        draw_photo(np.random.default_rng(0), shape).save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        for size in SIZES:
            truth = full(data, size).astype(int)
            best = best_seconds(decoders, data, size)
            cells = [
                f"{1e3 * seconds:.2f} ({seconds / best['Pillow']:.2f}; "
                f"{np.abs(decoders[name](data, size) - truth).mean():.1f})"
                for name, seconds in best.items()
            ]
            rows.append([f"{title}, {len(data) / 1e3:.0f} KB, to {size}", *cells])
    legend = (
        "Milliseconds of CPU time (over `Pillow`; mean distance from the pixels of `full`, in "
        "levels of 255)."
    )
    print(provenance(), legend, table(("JPEG", *decoders), rows), sep="\n\n")


if __name__ == "__main__":
    main()
