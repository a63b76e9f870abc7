"""Continuous-time phased consistency: the tangent of `scm` inside the phases of `pcm`.

The student lands on the edge of its phase, and moves against the drift of that landing point along
the teacher's trajectory: the EMD loss of AYF (Sabour et al. 2025), whose landing time is given
instead of told, since no stock pipeline tells it. It is the limit of `pcm` for ever shorter solver
steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcm.adapter.recipe import Play
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import PhaseEdge
from lcm.methods import scm
from lcm.methods.method import Method, check_divides, trailing_play
from lcm.methods.objective import Objective
from lcm.methods.settings import PhaseSettings


@dataclass(frozen=True)
class PhasedScmSettings(scm.ScmSettings, PhaseSettings):
    """The phases, and the tangent of `scm`."""

    dmd_of: str = "noise"


def build(settings: PhasedScmSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """The EMD loss of AYF with the edge of the phase as s.

    Raises ValueError for phases that do not divide the timesteps.
    """
    check_divides("phases", settings.phases, schedule)
    edge = PhaseEdge(SolverGrid(settings.phases, schedule.num_train_timesteps), settings.phases)
    return scm.continuous(settings, schedule, loss, edge, settings.phases)


def play(settings: PhasedScmSettings) -> Play:
    """`DDIMScheduler` trailing in as many steps as there are phases."""
    return trailing_play([settings.phases])


METHOD = Method(PhasedScmSettings(), build, play, compares="direction")
