"""Random changes of latents, the same for all that are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.methods.terms.augment import UNIFORMS, augmentation
from tests.support.schedules import randn

STAYS, OUTSIDE = 0.5, 0.0
"""The uniform numbers of no shift, and of a stretch that lies outside."""


def change(x: Tensor, *uniforms: float) -> Tensor:
    """By the same numbers for every sample."""
    assert len(uniforms) == UNIFORMS
    return augmentation([torch.full((len(x),), number) for number in uniforms])(x)


def test_half_of_the_numbers_mirror_and_twice_is_not_at_all() -> None:
    x = randn(2, 4, 8, 16)
    for mirror, expected in ((0.0, x.flip(3)), (0.49, x.flip(3)), (0.5, x), (0.999, x)):
        numbers = mirror, STAYS, STAYS, OUTSIDE, OUTSIDE
        assert torch.equal(change(x, *numbers), expected)
        assert torch.equal(change(change(x, *numbers), *numbers), x)


def test_shifts_reach_an_eighth_to_each_side_and_repeat_the_rim() -> None:
    """All equally likely: of 16 rows and 32 columns, 5 and 9 shifts."""
    x = torch.arange(16.0)[:, None] * 100 + torch.arange(32.0)
    x = x.expand(1, 1, 16, 32)
    for i in range(5):
        moved = change(x, 0.9, (i + 0.5) / 5, STAYS, OUTSIDE, OUTSIDE)
        rows = (torch.arange(16) + i - 2).clamp(0, 15)
        assert torch.equal(moved, x[:, :, rows])
    for i in range(9):
        moved = change(x, 0.9, STAYS, (i + 0.5) / 9, OUTSIDE, OUTSIDE)
        assert torch.equal(moved, x[..., (torch.arange(32) + i - 4).clamp(0, 31)])


def test_at_most_a_quarter_is_cut_out() -> None:
    """A quarter where it lies within, from where it begins outside to where it ends outside; what
    is left is as it was.
    """
    x = randn(1, 4, 8, 16).abs() + 1.0
    hidden = []
    for i in range(97):
        for j in (0, 20, 48, 90):
            changed = change(x, 0.9, STAYS, STAYS, i / 97, j / 97)
            kept = changed != 0
            assert torch.equal(changed[kept], x[kept])
            share = 1 - kept.float().mean((0, 2, 3))
            assert (share == share[0]).all()  # every channel alike
            hidden.append(float(share[0]))
    assert min(hidden) == 0.0 and max(hidden) == 0.25
    whole = change(x, 0.9, STAYS, STAYS, 0.333, 0.333)
    assert not whole[:, :, :4, :8].any() and whole[:, :, 4:].all() and whole[..., 8:].all()


def test_every_sample_is_changed_by_its_own_numbers() -> None:
    x = randn(5, 4, 8, 8)
    uniforms = list(torch.rand(UNIFORMS, 5, generator=torch.Generator().manual_seed(0)))
    together = augmentation(uniforms)(x)
    for i in range(5):
        alone = augmentation([part[i : i + 1] for part in uniforms])(x[i : i + 1])
        assert torch.equal(alone, together[i : i + 1])
