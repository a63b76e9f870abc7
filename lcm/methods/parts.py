"""The parts that methods are composed of: paths, couplings, targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import NoiseSchedule, Prediction
from lcm.diffusion.solvers.base import Solver
from lcm.methods.objective import LatentBatch, LossContext, Objective

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


@dataclass(frozen=True)
class Tangent:
    """The student's clean landing point moved against its drift along the teacher's trajectory
    (sCM, Eq. 6 and section 4.1).

    With F = alpha eps - sigma x0 (the v-prediction) and phi = atan2(sigma, alpha): x0 = cos(phi) x
    - sin(phi) F and g = cos(phi) d x0 / d phi = -cos^2(phi) (F - F_teacher) - cos(phi) sin(phi) (x
    + dF / d phi). F is regressed onto F + g. The first term is known exactly; the second, r times
    it, warms up from r = 0 to 1 over the share `warmup` of the run. g is divided by its root mean
    square plus `normalization`; None leaves it as it is.

    `mode` "fd": dF/d phi by the finite difference to u; "jvp": by forward-mode differentiation
    through the target network. Returned is the clean landing point that belongs to F + g, so that
    with the `velocity` weight an l2 loss is |F_student - F - g|^2.
    """

    mode: str = "fd"
    warmup: float = 0.1
    normalization: float | None = 0.1

    def __call__(self, objective: Objective, context: LossContext) -> Tensor:
        schedule, (t, _, _), x_t = objective.schedule, context.times, context.x_t
        cos, sin = schedule.alpha_sigma(t)
        teacher = velocity_of(context.predict(x_t, t), cos, sin)
        here = velocity_of(
            schedule.predict(context.nets.target(x_t, t, context.cond), x_t, t), cos, sin
        )
        drift = {"fd": self.finite_difference, "jvp": self.forward_mode}[self.mode](
            objective, context, teacher, here
        )
        known = -cos.square() * (here - teacher)
        warm = min(1.0, context.progress / self.warmup) if self.warmup > 0 else 1.0
        g = known + warm * (cos * drift - known)
        if self.normalization is not None:
            scale = g.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
            g = g / (scale + self.normalization)
        return cos * x_t - sin * (here + g)

    def finite_difference(
        self, objective: Objective, context: LossContext, teacher: Tensor, here: Tensor
    ) -> Tensor:
        """d x0 / d phi from the landing points of x_t and of x_u, one solver step below."""
        (t, u, _), schedule = context.times, objective.schedule
        cos, sin = schedule.alpha_sigma(t)
        below = objective.target_lands(context, objective.coupling(objective, context))
        return (cos * context.x_t - sin * here - below) / (schedule.phi[t] - schedule.phi[u]).view(
            -1, 1, 1, 1
        )

    def forward_mode(
        self, objective: Objective, context: LossContext, teacher: Tensor, here: Tensor
    ) -> Tensor:
        """d x0 / d phi along dx / d phi = F_teacher, with d t / d phi from the schedule's
        neighbouring timesteps.
        """
        t, schedule = context.times.t, objective.schedule
        phi, last = schedule.phi, schedule.num_train_timesteps - 1
        above, under = (t + 1).clamp(max=last), (t - 1).clamp(min=0)
        rate = (above - under).float() / (phi[above] - phi[under])

        def landing(x: Tensor, time: Tensor, angle: Tensor) -> Tensor:
            output = context.nets.target(x, time, context.cond)
            cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
            return schedule.split(output, x, cos, sin).x0

        # the fused kernels have no forward mode
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            # latents of images are channels-last, which the forward mode of group_norm cannot read
            primals = (context.x_t.contiguous(), t.float(), phi[t])
            tangents = (teacher.contiguous(), rate, torch.ones_like(rate))
            drift: Tensor = torch.func.jvp(landing, primals, tangents)[1]
        return drift


def velocity_of(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha eps - sigma x0, whatever the network predicts."""
    return alpha * prediction.eps - sigma * prediction.x0
