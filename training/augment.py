"""Random augmentation of training images.

Bytes in, bytes out. Each function works on a whole batch, on the device of the images, where the
generator must be as well.
"""

import torch
from torch import Tensor


def flip_and_shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random flips, and random crops of each image padded by an eighth with reflections."""
    b, size, _, _ = pixels.shape
    device, margin = pixels.device, size // 8
    steps = torch.arange(size, device=device)
    flipped = torch.rand(b, 1, generator=generator, device=device) < 0.5
    columns = torch.where(flipped, steps.flip(0), steps)
    shifts = torch.randint(-margin, margin + 1, (2, b, 1), generator=generator, device=device)
    rows, columns = (_reflect(index, size) for index in (steps + shifts[0], columns + shifts[1]))
    images = torch.arange(b, device=device)[:, None, None]
    return pixels[images, rows[:, :, None], columns[:, None, :]]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices outside ``0 … size - 1`` at the edges."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def cutmix(pixels: Tensor, chance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of the previous image of the batch into each image (arXiv 1905.04899).

    Args:
        chance: probability that an image is changed.

    Returns:
        The images ``(b, size, size, 3)``, and the pasted share of each, ``(b,)``: 0 if unchanged.
    """
    b, size, _, _ = pixels.shape
    device = pixels.device
    area, chosen = torch.rand(2, b, generator=generator, device=device)
    area = area * (chosen < chance)
    centre = size * torch.rand(b, 2, generator=generator, device=device)
    steps = torch.arange(size, device=device) + 0.5
    inside = (steps - centre[:, :, None]).abs() < size * area.sqrt()[:, None, None] / 2
    pasted = inside[:, 0, :, None] & inside[:, 1, None, :]  # (b, size, size)
    mixed = torch.where(pasted[..., None], pixels.roll(1, 0), pixels)
    return mixed, pasted.float().mean((1, 2))
