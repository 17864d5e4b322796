"""Batches: every image once per epoch, in an order that depends only on seed and epoch."""

from dataclasses import replace

import pytest
import torch

from model.evaluation.dataset import Dataset
from training.batches import Batch, Batches
from training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=8, cutmix=0.5, distort=0.5)


@pytest.fixture
def images() -> Dataset:
    """50 flat images; the shade and the class of each are its index."""
    numbers = torch.arange(50)
    pixels = numbers.byte()[:, None, None, None].expand(50, 16, 16, 3).contiguous()
    return Dataset(pixels, numbers, tuple(f"{number:02}" for number in range(50)))


def unchanged(recipe: Recipe) -> Recipe:
    return replace(recipe, cutmix=0.0, distort=0.0)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for one, two in zip(a, b, strict=True)
        for x, y in zip(one, two, strict=True)
    )


def test_epoch_has_every_image_once_except_for_an_incomplete_batch(images: Dataset) -> None:
    batches = list(Batches(images, unchanged(RECIPE), CPU).epoch(0))
    assert len(batches) == 6
    classes = torch.cat([batch.classes for batch in batches])
    assert len({*classes.tolist()}) == 48
    for batch in batches:
        assert (batch.pixels.flatten(1) == batch.classes[:, None]).all()
        assert not batch.pasted.any()


def test_epochs_differ_and_are_reproducible(images: Dataset) -> None:
    batches = Batches(images, RECIPE, CPU)
    first = list(batches.epoch(0))
    assert not same(first, list(batches.epoch(1)))
    assert not same(first, list(Batches(images, replace(RECIPE, seed=1), CPU).epoch(0)))
    assert same(first, list(Batches(images, RECIPE, CPU).epoch(0)))


def test_processes_share_each_batch(images: Dataset) -> None:
    recipe = unchanged(RECIPE)
    alone = [batch.classes for batch in Batches(images, recipe, CPU).epoch(3)]
    shares = [
        [batch.classes for batch in Batches(images, recipe, CPU, rank=rank, processes=2).epoch(3)]
        for rank in range(2)
    ]
    for whole, one, two in zip(alone, *shares, strict=True):
        assert sorted(torch.cat((one, two)).tolist()) == sorted(whole.tolist())
        assert len(one) == len(two) == 4


@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_batches_made_together_have_the_same_properties(images: Dataset, chunk: int) -> None:
    batches = Batches(images, replace(RECIPE, distort=0.0), CPU)
    batches.chunk = chunk
    made = list(batches.epoch(0))
    assert [len(batch.classes) for batch in made] == [8] * 6
    assert len({*torch.cat([batch.classes for batch in made]).tolist()}) == 48
    for batch in made:
        foreign = (batch.pixels != batch.classes[:, None, None, None]).flatten(1)
        assert torch.allclose(foreign.float().mean(1), batch.pasted)
        pasted = batch.pixels.flatten(1) == batch.pasted_classes[:, None]
        assert torch.equal(pasted | ~foreign, torch.ones_like(foreign))
    share = torch.cat([batch.pasted for batch in made]).gt(0).float().mean()
    assert 0.2 < share < 0.8
