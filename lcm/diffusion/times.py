"""Which times a training step uses: from where the student lands (t), the point the teacher reaches
(u), where both land (s).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lcm.diffusion.grid import SolverGrid, which_of
from lcm.diffusion.levels import Draw, evenly
from lcm.diffusion.schedule import CLEAN
from lcm.system.transfers import sent


class Times(NamedTuple):
    """s <= u < t, all [B] int64. With s = u the target is the point at u itself: direct
    regression.
    """

    t: Tensor
    u: Tensor
    s: Tensor


class TimeSampler(Protocol):
    """Turns a sample's uniform numbers [B] in [0, 1) and the progress of the run in [0, 1) into
    times.
    """

    @property
    def direct(self) -> bool:
        """Whether s = u always."""
        ...

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times: ...


class Landing(Protocol):
    """(t, u, uniform, progress) -> s <= u, all [B]."""

    def __call__(self, t: Tensor, u: Tensor, uniform: Tensor, progress: float) -> Tensor: ...


@dataclass(frozen=True)
class LandClean:
    """s = CLEAN: the consistency function of CM and LCM."""

    def __call__(self, t: Tensor, u: Tensor, uniform: Tensor, progress: float) -> Tensor:
        return torch.full_like(t, CLEAN)


def check_phases(grid: SolverGrid, phases: int, name: str) -> None:
    """Raises ValueError when the edges are no points of the grid: a sampler would then visit times
    that nothing was trained for.
    """
    steps, total = grid.num_steps, grid.num_train_timesteps
    if phases < 1 or steps % phases or total % phases or total % steps:
        fitting = [
            m
            for m in range(1, steps + 1)
            if steps % m == 0 and total % m == 0 and total % steps == 0
        ]
        raise ValueError(
            f"{name}={phases} does not divide a grid of {steps} solver steps over {total} "
            "timesteps: the sampler would visit other times than the edges; use some of "
            f"{fitting}, or num_ddim_timesteps 40"
        )


@dataclass(frozen=True)
class PhaseEdge:
    """s = the edge below t when [0, T) is cut into `phases` equal parts (PCM, section 3.1): what M
    trailing steps visit.

    Raises ValueError when the edges are no points of the grid.
    """

    grid: SolverGrid
    phases: int

    def __post_init__(self) -> None:
        check_phases(self.grid, self.phases, "phases")

    def __call__(self, t: Tensor, u: Tensor, uniform: Tensor, progress: float) -> Tensor:
        width = self.grid.num_train_timesteps // self.phases
        return t // width * width - 1


@dataclass(frozen=True)
class WithinSegment:
    """s uniform over the grid points from the segment's lower edge up to u, both included (CTM
    inside segments: TSCD).

    `segments` are merged in turn, each for an equal share of the run: (8, 4, 2, 1) is Hyper-SD's
    schedule, (1,) is TCD's uniform landing.
    """

    grid: SolverGrid
    segments: tuple[int, ...]

    def __post_init__(self) -> None:
        # a single segment has no edge but the clean end
        for phases in self.segments if self.segments != (1,) else ():
            check_phases(self.grid, phases, "segments")

    def __call__(self, t: Tensor, u: Tensor, uniform: Tensor, progress: float) -> Tensor:
        phases = self.segments[min(int(progress * len(self.segments)), len(self.segments) - 1)]
        edge = PhaseEdge(self.grid, phases)(t, u, uniform, progress)
        choices = (u - edge) // self.grid.stride + 1
        return edge + which_of(choices, uniform) * self.grid.stride


@cache
def landing_targets(grid: SolverGrid, step_counts: tuple[int, ...], device: torch.device) -> Tensor:
    """The times that samplers of so many steps visit after the first, [M] int64 ascending, CLEAN
    before them; sent to a device once, not in every step.
    """
    visited = {int(t) for n in step_counts for t in grid.few_step(n)[1:]}
    return sent(torch.tensor([CLEAN, *sorted(visited)]), device)


@dataclass(frozen=True)
class TargetSet:
    """s from the times that samplers of `step_counts` steps on this grid visit, at or below u, or
    CLEAN; moved down by up to `jitter` of itself (TDD).

    The jitter matches play with stochasticity gamma, which lands at (1 - gamma) of the next time
    before it adds noise. `window`: only times that lie no more than so many timesteps below the
    highest one that is left, CLEAN counting as 0 (260 in TDD); the whole schedule leaves all.
    """

    grid: SolverGrid
    step_counts: tuple[int, ...]
    jitter: float
    window: int = 1000

    def __post_init__(self) -> None:
        if max(self.step_counts) > self.grid.num_steps:
            raise ValueError(
                f"landing_steps must lie in 1..{self.grid.num_steps}, the solver steps; got "
                f"{max(self.step_counts)}"
            )

    def __call__(self, t: Tensor, u: Tensor, uniform: Tensor, progress: float) -> Tensor:
        targets = landing_targets(self.grid, self.step_counts, t.device)
        times = targets.clamp(min=0)
        end = torch.searchsorted(targets, u, right=True)
        first = torch.searchsorted(times, (times[end - 1] - self.window).clamp(min=0))
        scaled = uniform * (end - first)
        chosen = torch.minimum(scaled.long(), end - first - 1)
        s = targets[first + chosen]
        # the fraction that the choice of the target left over is uniform again
        return torch.where(s > 0, (s * (1.0 - self.jitter * (scaled - chosen))).long(), s)


@dataclass(frozen=True)
class GridTimes:
    """Points of the solver grid: t any of them, u the one `skipping_steps` below, or clean data
    where there is none (LCM, Algorithm 1 and section 4.3; one below is CM, Algorithm 2).
    """

    grid: SolverGrid
    landing: Landing
    skipping_steps: int = 1
    direct: bool = False

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        t = self.grid.at(uniform)
        u = (t - self.skipping_steps * self.grid.stride).clamp(min=CLEAN)
        return Times(t, u, self.landing(t, u, uniform_landing, progress))


@dataclass(frozen=True)
class DirectTimes:
    """u = s = the landing point: regression of the flow map onto a point of the teacher's
    trajectory.
    """

    grid: SolverGrid
    landing: Landing
    direct: bool = True

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        t = self.grid.at(uniform)
        s = self.landing(t, t - self.grid.stride, uniform_landing, progress)
        return Times(t, s, s)


@dataclass(frozen=True)
class TangentTimes:
    """t from the timesteps from `step` on, u as far below: the two ends of a finite difference
    along the trajectory, which does not reach below the landing time. `draw` has how often.
    """

    num_train_timesteps: int
    step: int
    landing: Landing = LandClean()
    draw: Draw = evenly
    direct: bool = False

    def __call__(self, uniform: Tensor, uniform_landing: Tensor, progress: float) -> Times:
        edges = torch.arange(self.step - 1, self.num_train_timesteps, device=uniform.device)
        t = self.step + self.draw(uniform, torch.where(edges < self.step, CLEAN, edges))
        s = self.landing(t, t - self.step, uniform_landing, progress)
        return Times(t, torch.maximum(t - self.step, s), s)
