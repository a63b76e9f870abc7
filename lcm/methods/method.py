"""What a method is, and the pieces that its file puts together: its loss and how it is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from lcm.adapter.recipe import Play
from lcm.diffusion.consistency import TIMESTEP_SCALING
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.solvers.base import repeated
from lcm.diffusion.tables import SOLVERS, WEIGHTS
from lcm.diffusion.times import TimeSampler
from lcm.methods.objective import Coupling, Objective, Path, Target
from lcm.methods.parts import FollowPath, FollowSde, FollowTeacher, Noised, bootstrap
from lcm.methods.settings import Settings, TeacherSettings

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Method(Generic[S]):
    """A method is its settings, a loss that is built of them, and how stock diffusers plays it.

    `settings` are those by default; their fields are the flags that the method reads, and any other
    is refused. `build` composes the loss of (settings, schedule, distance between landing points);
    it raises ValueError for parts that do not fit. `play` says how to sample with what is trained.

    `keeps` is what the method reads of the teacher's cached trajectories: "all" points, both
    "ends", or, with prompts instead of images, the "clean" latents alone. Where it `lands_clean`,
    the student's landing points are clean latents, which can be decoded and looked at. What its
    loss `compares` them with are "points" that should be the same, or a "direction" to move in, or
    "nothing".
    """

    settings: S
    build: Callable[[S, NoiseSchedule, Loss], Objective]
    play: Callable[[S], Play]
    keeps: Literal["clean", "ends", "all"] = "clean"
    lands_clean: bool = False
    compares: Literal["points", "direction", "nothing"] = "points"
    experimental: bool = False

    @property
    def from_trajectories(self) -> bool:
        """Whether it learns from the teacher's own trajectories, so that images will not do."""
        return self.keeps != "clean"

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is asked, which can be guided."""
        return isinstance(self.settings, TeacherSettings)


def compose(
    settings: Settings,
    schedule: NoiseSchedule,
    loss: Loss,
    *,
    times: TimeSampler,
    coupling: Coupling,
    target: Target = bootstrap,
    path: Path | None = None,
    injection: float = 0.0,
) -> Objective:
    """The loss of these parts, with the guidance, weight and constants of the settings.

    Without a `path`, x_t is the noised image. Landing is the pure jump, which all samplers but
    `LCMScheduler` make. Raises ValueError for parts that do not fit.
    """
    return Objective(
        schedule=schedule,
        times=times,
        path=path or Noised(),
        coupling=coupling,
        target=target,
        loss=loss,
        guidance=settings.guidance(schedule),
        weight=WEIGHTS[settings.weighting],
        huber_c=settings.huber_c,
        snr_gamma=settings.snr_gamma,
        timestep_scaling=None,
        injection=injection,
        is_control=settings.as_control,
    )


def follow_teacher(settings: TeacherSettings) -> Coupling:
    """A coupling from x_t to x_u along the teacher's ODE, with the solver of the settings."""
    return FollowTeacher(repeated(SOLVERS[settings.solver], settings.solver_steps))


def couple(name: str, settings: TeacherSettings) -> Coupling:
    """The coupling that the flag names: "same_noise", "sde" or "solver"."""
    if name == "same_noise":
        return FollowPath()
    return FollowSde() if name == "sde" else follow_teacher(settings)


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


def lcm_play(num_steps: int, timestep_scaling: float = TIMESTEP_SCALING) -> Play:
    """`LCMScheduler` on the grid of training, of `num_steps` steps: land, add noise, land again."""
    overrides = {"original_inference_steps": num_steps, "timestep_scaling": timestep_scaling}
    return Play("LCMScheduler", overrides, [n for n in (1, 2, 3, 4, 6, 8) if n <= num_steps])


def anywhere_play(num_steps: int, num_inference_steps: Sequence[int], eta: float) -> Play:
    """How landing anywhere below is played, on the grid of training, of `num_steps` steps: by
    `TCDScheduler`, which lands at (1 - eta) of the next time and adds noise up to it; with eta 0 by
    `trailing_play` where that visits the same times.

    `TCDScheduler` ends on timestep 0, with the 3 % of noise that are left there; DDIM lands clean,
    as training did. It has no times but even ones, so a grid that the numbers of steps do not
    divide stays with the first: a step from a time that nothing was trained for costs more.
    """
    total = SolverGrid(num_steps).num_train_timesteps
    divides = total % num_steps == 0 and all(num_steps % n == 0 for n in num_inference_steps)
    if eta == 0 and divides:
        return trailing_play(num_inference_steps)
    overrides = {"original_inference_steps": num_steps}
    return Play("TCDScheduler", overrides, list(num_inference_steps), eta)


def trailing_play(num_inference_steps: Sequence[int]) -> Play:
    """`DDIMScheduler` at T - 1 and every T / n below it, down to clean data: deterministic."""
    overrides = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
    return Play("DDIMScheduler", overrides, list(num_inference_steps))
