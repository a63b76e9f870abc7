"""What a fine-tune changed, in few bytes: every matrix of differences as its largest singular
directions, in int8.

Of a weight [out, in, ...] the file has `<name>.up` int8 [out, r], `<name>.down` int8 [r, in * ...]
and `<name>.scale` float32 [r], whose product is the difference; of anything else `<name>.diff`,
float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[r, n] float -> int8 [r, n] and the scale of every row, [r]."""
    scale = rows.abs().amax(dim=1).clamp(min=1e-12) / LEVELS
    return (rows / scale[:, None]).round().to(torch.int8), scale


def pack(before: dict[str, Tensor], after: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The differences of two sets of weights of the same names, with at most `rank` directions a
    matrix.
    """
    packed = {}
    for name, old in before.items():
        difference = after[name].float() - old.float()
        if difference.dim() < 2:
            packed[f"{name}.diff"] = difference.half()
            continue
        u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        up, up_scale = quantized(u.T[:rank].contiguous())
        down, down_scale = quantized(v[:rank].contiguous())
        packed |= {
            f"{name}.up": up.T.contiguous(),
            f"{name}.down": down,
            f"{name}.scale": s[:rank] * up_scale * down_scale,
        }
    return packed


def unpack(packed: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The difference of one weight, in float32 and of the shape of `like`."""
    if f"{name}.diff" in packed:
        return packed[f"{name}.diff"].float()
    return (
        (packed[f"{name}.up"] * packed[f"{name}.scale"]) @ packed[f"{name}.down"].float()
    ).reshape(like.shape)
