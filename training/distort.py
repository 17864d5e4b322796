"""A random distortion of geometry or colours for each image (arXiv 2103.10158).

As in TrivialAugment, the operation and its strength are uniformly random, so there is nothing to
tune. The ranges are those of RandAugment. All images of a batch go through the same tensor
operations, with factors that leave an image unchanged by all operations but one.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WARPS = ("shear x", "shear y", "shift x", "shift y", "rotate")
BLENDS = ("brightness", "contrast", "saturation", "sharpness")
TONES = ("posterise", "solarise", "stretch")
KINDS = (*WARPS, *BLENDS, *TONES)

SHEAR = 0.3
SHIFT = 2 / 3  # in half image sides, so a third of a side
ANGLE = math.radians(30)
BLEND = 0.9
DROPPED_BITS = 4
LUMA = (0.299, 0.587, 0.114)


def distort(pixels: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Distort each image ``(b, size, size, 3)`` with probability ``chance``, by one of `KINDS`."""
    b, device = len(pixels), pixels.device
    kinds = torch.randint(len(KINDS), (b,), generator=generator, device=device)
    chosen, strength = torch.rand(2, b, generator=generator, device=device)
    return apply(pixels, kinds.masked_fill(chosen >= chance, -1), 2 * strength - 1)


def apply(pixels: Tensor, kinds: Tensor, strength: Tensor) -> Tensor:
    """Distort images by the given kinds.

    Args:
        pixels: ``(b, size, size, 3)`` as bytes.
        kinds: indices in `KINDS`, ``(b,)``; -1 leaves an image unchanged.
        strength: from -1 to 1, ``(b,)``.
    """
    images = pixels.permute(0, 3, 1, 2).float()
    is_kind = {name: kinds == place for place, name in enumerate(KINDS)}
    images = _warp(images, is_kind, strength)
    images = _blend(images, is_kind, strength)
    images = _change_tones(images, is_kind, strength)
    return images.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _warp(images: Tensor, is_kind: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Shear, shift and rotate, by a grid of source positions; edges are reflected."""
    angle = ANGLE * strength * is_kind["rotate"]
    rows = (
        (angle.cos(), SHEAR * strength * is_kind["shear x"] - angle.sin(), is_kind["shift x"]),
        (SHEAR * strength * is_kind["shear y"] + angle.sin(), angle.cos(), is_kind["shift y"]),
    )
    matrices = torch.stack(
        [torch.stack((left, right, SHIFT * strength * shift), -1) for left, right, shift in rows], 1
    )
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _blend(images: Tensor, is_kind: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Blend each image with, or away from, a duller copy of itself."""
    red, green, blue = images.split(1, 1)  # type: ignore[no-untyped-call]
    grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue  # no constants are copied to the device
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    dull = images
    for name, copy in (
        ("brightness", torch.zeros_like(images)),
        ("contrast", grey.mean((2, 3), keepdim=True)),
        ("saturation", grey),
        ("sharpness", smooth),
    ):
        dull = torch.where(_each(is_kind[name]), copy, dull)
    return (images + BLEND * _each(strength) * (images - dull)).clamp(0, 255)


def _change_tones(images: Tensor, is_kind: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Fewer levels, an inverted upper part, or the full range for each channel."""
    half = (_each(strength) + 1) / 2
    step = torch.exp2((half * DROPPED_BITS).round())
    images = torch.where(_each(is_kind["posterise"]), (images / step).floor() * step, images)
    bright = _each(is_kind["solarise"]) & (images >= 256 * half)
    images = torch.where(bright, 255 - images, images)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    return torch.where(_each(is_kind["stretch"]), stretched, images)


def _each(values: Tensor) -> Tensor:
    """Reshape ``(b,)`` to ``(b, 1, 1, 1)``, a value for each image."""
    return values[:, None, None, None]
