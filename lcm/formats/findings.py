"""What can be wrong with the numbers of an adapter file: commands and `lcm.attach` ask here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lcm.formats.factors import Factors

EXACT_IN_HALF = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Types whose every value float16 has: they are read as that."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *EXACT_IN_HALF)

HUGE = 100.0
"""A root mean square of what is added to a weight that no trained adapter comes near: the weights
of Stable Diffusion are below 1, and pictures are black long before.
"""


def alpha_problem(tensor: Tensor) -> str | None:
    """What keeps a tensor from being the alpha of a layer."""
    if tensor.numel() == 1 and not tensor.is_complex():
        value = float(tensor)
        if math.isfinite(value) and value != 0:
            return None
    shown = tensor.tolist() if tensor.numel() < 5 else list(tensor.shape)
    return f"is no usable alpha ({shown})"


def matrix_problem(tensor: Tensor) -> str | None:
    """What keeps a tensor from being a matrix of a LoRA, its numbers aside."""
    if tensor.dtype not in FLOATS:
        return f"holds {tensor.dtype} values; export the adapter in float16, bfloat16 or float32"
    if tensor.dim() not in (2, 4) or not tensor.numel():
        return f"has the shape {list(tensor.shape)}; a LoRA's matrices have 2 or 4 axes"
    return None


def number_problem(largest: float) -> str | None:
    """What keeps numbers, `largest_of` them, from being those of a matrix of a LoRA."""
    if math.isfinite(largest):
        return None
    return "holds values that are not finite; the training diverged, or the precision was too low"


def in_half(tensor: Tensor) -> Tensor:
    """The tensor, those of 8 bits in float16: torch computes with no others."""
    return tensor.half() if tensor.dtype in EXACT_IN_HALF else tensor


def strength_problems(modules: Mapping[str, Factors], largest: Mapping[str, float]) -> list[str]:
    """Layers that add more to their weights than any trained adapter does. `largest` has of every
    layer the product of `largest_of` its two matrices.
    """
    sizes = {
        name: f.rms
        for name, f in modules.items()
        # no element of the delta is above that
        if not abs(f.scale) * f.rank * largest[name] <= HUGE
    }
    huge = {name: size for name, size in sizes.items() if not size <= HUGE}
    if not huge:
        return []
    name, size = max(huge.items(), key=lambda pair: pair[1])
    factors = modules[name]
    return [
        f"{len(huge)} of {len(modules)} layers would change their weights beyond all measure: "
        f"{name} by {size:.1e} (root mean square; alpha {factors.alpha:g}, rank {factors.rank}), "
        "and pictures turn black; the training diverged, or alpha is wrong"
    ]


def largest_of(tensor: Tensor) -> float:
    """The largest absolute value; not a number where one of them is none."""
    low, high = tensor.aminmax()
    return max(abs(low.item()), abs(high.item()))


def strength_warnings(modules: Mapping[str, Factors]) -> list[str]:
    """What plays, and is seldom meant."""
    negative = [name for name, factors in modules.items() if factors.alpha < 0]
    if not negative:
        return []
    return [
        f"alpha is negative in {len(negative)} of {len(modules)} layers, {negative[0]} first: they "
        "play against what was trained"
    ]
