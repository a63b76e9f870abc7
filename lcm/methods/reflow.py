"""Rectified flow on the teacher's pairs of noise and image (Liu et al. 2023), in the teacher's own
parametrisation.

As `endpoint`, but x_t lies on the chord between the ends of the trajectory instead of on the
trajectory itself. That is where deterministic play passes: once it has jumped from noise to x0, it
goes back to t along the chord.
"""

from __future__ import annotations

from dataclasses import replace

from lcm.diffusion.losses import Loss
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods import endpoint
from lcm.methods.objective import Objective
from lcm.methods.parts import OnChord


def build(settings: endpoint.EndpointSettings, schedule: NoiseSchedule, loss: Loss) -> Objective:
    """The clean end of the chord is the target at each of its points.

    Raises ValueError for a grid that DDIM trailing cannot start on.
    """
    return endpoint.regression(settings, schedule, loss, OnChord)


METHOD = replace(endpoint.METHOD, build=build, keeps="ends")
