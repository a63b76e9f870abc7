"""Few-step sampling as plain functions over a list of timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule

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

    `x` is unit noise at timesteps[0] (alpha there is 0.07, not 0, as every SD pipeline ignores);
    `timesteps` descend; `draw_noise()` gives unit noise like x and is called len(timesteps) - 1
    times.
    """
    times = torch.as_tensor(timesteps).tolist()
    for i, t in enumerate(times):
        x0 = f(x, torch.full((len(x),), t, device=x.device))
        if i + 1 == len(times):
            return x0
        x = schedule.add_noise(
            x0, draw_noise(), torch.full((len(x),), times[i + 1], device=x.device)
        )
    raise ValueError(
        "timesteps is empty; pass at least one, for example SolverGrid(50).few_step(4)"
    )


Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t [B, C, H, W], t [B] int64, s [B] int64) -> x_s, the student's landing point at s."""


def sample_trajectory(
    jump: Jump,
    schedule: NoiseSchedule,
    x: Tensor,
    timesteps: Sequence[int] | Tensor,
    draw_noise: Callable[[], Tensor],
    *,
    gamma: float = 0.0,
    final: int = CLEAN,
) -> Tensor:
    """Strategic stochastic sampling (TCD, Algorithm 4): land at (1 - gamma) of the next time, add
    noise up to it.

    gamma 0 is deterministic: phased models with DDIM trailing. gamma 1 is multistep consistency
    sampling. The last step lands at `final`: CLEAN, or 0 as `TCDScheduler` has it. `draw_noise()`
    is called len(timesteps) - 1 times, never with gamma 0. Raises ValueError for no timesteps or a
    gamma outside 0..1.
    """
    times = [*torch.as_tensor(timesteps).tolist(), final]
    if len(times) < 2 or not 0.0 <= gamma <= 1.0:
        raise ValueError(
            f"pass at least one timestep and a gamma in 0..1; got {len(times) - 1} timesteps and "
            f"gamma {gamma}"
        )

    def at(time: int) -> Tensor:
        return torch.full((len(x),), time, device=x.device)

    for t, following in pairwise(times):
        is_last = following == final
        s = following if is_last else math.floor((1.0 - gamma) * following)
        x = jump(x, at(t), at(s))
        if gamma > 0 and not is_last:
            ratio = schedule.alphas[following] / schedule.alphas[s]
            x = ratio * x + (1.0 - ratio**2).clamp(min=0.0).sqrt() * draw_noise()
    return x


def sample_stochastic_flow(
    f: ConsistencyFunction,
    schedule: NoiseSchedule,
    x: Tensor,
    timesteps: Sequence[int] | Tensor,
    draw_noise: Callable[[], Tensor],
    *,
    injection: float,
) -> Tensor:
    """Multistep sampling with a random landing point: f is asked at x_t + injection sigma_t z, with
    a fresh z every step.

    `injection` is the recipe's. Experimental.
    """

    def randomly(x_t: Tensor, t: Tensor) -> Tensor:
        return f(x_t + injection * schedule.alpha_sigma(t)[1] * draw_noise(), t)

    return sample_consistency(randomly, schedule, x, timesteps, draw_noise)
