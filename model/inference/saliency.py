"""Where a network looked: the attention of its class token over the patches of an image.

In XCiT only the last blocks attend from token to token, and there the class token alone asks. What
it gave each patch in the last of them is drawn over the picture.
"""

import io
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model.checkpoint import NO_OVERRIDES, read_checkpoint
from model.errors import ModelError
from model.families.simplify import plain
from model.families.xcit import ClassAttention
from model.families.xcit_published import ClassAttention as PublishedClassAttention
from model.images.preprocess import DEFAULT_MAX_PIXELS, Pixels, preprocess_sizes
from model.metadata.description import Overrides
from model.spec import ModelSpec

Attention = NDArray[np.float32]


class Views(NamedTuple):
    """One image at two sizes."""

    seen: Pixels  # by the network
    shown: Pixels


SIDE = 448  # pixels of a picture, where the model sees fewer
STRENGTH = 0.6  # of the colour over the picture where attention is highest
# From black over violet and orange to light yellow: brightness rises all the way, for any eye.
_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


class Explainer:
    """Attention maps and pictures of them, by eager PyTorch in 32 bits on one thread of the CPU.

    Args:
        build: makes the network, whose weights may be shared; called when first needed.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        spec: ModelSpec,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.heads = int(spec.hyperparameters["heads"])
        self._build = build
        self._spec = spec
        self._max_pixels = max_pixels
        self._network: nn.Module | None = None
        self._attention: Tensor | None = None
        self._lock = threading.Lock()

    def picture(self, data: bytes, head: int | None = None) -> bytes:
        """An encoded image as the model crops it, under the attention of a head, as a PNG.

        Args:
            head: from 0; the mean of all if not given.

        Raises:
            ModelError: there is no such head.
            ImageError: see `preprocess`.
        """
        return self.draw(self.prepare(data), head)

    def prepare(self, data: bytes) -> Views:
        """The two views of an encoded image, from one decode; raises as `preprocess` does."""
        spec = self._spec.preprocess
        sizes = (spec.image_size, max(SIDE, spec.image_size))
        return Views(*preprocess_sizes(data, spec, sizes, max_pixels=self._max_pixels))

    def draw(self, views: Views, head: int | None = None) -> bytes:
        """The shown view under the attention of a head, or the mean of all heads, as a PNG.

        Raises:
            ModelError: ``head`` is out of range.
        """
        if head is not None and not 0 <= head < self.heads:
            raise ModelError(f"head is {head}; it must be from 0 to {self.heads - 1}")
        attention = self.attention(views.seen)
        image = overlay(views.shown, attention.mean(0) if head is None else attention[head])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    @torch.inference_mode()
    def attention(self, pixels: Pixels) -> Attention:
        """Of pixels ``(size, size, 3)``: what each head gave each patch, ``(heads, h, w)``.

        The patches of a head add up to 1: what the class token gave itself is left out.
        """
        torch.set_num_threads(1)
        with self._lock:
            network = self._network or self._prepare()
            network(torch.tensor(pixels)[None])
            weights, self._attention = self._attention, None
        assert weights is not None
        patches = weights[0, :, 0, 1:]
        side = math.isqrt(patches.shape[-1])
        shares = patches / patches.sum(-1, keepdim=True)
        found: Attention = shares.reshape(-1, side, side).numpy()
        return found

    def _prepare(self) -> nn.Module:
        network = plain(self._build(), self._spec.preprocess)
        *_, last = (
            module
            for module in network.modules()
            if isinstance(module, ClassAttention | PublishedClassAttention)
        )
        last.register_forward_pre_hook(self._watch)
        self._network = network
        return network

    def _watch(self, module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        self._attention = module.weights(*inputs)  # type: ignore[operator]


def load_explainer(
    checkpoint: str | Path,
    overrides: Overrides = NO_OVERRIDES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Explainer:
    """Of a checkpoint, without a backend; see `read_checkpoint` for arguments and errors."""
    found = read_checkpoint(checkpoint, overrides)
    return Explainer(found.build, found.spec, max_pixels)


def overlay(pixels: Pixels, attention: Attention) -> Image.Image:
    """Pixels ``(h, w, 3)`` under the colours of attention over a coarser grid."""
    picture = Image.fromarray(pixels)
    levels = np.uint8(255 * attention / attention.max())
    heat = Image.fromarray(levels).resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(palette()[np.asarray(heat)])
    strength = heat.point(lambda level: round(STRENGTH * (255 + 3 * level) / 4))
    return Image.composite(colours, picture, strength)


def palette() -> NDArray[np.uint8]:
    """256 colours, ``(256, 3)``."""
    levels = np.linspace(0, len(_STOPS) - 1, 256)
    channels = [
        np.interp(levels, range(len(_STOPS)), channel) for channel in zip(*_STOPS, strict=True)
    ]
    return np.stack(channels, -1).round().astype(np.uint8)
