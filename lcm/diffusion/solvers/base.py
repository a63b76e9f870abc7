"""The contract of a solver, and solvers made of shorter steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule, Prediction

Predict = Callable[[Tensor, Tensor], Prediction]
"""(x_t [B, C, H, W], t [B] int64 in [0, T)) -> Prediction. May be called several times a step."""

Solver = Callable[[Predict, NoiseSchedule, Tensor, Tensor, Tensor], Tensor]
"""(predict, schedule, x_t, t, s) -> x_s, float32: follows dx/dt of `predict` from t down to s, both
[B] int64, s <= t.

`s` may be CLEAN, where no network can be asked. At s = t the result is x_t. Samples of a batch do
not influence each other.
"""


@dataclass(frozen=True)
class Remembering:
    """A solver that uses earlier evaluations: `fresh` gives one with an empty memory, for the steps
    of one pair. Called itself, it makes a single step, with nothing to remember.
    """

    fresh: Callable[[], Solver]

    def __call__(
        self, predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        return self.fresh()(predict, schedule, x_t, t, s)


def substeps(t: Tensor, s: Tensor, steps: int) -> list[Tensor]:
    """`steps` + 1 times [B] int64 from t down to s, evenly spaced up to rounding; neighbours may be
    equal.
    """
    # integers throughout: t - (t - s) i / steps, rounded alike on every device
    return [t - (2 * i * (t - s) + steps) // (2 * steps) for i in range(steps + 1)]


def repeated(solver: Solver, steps: int) -> Solver:
    """A solver that goes from t to s in `steps` steps of `solver`. A step of no length is the
    identity, exactly.

    Raises ValueError for `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"solver steps must be positive; got {steps}")

    def integrate(
        predict: Predict, schedule: NoiseSchedule, x_t: Tensor, t: Tensor, s: Tensor
    ) -> Tensor:
        times, x = substeps(t, s, steps), x_t
        step = solver.fresh() if isinstance(solver, Remembering) else solver
        for here, there in pairwise(times):
            # a sample that has arrived early at the clean end waits there; the network is asked at
            # 0 and not listened to
            moved = step(predict, schedule, x, here.clamp(min=0), there)
            x = torch.where((here == there).view(-1, 1, 1, 1), x, moved)
        return x

    return integrate
