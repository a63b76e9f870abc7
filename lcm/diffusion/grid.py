"""The solver grid: which timesteps training pairs use, and which of them a few-step sampler
visits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def which_of(count: int | Tensor, uniform: Tensor) -> Tensor:
    """Turns uniform numbers [B] in [0, 1) into one of 0 to `count` - 1 each, [B] int64, all equally
    likely; `count` may be another for each.
    """
    # rounding to float32 may have made a 1.0
    return (uniform * count).long().clamp(max=count - 1)


@dataclass(frozen=True)
class SolverGrid:
    """`num_steps` timesteps k-1, 2k-1, ... with stride k = num_train_timesteps // num_steps (LCM,
    section 4.3).

    The step below the first grid point lands on clean data (t = -1), not on timestep 0 whose
    latents still carry 3 % noise: `LCMScheduler` returns the clean x0, so that is what the student
    learns.
    """

    num_steps: int = 50
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_ddim_timesteps must lie in 1..{self.num_train_timesteps}; got "
                f"{self.num_steps}"
            )

    @property
    def stride(self) -> int:
        return self.num_train_timesteps // self.num_steps

    @property
    def timesteps(self) -> Tensor:
        """[num_steps] int64, ascending."""
        return torch.arange(1, self.num_steps + 1) * self.stride - 1

    @property
    def last(self) -> int:
        """The noisiest of the timesteps."""
        return self.num_steps * self.stride - 1

    def at(self, uniform: Tensor) -> Tensor:
        """Turns uniform numbers [B] in [0, 1) into grid points [B] int64, every one equally
        likely.
        """
        return (which_of(self.num_steps, uniform) + 1) * self.stride - 1

    def few_step(self, num_inference_steps: int, first: int | None = None) -> Tensor:
        """The descending timesteps [num_inference_steps] that `LCMScheduler` visits with this grid;
        from `first` on those of the part of it that is left, as with a strength below 1.

        Raises ValueError when more steps are asked for than the grid, or that part, has.
        """
        timesteps = self.timesteps.flip(0)
        if first is not None:
            below = timesteps[timesteps < first]
            timesteps = torch.cat([torch.tensor([first]), below])
        if not 1 <= num_inference_steps <= len(timesteps):
            left = "" if first is None else f", of which {len(timesteps)} are left from {first} on"
            raise ValueError(
                f"num_inference_steps={num_inference_steps} does not fit the {self.num_steps} "
                f"solver steps this model was trained on{left}; pass 1..{len(timesteps)}"
            )
        return timesteps[torch.arange(num_inference_steps) * len(timesteps) // num_inference_steps]


def steps_of_call(
    steps: int, first_timestep: int | None, scheduler_config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call of a stock pipeline is told of its steps, with a scheduler of this configuration
    that takes timesteps: pure noise is taken for x at the first. What a network says of epsilon
    there counts sigma / alpha fold in the picture, much less than at the last timestep, which is
    why Hyper-SD plays a single step from 800, DMD2 from 399.

    Raises ValueError for more steps than lie at or below the first timestep.
    """
    if first_timestep is None:
        return {"num_inference_steps": steps}
    grid = SolverGrid(scheduler_config.get("original_inference_steps", SolverGrid.num_steps))
    return {"timesteps": grid.few_step(steps, first_timestep).tolist()}
