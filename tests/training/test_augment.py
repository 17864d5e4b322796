"""Augmentation: flips, shifts and cutmix."""

import torch

from training.augment import cutmix, flip_and_shift


def test_augmentation_flips_and_shifts_by_no_more_than_the_margin() -> None:
    columns = torch.arange(16, dtype=torch.uint8)[None, None, :, None].expand(500, 16, 16, 3)
    rows = columns.transpose(1, 2)
    seen = flip_and_shift(columns, torch.Generator().manual_seed(0))[:, 0, :, 0].long()
    flipped = seen[:, 5] > seen[:, 10]
    assert 150 < flipped.sum() < 350
    shift = seen[:, 8] - torch.where(flipped, 7, 8)
    assert (shift.min().item(), shift.max().item()) == (-2, 2)
    assert not (flip_and_shift(rows, torch.Generator())[:, 8, 0, 0] == 8).all()


def test_cutmix_pastes_the_share_that_it_returns() -> None:
    pixels = torch.arange(64).repeat_interleave(16 * 16 * 3).view(64, 16, 16, 3)
    mixed, pasted = cutmix(pixels, 0.5, torch.Generator().manual_seed(0))
    foreign = mixed != pixels
    assert (mixed[foreign] == pixels.roll(1, 0)[foreign]).all()
    assert torch.equal(foreign.float().mean((1, 2, 3)), pasted)
    assert 0.3 < (pasted > 0).float().mean() < 0.7
    assert pasted.max() > 0.5
    alone, pasted = cutmix(pixels, 0.0, torch.Generator())
    assert torch.equal(alone, pixels)
    assert not pasted.any()
