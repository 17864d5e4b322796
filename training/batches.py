"""Training batches in random order, augmented on the device that trains on them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from model.evaluation.dataset import Dataset
from training import warn
from training.augment import cutmix, flip_and_shift
from training.distort import distort
from training.recipe import Recipe

CHUNK = 8  # batches made at once on a GPU, where a single one would be dominated by kernel launches
LARGEST_SHARE = 0.5  # of a GPU's free memory, for the images


class Batch(NamedTuple):
    """``b`` augmented images, each of which may contain a piece of another image.

    Attributes:
        pixels: ``(b, size, size, 3)`` as bytes. classes, pasted_classes: classes of the images and
            of the pieces, ``(b,)``.
        pasted: share of each image that the piece covers, ``(b,)``.
    """

    pixels: Tensor
    classes: Tensor
    pasted_classes: Tensor
    pasted: Tensor


class Batches:
    """All training images in the memory of ``device``, shared among the processes of a run."""

    def __init__(
        self,
        images: Dataset,
        recipe: Recipe,
        device: torch.device,
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.rank, self.processes = rank, processes
        self.pixels = _place(images.pixels, device)
        self.classes = images.classes.to(device)
        self.chunk = CHUNK if device.type == "cuda" else 1

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.classes) // self.recipe.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """This process's batches of one epoch; they depend only on seed, epoch and process."""
        order = torch.randperm(
            len(self.classes), generator=self._generator(number, 0), device=self.device
        )
        order = order[: len(self) * self.recipe.batch_size].view(len(self), -1)
        generator = self._generator(number, 1 + self.rank)
        mine = order[:, self.rank :: self.processes]  # (batches, images)
        for start in range(0, len(self), self.chunk):
            rows = mine[start : start + self.chunk]
            parts = [part.chunk(len(rows)) for part in self._change(rows.flatten(), generator)]
            yield from (Batch(*batch) for batch in zip(*parts, strict=True))

    def _change(self, chosen: Tensor, generator: torch.Generator) -> Batch:
        pixels = self.pixels[chosen.to(self.pixels.device)].to(self.device)
        classes = self.classes[chosen]
        pixels = flip_and_shift(pixels, generator)
        if self.recipe.distort:
            pixels = distort(pixels, self.recipe.distort, generator)
        pixels, pasted = cutmix(pixels, self.recipe.cutmix, generator)
        return Batch(pixels, classes, classes.roll(1), pasted)

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        seed = self.recipe.seed + 1000 * epoch + 10**6 * stream
        return torch.Generator(self.device).manual_seed(seed)


def _place(pixels: Tensor, device: torch.device) -> Tensor:
    """Move pixels to the device, unless they would take most of its memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if pixels.nbytes > LARGEST_SHARE * free:
            warn(
                f"the images stay in main memory: they take {pixels.nbytes / 1e9:.1f} GB, "
                f"and {device} has {free / 1e9:.1f} GB free"
            )
            return pixels
    return pixels.to(device)
