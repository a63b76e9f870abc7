"""One distillation step, as a composition of a grid, a solver, a landing rule and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lcm.consistency import TIMESTEP_SCALING, land
from lcm.grid import SolverGrid
from lcm.guidance import guide
from lcm.losses import LOSSES, Loss
from lcm.networks import Conditioning
from lcm.recipe import Recipe
from lcm.registry import lookup
from lcm.schedule import CLEAN, NoiseSchedule, Prediction
from lcm.solvers import SOLVERS, Solver


class Roles(Protocol):
    """What an objective asks of the networks: raw outputs [B, C, H, W] float32 for (x_t, t, conditioning)."""

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...

    def target(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


@dataclass(frozen=True)
class LatentBatch:
    """Everything one step needs. `x0`, `noise`: [B, C, h, w] float32; `uniform_*`: [B] float32 in [0, 1).

    The random numbers come with the sample (they are a function of seed, epoch and sample), so the step has none.
    """

    x0: Tensor
    noise: Tensor
    uniform_time: Tensor
    uniform_guidance: Tensor
    cond: Conditioning
    uncond: Conditioning


@dataclass
class ObjectiveConfig:
    """Flags of the distillation itself."""

    objective: str = field(default="lcm", metadata={"help": "what to distil with; one of lcm.objectives.OBJECTIVES"})
    num_ddim_timesteps: int = field(
        default=50, metadata={"help": "solver steps between noise and image; stock LCMScheduler and ComfyUI assume 50"}
    )
    solver: str = field(default="ddim", metadata={"help": "ODE solver of the teacher: " + " or ".join(SOLVERS)})
    loss_type: str = field(default="huber", metadata={"help": "distance between landing points: " + ", ".join(LOSSES)})
    huber_c: float = field(default=0.001, metadata={"help": "c of the pseudo-Huber losses"})
    guidance_scale: float = field(
        default=7.5, metadata={"help": "guidance of the teacher that is distilled in, as in pipelines: 1 is none"}
    )
    guidance_scale_min: float | None = field(
        default=None, metadata={"help": "with guidance_scale_max: draw the guidance of every sample from this range instead"}
    )
    guidance_scale_max: float | None = field(default=None, metadata={"help": "see guidance_scale_min"})
    timestep_scaling_factor: float = field(
        default=TIMESTEP_SCALING, metadata={"help": "of the boundary scalings; LCMScheduler has 10"}
    )

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and highest guidance_scale of training."""
        if self.guidance_scale_min is None or self.guidance_scale_max is None:
            return self.guidance_scale, self.guidance_scale
        return self.guidance_scale_min, self.guidance_scale_max

    def check_objective(self) -> None:
        """Raises ValueError for flags that contradict each other or make no sense."""
        lookup(SOLVERS, self.solver, "solver")
        lookup(LOSSES, self.loss_type, "loss_type")
        if (self.guidance_scale_min is None) != (self.guidance_scale_max is None):
            raise ValueError("guidance_scale_min and guidance_scale_max make a range only together; pass both or neither")
        low, high = self.guidance_range
        if not 1.0 <= low <= high:
            raise ValueError(
                f"guidance_scale must be at least 1 (1 = no guidance) and a range must ascend; got {low} to {high}. "
                "The w of the LCM paper is guidance_scale - 1"
            )
        if not 1 <= self.num_ddim_timesteps <= 1000:
            raise ValueError(f"num_ddim_timesteps must lie in 1..1000; got {self.num_ddim_timesteps}")
        if not (self.huber_c > 0 and self.timestep_scaling_factor > 0):
            raise ValueError("huber_c and timestep_scaling_factor must be positive")


LandingRule = Callable[[Tensor, Tensor], Tensor]
"""(t, u) -> s <= u: where both sides of the loss land, all [B] int64."""


def land_clean(t: Tensor, u: Tensor) -> Tensor:
    """s = CLEAN for every pair: the consistency function of CM and LCM."""
    return torch.full_like(t, CLEAN)


@dataclass(frozen=True)
class Objective:
    """A consistency distillation loss. Every part is a function; a method is a choice of parts."""

    schedule: NoiseSchedule
    grid: SolverGrid
    solver: Solver
    loss: Loss
    guidance_range: tuple[float, float]
    landing: LandingRule = land_clean
    huber_c: float = 0.001
    timestep_scaling: float = TIMESTEP_SCALING

    def __call__(self, nets: Roles, batch: LatentBatch) -> Tensor:
        """The loss of every sample, [B] float32 (LCM, Algorithm 1).

        The student comes last: its saved activations then never coexist with the passes that need no gradient.
        """
        t, u = self.grid.pair(batch.uniform_time)
        s = self.landing(t, u)
        x_t = self.schedule.add_noise(batch.x0, batch.noise, t)
        with torch.no_grad():
            x_u = self.solver(self.guided_teacher(nets, batch), self.schedule, x_t, t, u)
            target = self._land(nets.target(x_u, u, batch.cond), x_u, u, s)
        landed = self._land(nets.student(x_t, t, batch.cond), x_t, t, s)
        return self.loss(landed, target, self.huber_c)

    def guided_teacher(self, nets: Roles, batch: LatentBatch) -> Callable[[Tensor, Tensor], Prediction]:
        """The teacher with guidance: conditional and unconditional halves in one call of twice the batch."""
        low, high = self.guidance_range
        guidance_scale = low + (high - low) * batch.uniform_guidance
        both = batch.cond.cat(batch.uncond)

        def predict(x_t: Tensor, t: Tensor) -> Prediction:
            if low == high == 1.0:
                return self.schedule.predict(nets.teacher(x_t, t, batch.cond), x_t, t)
            cond, uncond = nets.teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
            return self.schedule.predict(guide(cond, uncond, guidance_scale), x_t, t)

        return predict

    def _land(self, output: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return land(self.schedule, output, x_t, t, s, timestep_scaling=self.timestep_scaling)


class Method(Protocol):
    """What an entry of OBJECTIVES offers: the loss, and how stock diffusers plays what it trains."""

    def build(self, config: ObjectiveConfig, schedule: NoiseSchedule) -> Objective: ...

    def play(self, config: ObjectiveConfig) -> tuple[str, dict[str, object]]:
        """Scheduler class name and configuration overrides."""
        ...


def make_recipe(method: Method, config: ObjectiveConfig, **teacher_facts: object) -> Recipe:
    """The recipe of an adapter trained with `config`; `teacher_facts` are the remaining fields of Recipe."""
    scheduler, scheduler_config = method.play(config)
    scheduler_config = {**scheduler_config, "rescale_betas_zero_snr": teacher_facts["zero_terminal_snr"]}
    return Recipe(
        objective=config.objective,
        scheduler=scheduler,
        scheduler_config=scheduler_config,
        trained_guidance_scale=list(config.guidance_range),
        **teacher_facts,  # type: ignore[arg-type]
    )
