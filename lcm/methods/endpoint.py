"""Direct regression onto the endpoint of the teacher's own trajectory (knowledge distillation,
Luhman & Luhman 2021).

From any point of a cached trajectory straight to its end: no target network, no bootstrap, prompts
instead of images. The teacher is asked only while the cache is made, with `solver_steps` steps of
`solver` between neighbouring grid points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import DirectTimes, LandClean
from lcm.methods.method import Method, check_divides, compose, trailing_play
from lcm.methods.objective import Objective, Path
from lcm.methods.parts import FollowPath, OnTrajectory, regress
from lcm.methods.settings import TeacherSettings


@dataclass(frozen=True)
class EndpointSettings(TeacherSettings):
    """The grid of the cached trajectories."""

    num_ddim_timesteps: int = 40
    loss_type: str = "l2"


def build(settings: EndpointSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """The end of the trajectory is the target at each of its points.

    Raises ValueError for a grid that DDIM trailing cannot start on.
    """
    return regression(settings, schedule, loss, OnTrajectory)


def regression(
    settings: EndpointSettings,
    schedule: NoiseSchedule,
    loss: Loss,
    path: Callable[[SolverGrid], Path],
) -> Objective:
    """The loss whose x_t lies on this path of the grid, and whose target is the path's clean end.

    Raises ValueError for a grid that DDIM trailing cannot start on.
    """
    check_divides("num_ddim_timesteps", settings.num_ddim_timesteps, schedule)
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=DirectTimes(grid, LandClean()),
        path=path(grid),
        coupling=FollowPath(),
        target=regress,
    )


def play(settings: EndpointSettings) -> Play:
    """Deterministically, by DDIM through the clean landing point: the noise that `LCMScheduler`
    adds on its way leads away from the trajectories seen in training.
    """
    return trailing_play([n for n in (1, 2, 4, 8) if settings.num_ddim_timesteps % n == 0])


METHOD = Method(EndpointSettings(), build, play, keeps="all", lands_clean=True)
