"""Attention maps: how much the class token attends to each patch of an image.

In XCiT only the class-attention layers attend from token to token, with the class token as the only
query. The weights of the last of these layers are drawn over the image.
"""

import io
import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model.checkpoint import NO_OVERRIDES, read_checkpoint
from model.errors import ModelError
from model.families.simplify import baseline
from model.families.xcit import ClassAttention
from model.families.xcit_published import ClassAttention as PublishedClassAttention
from model.images.preprocess import DEFAULT_MAX_PIXELS, Pixels
from model.inference.views import Views, prepare_views
from model.metadata.description import Overrides
from model.spec import ModelSpec

Attention = NDArray[np.float32]


STRENGTH = 0.6  # opacity of the colour where attention is highest
# From black over violet and orange to light yellow, with brightness rising throughout, so that the
# scale is readable in black and white and by colour-blind people.
_STOPS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


class Explainer:
    """Computes and draws attention maps, in eager 32-bit PyTorch on one CPU thread.

    Args:
        build: builds the network, whose weights may be shared; called on first use.
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
        """Draw the attention of a head over an encoded image as the model crops it, as a PNG.

        Args:
            head: counted from 0; default: the mean of all heads.

        Raises:
            ModelError: there is no such head.
            ImageError: see `preprocess`.
        """
        return self.draw(self.prepare(data), head)

    def prepare(self, data: bytes) -> Views:
        """See `prepare_views`."""
        return prepare_views(data, self._spec.preprocess, self._max_pixels)

    def draw(self, views: Views, head: int | None = None) -> bytes:
        """Draw the attention of a head, or the mean of all heads, over the shown view, as a PNG.

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
        """The attention from the class token to each patch, ``(heads, h, w)``.

        The values of each head add up to 1: the attention to the class token itself is left out.

        Args:
            pixels: ``(size, size, 3)``.
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
        network = baseline(self._build(), self._spec.preprocess)
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
    """The explainer of a checkpoint, without a backend; see `read_checkpoint`."""
    found = read_checkpoint(checkpoint, overrides)
    return Explainer(found.build, found.spec, max_pixels)


def overlay(pixels: Pixels, attention: Attention) -> Image.Image:
    """Colour pixels ``(h, w, 3)`` by attention over a coarser grid."""
    picture = Image.fromarray(pixels)
    levels = np.uint8(255 * attention / attention.max())
    heat = Image.fromarray(levels).resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(palette()[np.asarray(heat)])
    strength = heat.point(lambda level: round(STRENGTH * (255 + 3 * level) / 4))
    return Image.composite(colours, picture, strength)


def palette() -> NDArray[np.uint8]:
    """The colour scale: 256 colours, ``(256, 3)``."""
    levels = np.linspace(0, len(_STOPS) - 1, 256)
    channels = [
        np.interp(levels, range(len(_STOPS)), channel) for channel in zip(*_STOPS, strict=True)
    ]
    return np.stack(channels, -1).round().astype(np.uint8)
