"""Distortions: the effect of each kind, on the chosen images only."""

import pytest
import torch
from torch import Tensor

from training.distort import BLENDS, KINDS, WARPS, apply, distort


@pytest.fixture
def photos() -> Tensor:
    """Smooth images ``(40, 16, 16, 3)`` with a wide range of values."""
    coarse = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
    return (30 + 200 * smooth).byte().permute(0, 2, 3, 1).contiguous()


def distorted(photos: Tensor, kind: str, strength: float) -> Tensor:
    count = len(photos)
    return apply(photos, torch.full((count,), KINDS.index(kind)), torch.full((count,), strength))


@pytest.mark.parametrize("kind", [*WARPS, *BLENDS])
def test_strength_zero_changes_nothing(photos: Tensor, kind: str) -> None:
    assert torch.equal(distorted(photos, kind, 0.0), photos)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_most_images(photos: Tensor, kind: str) -> None:
    changed = (distorted(photos, kind, -0.7) != photos).flatten(1).any(1)
    assert changed.float().mean() > 0.9


def test_images_that_are_not_chosen_do_not_change(photos: Tensor) -> None:
    kinds = torch.randint(-1, len(KINDS), (len(photos),), generator=torch.Generator())
    strength = torch.full((len(photos),), 0.9)
    seen = apply(photos, kinds, strength)
    assert torch.equal(seen[kinds == -1], photos[kinds == -1])
    for place, kind in enumerate(KINDS):
        chosen = kinds == place
        assert torch.equal(seen[chosen], distorted(photos[chosen], kind, 0.9)), kind


def test_chance_is_the_share_of_distorted_images() -> None:
    photos = torch.randint(0, 256, (1000, 8, 8, 3), dtype=torch.uint8)
    seen = distort(photos, 0.4, torch.Generator().manual_seed(0))
    share = (seen != photos).flatten(1).any(1).float().mean()
    assert 0.33 < share < 0.45
    assert torch.equal(distort(photos, 0.0, torch.Generator()), photos)


def test_shifts_move_by_up_to_a_third_of_the_side(photos: Tensor) -> None:
    moved = distorted(photos, "shift x", 0.75)  # by a quarter: four pixels to the left
    assert torch.equal(moved[:, :, :12], photos[:, :, 4:])
    moved = distorted(photos, "shift y", -0.75)
    assert torch.equal(moved[:, 4:], photos[:, :12])


def test_rotating_back_restores_the_middle(photos: Tensor) -> None:
    half = distorted(photos, "rotate", 0.5).float()
    back = distorted(distorted(photos, "rotate", 0.5), "rotate", -0.5).float()
    middle = (slice(None), slice(4, 12), slice(4, 12))
    error = (back - photos)[middle].abs().mean()
    assert error < (half - photos)[middle].abs().mean() / 2


def test_colours_are_blended_with_a_duller_copy(photos: Tensor) -> None:
    dark = distorted(photos, "brightness", -1.0).float()
    assert (dark - 0.1 * photos).abs().max() <= 0.5
    grey = distorted(photos, "saturation", -1.0).float()
    assert (grey.amax(-1) - grey.amin(-1)).max() < 0.12 * 255
    flat = distorted(photos, "contrast", -1.0).float()
    assert flat.flatten(1).std() < photos.float().flatten(1).std() / 2
    soft, sharp = (distorted(photos, "sharpness", each).float() for each in (-1.0, 1.0))
    assert soft.diff(dim=1).abs().mean() < sharp.diff(dim=1).abs().mean()


def test_tone_operations(photos: Tensor) -> None:
    assert torch.equal(distorted(photos, "solarise", -1.0), 255 - photos)
    assert torch.equal(distorted(photos, "solarise", 1.0), photos)
    levels = distorted(photos, "posterise", 1.0)
    assert (levels % 16 == 0).all()
    stretched = distorted(photos, "stretch", 0.3).flatten(1, 2)
    assert (stretched.amin(1) == 0).all()
    assert (stretched.amax(1) == 255).all()
