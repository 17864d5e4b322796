"""cykooz-resizer compared with Pillow: CPU time, pixels, and predictions.

    python -m benchmarks.resizing
    python -m benchmarks.resizing --images DATA    # also predictions, for the test images of DATA

For the predictions each image is enlarged to 200 pixels and saved as a JPEG of quality 90, so that
preprocessing has something to resize even if the image has the model's size.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.images import draw_photo
from benchmarks.machine import provenance
from benchmarks.report import table
from model.backends.base import BackendOptions
from model.checkpoint import BUNDLED_CHECKPOINT
from model.evaluation.dataset import list_split, read_images
from model.images import resize as module
from model.images.resize import Box, resize
from model.inference.classifier import load_classifier
from model.spec import Interpolation

MODES = ("RGB", "L", "RGBA", "CMYK", "RGBX")
SIZE, SIDE, ENLARGED = (500, 375), 224, (200, 200)
BOX: Box = (62.5, 0, 437.5, 375)
CALLS = 100
BATCH = 32


@contextmanager
def pillow() -> Iterator[None]:
    """Resize with Pillow meanwhile."""
    installed, module.SIMD = module.SIMD, False
    try:
        yield
    finally:
        module.SIMD = installed


def least_seconds(works: list[Callable[[], object]]) -> list[float]:
    """Least CPU seconds of many calls of each, in turn."""
    best = [float("inf")] * len(works)
    for _ in range(CALLS):
        for i, work in enumerate(works):
            begun = time.thread_time()
            work()
            best[i] = min(best[i], time.thread_time() - begun)
    return best


def levels(image: Image.Image) -> NDArray[np.int64]:
    """Values of all bands; colours with alpha on white, as the model sees them."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image).astype(int)


def compare(mode: str, interpolation: Interpolation) -> list[str]:
    """A row of the table: CPU times and the distance of the pixels."""
    image = draw_photo(np.random.default_rng(0), SIZE).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(SIZE))

    def new() -> Image.Image:
        return resize(image, SIDE, BOX, interpolation)

    def old() -> Image.Image:
        with pillow():
            return new()

    before, after = least_seconds([old, new])
    distance = np.abs(levels(new()) - levels(old()))
    border = np.concatenate([distance[[0, -1]].ravel(), distance[:, [0, -1]].ravel()])
    return [
        f"{mode} {interpolation}",
        f"{1e3 * before:.2f}",
        f"{1e3 * after:.2f} ({after / before:.2f})",
        f"{distance.mean():.2f}",
        f"{border.mean():.2f}",
        str(distance.max()),
    ]


def enlarge(data: bytes) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(ENLARGED, Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def agreement(checkpoint: Path, source: Path) -> str:
    """How many of the test images have the same top-1 prediction."""
    options = BackendOptions(precision="float32")  # 16 bits alone change 1 in 600 predictions
    classifier = load_classifier(checkpoint, options=options, max_batch_size=BATCH)
    classifier.open()

    def best_labels(images: list[bytes]) -> list[str]:
        pixels = [classifier.preprocess(data) for data in images]
        return [found.predictions[0].label for found in classifier.predict(pixels, 1)]

    same = count = 0
    stored = read_images(source, list_split(source, "test"))
    while images := [enlarge(data) for _, data in islice(stored, BATCH)]:
        new = best_labels(images)
        with pillow():
            old = best_labels(images)
        same += sum(a == b for a, b in zip(new, old, strict=True))
        count += len(images)
    return f"Top-1 is the same for {same} of {count} images, {same / count:.2%}."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="folder or tar with labelled test images")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT)
    arguments = parser.parse_args()
    if not module.SIMD:
        raise SystemExit("cykooz-resizer is not installed; run pip install cykooz-resizer")
    print(provenance(), f"{SIZE[0]} x {SIZE[1]} pixels to {SIDE}, on one thread.", sep="\n\n")
    head = (
        "image",
        "Pillow, ms",
        "cykooz-resizer, ms",
        "mean distance",
        "at the border",
        "largest",
    )
    filters = [name for name in get_args(Interpolation) if name != "nearest"]  # Pillow's either way
    print("", table(head, [compare(mode, name) for mode in MODES for name in filters]), sep="\n")
    if arguments.images:
        print("", agreement(arguments.checkpoint, arguments.images), sep="\n")


if __name__ == "__main__":
    main()
