"""What an entry of OBJECTIVES offers: its flags, its loss, and how stock diffusers plays what it
trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lcm.adapter.recipe import UNCLIPPED, Recipe
from lcm.diffusion.guidance import Guidance
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.solvers.base import repeated
from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.methods import METHODS
from lcm.methods.config import MethodConfig
from lcm.methods.objective import Coupling, Objective
from lcm.methods.parts import FollowPath, FollowSde, FollowTeacher, Noised, bootstrap

LOSS = {"loss_type": "huber", "huber_c": None, "weighting": "uniform", "snr_gamma": 5.0}
TARGET = {"target": "online", "ema_decay": 0.95}
TEACHER = {
    "solver": "ddim",
    "solver_steps": 1,
    "guidance_scale": 7.5,
    "guidance_scale_min": None,
    "guidance_scale_max": None,
    "preserve_cfg": False,
}
COMMON = {**LOSS, **TARGET, **TEACHER}
"""Flags of every method with a teacher and a target network, and their defaults."""


@dataclass(frozen=True)
class Play:
    """A scheduler class of diffusers, what to override in its configuration, step counts it is
    meant for, the call's eta.
    """

    scheduler: str
    scheduler_config: dict[str, Any]
    num_inference_steps: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6, 8])
    eta: float = 0.0


class Method(ABC):
    """A method is its defaults, a choice of parts, and a recipe of play.

    `defaults` holds every flag that the method reads. `keeps` is what it reads of the teacher's
    cached trajectories: "all" points, both "ends", or, with prompts instead of images, the "clean"
    latents alone. Where a method `lands_clean`, both sides of its loss are clean latents, which can
    be decoded and looked at.
    """

    defaults: ClassVar[dict[str, Any]]
    keeps: ClassVar[str] = "clean"
    lands_clean: ClassVar[bool] = False
    experimental: ClassVar[bool] = False

    @property
    def from_trajectories(self) -> bool:
        """Whether images will not do."""
        return self.keeps != "clean"

    @property
    def has_teacher(self) -> bool:
        return "guidance_scale" in self.defaults

    @abstractmethod
    def build(
        self, config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
    ) -> Objective:
        """The loss. `loss` replaces the one that `loss_type` names. Raises ValueError for parts
        that do not fit.
        """

    @abstractmethod
    def play(self, config: MethodConfig) -> Play: ...


def parts(config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None) -> dict[str, Any]:
    """The parts of an Objective that are the same for all methods, from the flags; a method adds
    and replaces.
    """
    low, high = config.guidance_range
    return {
        "schedule": schedule,
        "path": Noised(),
        "coupling": coupling(config),
        "target": bootstrap,
        "loss": loss or LOSSES[str(config.loss_type)],
        "guidance": Guidance(
            low, high, tuple(config.guidance_per_phase or ()), schedule.num_train_timesteps
        ),
        "weight": WEIGHTS[str(config.weighting)],
        "huber_c": config.huber_c,
        "snr_gamma": config.snr_gamma,
        "injection": config.injection or 0.0,
        "is_control": config.as_control,
    }


def coupling(config: MethodConfig) -> Coupling:
    """What the flag names; without the flag, the teacher's solver."""
    if config.coupling == "same_noise":
        return FollowPath()
    if config.coupling == "sde":
        return FollowSde()
    return FollowTeacher(repeated(SOLVERS[config.solver or "ddim"], config.solver_steps or 1))


def lcm_play(config: MethodConfig, num_steps: int | None = None) -> Play:
    """`LCMScheduler` on the grid of training: land, add noise, land again."""
    grid = int(num_steps or config.num_ddim_timesteps or 0)
    overrides = {
        "original_inference_steps": grid,
        "timestep_scaling": config.timestep_scaling_factor or 10.0,
    }
    return Play("LCMScheduler", overrides, [n for n in (1, 2, 3, 4, 6, 8) if n <= grid])


def check_divides(name: str, value: int, schedule: NoiseSchedule) -> None:
    """Raises ValueError unless DDIM trailing visits the times of SolverGrid(value): it does where
    `value` divides T.
    """
    total = schedule.num_train_timesteps
    if total % value:
        fitting = [n for n in range(1, 101) if total % n == 0]
        raise ValueError(
            f"{name}={value} does not divide {total} timesteps, as the sampler does; use one of "
            f"{fitting}"
        )


def trailing_play(num_inference_steps: list[int]) -> Play:
    """`DDIMScheduler` at T - 1 and every T / n below it, down to clean data: deterministic."""
    return Play(
        "DDIMScheduler",
        {"timestep_spacing": "trailing", "set_alpha_to_one": True},
        num_inference_steps,
    )


def build_objective(
    config: MethodConfig, schedule: NoiseSchedule, loss: Loss | None = None
) -> Objective:
    """The loss that the configuration names. `loss` replaces that of `loss_type`.

    Raises ValueError for parts that do not fit.
    """
    return METHODS[config.objective].build(config, schedule, loss)


def play_of(config: MethodConfig) -> Play:
    """How stock diffusers samples with what the configuration trains."""
    return METHODS[config.objective].play(config)


def make_recipe(method: Method, config: MethodConfig, **teacher_facts: object) -> Recipe:
    """The recipe of an adapter trained with `config`; `teacher_facts` are the remaining fields of
    Recipe.
    """
    play = method.play(config)
    return Recipe(
        objective=config.objective,
        scheduler=play.scheduler,
        scheduler_config={
            **play.scheduler_config,
            **UNCLIPPED,
            "rescale_betas_zero_snr": teacher_facts["zero_terminal_snr"],
        },
        trained_guidance_scale=list(config.guidance_range),
        num_inference_steps=play.num_inference_steps,
        guidance_scale=float(config.guidance_scale or 1.0) if config.preserve_cfg else 1.0,
        eta=play.eta,
        injection=config.injection or 0.0,
        **teacher_facts,  # type: ignore[arg-type]
    )
