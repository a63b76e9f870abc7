"""Multistep consistency sampling as a plain function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lcm.schedule import NoiseSchedule

ConsistencyFunction = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, C, H, W], t [B] int64) -> the clean landing point, like x_t."""


def sample_consistency(
    f: ConsistencyFunction,
    schedule: NoiseSchedule,
    x: Tensor,
    timesteps: Sequence[int] | Tensor,
    draw_noise: Callable[[], Tensor],
) -> Tensor:
    """CM, Algorithm 1: land, put noise of the next time on, land again. Returns clean latents.

    `x` is unit noise at timesteps[0] (alpha there is 0.07, not 0, as every SD pipeline ignores); `timesteps` descend;
    `draw_noise()` gives unit noise like x and is called len(timesteps) - 1 times.
    """
    times = torch.as_tensor(timesteps).tolist()
    for i, t in enumerate(times):
        x0 = f(x, torch.full((len(x),), t, device=x.device))
        if i + 1 == len(times):
            return x0
        x = schedule.add_noise(x0, draw_noise(), torch.full((len(x),), times[i + 1], device=x.device))
    raise ValueError("timesteps is empty; pass at least one, for example SolverGrid(50).few_step(4)")
