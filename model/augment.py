"""What training does to images, so that the same one is never seen twice. Bytes in, bytes out."""

import torch
from torch import Tensor


def flip_and_shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random flips, and crops out of each image padded by an eighth of its reflection."""
    b, size, _, _ = pixels.shape
    margin = size // 8
    steps = torch.arange(size)
    flipped = torch.rand(b, 1, generator=generator) < 0.5
    columns = torch.where(flipped, steps.flip(0), steps)
    rows = steps + torch.randint(-margin, margin + 1, (b, 1), generator=generator)
    columns = columns + torch.randint(-margin, margin + 1, (b, 1), generator=generator)
    rows, columns = (_reflect(index, size) for index in (rows, columns))  # (b, size)
    return pixels[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside ``0 … size - 1`` mirrored at the edges."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def cutmix(pixels: Tensor, chance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of the previous image of the batch into each (arXiv 1905.04899).

    Returns:
        The images ``(b, size, size, 3)``, and the share of each that is pasted, ``(b,)``: 0 where
        ``chance`` left one alone.
    """
    b, size, _, _ = pixels.shape
    area = torch.rand(b, generator=generator)
    area *= torch.rand(b, generator=generator) < chance
    centre = size * torch.rand(b, 2, generator=generator)
    steps = torch.arange(size) + 0.5
    inside = (steps - centre[:, :, None]).abs() < size * area.sqrt()[:, None, None] / 2
    pasted = inside[:, 0, :, None] & inside[:, 1, None, :]  # (b, size, size)
    mixed = torch.where(pasted[..., None], pixels.roll(1, 0), pixels)
    return mixed, pasted.float().mean((1, 2))
