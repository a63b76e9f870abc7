"""The parts that methods are composed of: paths, couplings, targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import Solver
from lcm.methods.context import LatentBatch, LossContext
from lcm.methods.objective import Objective

# --- paths ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noised:
    """x_t = alpha_t x0 + sigma_t eps."""

    is_straight: bool = True

    def __call__(self, schedule: NoiseSchedule, batch: LatentBatch, t: Tensor) -> Tensor:
        return schedule.add_noise(batch.x0, batch.noise, t)


@dataclass(frozen=True)
class OnTrajectory:
    """x_t of the teacher's cached trajectory; t must be a grid point."""

    grid: SolverGrid
    is_straight: bool = False

    def __call__(self, schedule: NoiseSchedule, batch: LatentBatch, t: Tensor) -> Tensor:
        if batch.trajectory is None:
            raise ValueError(
                "this objective follows the teacher's cached trajectories; pass --prompts_file "
                "instead of images"
            )
        rows = torch.arange(len(t), device=t.device)
        return batch.trajectory[rows, (t + 1) // self.grid.stride]


@dataclass(frozen=True)
class OnChord:
    """x_t = alpha_t x0 + sigma_t eps of the two ends of the teacher's cached trajectory: x0, and
    the eps that makes x_T its start (rectified flow, Liu et al. 2023; the last time T of the grid).
    Where deterministic play through x0 passes.
    """

    grid: SolverGrid
    is_straight: bool = False

    def __call__(self, schedule: NoiseSchedule, batch: LatentBatch, t: Tensor) -> Tensor:
        if batch.trajectory is None:
            raise ValueError(
                "this objective needs the ends of the teacher's cached trajectories; pass "
                "--prompts_file"
            )
        x0, start = batch.trajectory[:, 0], batch.trajectory[:, -1]
        alpha, sigma = schedule.alpha_sigma(torch.full_like(t, self.grid.last))
        return schedule.add_noise(x0, (start - alpha * x0) / sigma, t)


@dataclass(frozen=True)
class Played:
    """x_t = alpha_t f(x_t') + sigma_t z with t' anywhere above t: where `LCMScheduler` comes past,
    which adds noise to what the student made of a noisier point, and not to a picture (backward
    simulation, DMD2, section 4.5). Here x_t' is the noised picture and f the target network's
    landing point.

    The `share` of the samples whose uniform_landing is below it; landing clean has no other use of
    that number, and its place in the share gives t'. The others stay on the path. The share grows
    to its full size over the first `warmup_steps` updates: what a student makes of noise before it
    has learned anything is not where it will come past.
    """

    share: float
    warmup_steps: int
    noises: int = 1

    def share_at(self, update: int) -> float:
        """The share of the samples, in (0, 1], in update number `update`, counted from 0."""
        return self.share * min(1.0, (update + 1) / max(1, self.warmup_steps))

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        batch, schedule, t = context.batch, objective.schedule, context.times.t
        last = schedule.num_train_timesteps - 1
        share = self.share_at(context.update)
        rise = (last - t) * (batch.uniform_landing / share)
        above = (t + 1 + rise.long()).clamp(max=last)
        higher = objective.path(schedule, batch, above)
        output = context.nets.target(higher, above, context.cond)
        clean = objective.land(output, higher, above, torch.full_like(t, CLEAN))
        assert batch.extra_noise is not None
        passed = schedule.add_noise(clean, batch.extra_noise[:, 0], t)
        return torch.where((batch.uniform_landing < share).view(-1, 1, 1, 1), passed, context.x_t)


# --- couplings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FollowTeacher:
    """x_u = Phi(x_t, t -> u), the guided teacher's probability-flow ODE."""

    solver: Solver
    kind: str = "solver"

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        return self.solver(
            context.predict, objective.schedule, context.x_t, context.times.t, context.times.u
        )


@dataclass(frozen=True)
class FollowPath:
    """x_u on the path that x_t lies on: the same image and noise (CT), or the cached trajectory.
    Asks no teacher.
    """

    kind: str = "path"

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        return objective.path(objective.schedule, context.batch, context.times.u)


@dataclass(frozen=True)
class FollowSde:
    """x_u = alpha_u x0 + sqrt(sigma_u^2 - d^2) eps + d z, a step of the reverse SDE (DDIM, Eq. 12
    and 16 with eta = 1).
    """

    kind: str = "sde"

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        (t, u, _), schedule = context.times, objective.schedule
        (alpha_t, sigma_t), (alpha_u, sigma_u) = schedule.alpha_sigma(t), schedule.alpha_sigma(u)
        deviation = sigma_u / sigma_t * (1.0 - (alpha_t / alpha_u).square()).clamp(min=0.0).sqrt()
        x0, eps = context.predict(context.x_t, t)
        assert context.batch.extra_noise is not None
        fresh = context.batch.extra_noise[:, 3]
        return (
            alpha_u * x0
            + (sigma_u.square() - deviation.square()).clamp(min=0.0).sqrt() * eps
            + deviation * fresh
        )


# --- targets --------------------------------------------------------------------------------------


def bootstrap(objective: Objective, context: LossContext) -> Tensor:
    """Where the target network lands from x_u: f(x_u, u -> s) (CM, Eq. 7; LCM, Eq. 14)."""
    return objective.target_lands(context, objective.coupling(objective, context))


def regress(objective: Objective, context: LossContext) -> Tensor:
    """x_u itself, for times with s = u. No network is asked."""
    return objective.coupling(objective, context)
