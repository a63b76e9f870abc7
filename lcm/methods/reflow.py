"""Rectified flow on the teacher's pairs of noise and image (Liu et al. 2023), in the teacher's own
parametrisation.
"""

from __future__ import annotations

from lcm.diffusion.grid import SolverGrid
from lcm.methods.endpoint import Endpoint
from lcm.methods.objective import Path
from lcm.methods.parts import OnChord


class Reflow(Endpoint):
    """As `endpoint`, but x_t lies on the chord between the ends of the trajectory instead of on the
    trajectory itself.

    That is where deterministic play passes: once it has jumped from noise to x0, it goes back to t
    along the chord.
    """

    keeps = "ends"

    def path(self, grid: SolverGrid) -> Path:
        return OnChord(grid)


METHOD = Reflow()
