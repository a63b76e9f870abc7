"""Random augmentations of latents, the same for all that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

UNIFORMS = 5
"""Uniform numbers of one augmentation: mirroring, two shifts, two places of what is cut out."""
SHIFT = 8
"""Shifts are at most the side divided by this."""


def augmentation(uniforms: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of latents [B, C, h, w] that `UNIFORMS` numbers [B] in [0, 1) stand for, sample by
    sample: mirrored or not, shifted by up to an eighth, which repeats the rim, and with a quarter
    of the area, which may reach beyond it, set to 0.
    """
    mirror, down, right, top, left = uniforms

    def change(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = shifted(down, height)
        columns = shifted(right, width)
        columns = torch.where((mirror < 0.5)[:, None], columns.flip(1), columns)
        sample = torch.arange(len(x), device=x.device)
        moved = x[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        cut = hidden(top, height)[:, :, None] & hidden(left, width)[:, None, :]
        return moved.permute(0, 3, 1, 2) * ~cut[:, None]

    return change


def shifted(uniform: Tensor, side: int) -> Tensor:
    """[B] -> the places [B, side] that are read, each moved by the same number of places."""
    most = side // SHIFT
    offset = (uniform * (2 * most + 1)).long() - most
    return (torch.arange(side, device=uniform.device) + offset[:, None]).clamp(0, side - 1)


def hidden(uniform: Tensor, side: int) -> Tensor:
    """[B] -> whether each place [B, side] lies in a stretch of half the side."""
    begin = uniform[:, None] * 1.5 * side - 0.5 * side
    place = torch.arange(side, device=uniform.device)
    return (place >= begin) & (place < begin + 0.5 * side)
