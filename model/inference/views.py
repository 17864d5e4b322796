"""The two views of an image that an explanation needs. Needs no PyTorch."""

from typing import NamedTuple

import numpy as np

from model.images.preprocess import DEFAULT_MAX_PIXELS, Pixels, preprocess_sizes
from model.spec import PreprocessSpec

SIDE = 448  # pixels of a drawing, unless the model's input is larger


class Views(NamedTuple):
    """One image at two sizes, ``(h, w, 3)`` each."""

    seen: Pixels  # by the network
    shown: Pixels


def view_sizes(spec: PreprocessSpec) -> tuple[int, int]:
    """The sides of the two views, in pixels."""
    return spec.image_size, max(SIDE, spec.image_size)


def prepare_views(data: bytes, spec: PreprocessSpec, max_pixels: int = DEFAULT_MAX_PIXELS) -> Views:
    """The two views of an encoded image, from one decode; raises as `preprocess` does."""
    return Views(*preprocess_sizes(data, spec, view_sizes(spec), max_pixels=max_pixels))


def views_to_bytes(views: Views) -> bytes:
    """The pixels of both views, one after the other."""
    return views.seen.tobytes() + views.shown.tobytes()


def views_from_bytes(pixels: bytes, spec: PreprocessSpec) -> Views:
    """The views that `views_to_bytes` wrote."""
    seen, shown = view_sizes(spec)
    numbers = np.frombuffer(pixels, np.uint8)
    size = 3 * seen * seen
    return Views(numbers[:size].reshape(seen, seen, 3), numbers[size:].reshape(shown, shown, 3))
