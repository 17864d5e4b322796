"""Converting grey images of 16 and 32 bits per sample, integers or floats, to 8 bits."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.structure import Greys

# Samples that are converted at once: small blocks stay in the cache, and large arrays are mapped
# and unmapped each time, which makes other threads wait.
_BLOCK = 2**16
_USUAL_WHITES = {"F": (1.0, 255.0, 65535.0)}


def is_wide_grey(image: Image.Image) -> bool:
    """Whether samples have more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def to_8_bits(image: Image.Image, greys: Greys) -> Image.Image:
    """Scale wide samples to 8 bits, with alpha if one of their values is transparent."""
    levels = Image.new("L", image.size)
    alpha = None if greys.transparent is None else Image.new("L", image.size)
    white = _white(image, greys)
    for top, samples in _blocks(image, greys):
        scaled = samples.clip(0, white) * (255 / white)
        levels.paste(_to_image(255 - scaled if greys.inverted else scaled), (0, top))
        if alpha:
            alpha.paste(_to_image(255 * (samples != greys.transparent)), (0, top))
    if alpha:
        levels.putalpha(alpha)
    return levels


def _to_image(levels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.round().astype(np.uint8))


def _white(image: Image.Image, greys: Greys) -> float:
    """The sample value of white; if the file does not say, the lowest usual one that fits."""
    if greys.white:
        return greys.white
    usual = _USUAL_WHITES.get(image.mode, (255.0, 65535.0))
    highest = max(float(samples.max()) for _, samples in _blocks(image, greys))
    return next((limit for limit in usual if highest <= limit), highest)


def _blocks(image: Image.Image, greys: Greys) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks of samples, each with its top row; all at once would take 20 bytes per pixel."""
    width, height = image.size
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        block = np.asarray(image.crop((0, top, width, min(top + rows, height))))
        if greys.swapped:
            block = block.byteswap()
        if greys.unsigned:
            block = block.view(np.uint32)
        yield top, np.nan_to_num(block.astype(np.float32)).clip(min=0)
