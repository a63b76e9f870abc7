"""Trajectory segmented consistency (Hyper-SD, Ren et al. 2024): segments merged 8 -> 4 -> 2 -> 1 in
one run.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, WithinSegment
from lcm.methods.method import Method, anywhere_play, compose, follow_teacher
from lcm.methods.objective import Objective
from lcm.methods.settings import DistillationSettings


@dataclass(frozen=True)
class TscdSettings(DistillationSettings):
    """The grid of solver steps and the numbers of segments, merged in turn over the run."""

    num_ddim_timesteps: int = 40
    segments: tuple[int, ...] = (8, 4, 2, 1)
    loss_type: str = "l2"
    eta: float = 0.0
    dmd_of: str = "noise"

    @property
    def follows_progress(self) -> bool:
        """Segments are merged."""
        return len(self.segments) > 0 or super().follows_progress


def build(settings: TscdSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """Hyper-SD, Algorithm 1, without its adversarial term: both ends of a solver step land anywhere
    between the segment's edge and u.

    Raises ValueError when an edge is no grid point, or would be crossed at play.
    """
    if settings.eta and settings.segments[-1] > 1:
        raise ValueError(
            f"eta={settings.eta} lands below the edge of a segment, untrained; let segments end "
            "in 1, or pass --eta 0"
        )
    grid = SolverGrid(settings.num_ddim_timesteps, schedule.num_train_timesteps)
    return compose(
        settings,
        schedule,
        loss,
        times=GridTimes(grid, WithinSegment(grid, settings.segments)),
        coupling=follow_teacher(settings),
    )


def play(settings: TscdSettings) -> Play:
    """DDIM trailing, as Hyper-SD plays its adapters; `TCDScheduler` with `eta`. A step of play must
    not cross an edge of the last segments, so their number divides that of the steps.
    """
    grid, last = settings.num_ddim_timesteps, settings.segments[-1]
    steps = [last] + [last * k for k in (2, 4, 8) if last * k <= min(8, grid)]
    return anywhere_play(grid, steps, settings.eta)


METHOD = Method(TscdSettings(), build, play)
