"""Every solver, loss and weight by name: a new one is its function and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcm.system.registry import Table

if TYPE_CHECKING:
    from lcm.diffusion.losses import Loss
    from lcm.diffusion.solvers.base import Solver
    from lcm.diffusion.weighting import Weight

SOLVERS: Table[Solver] = Table(
    "solver",
    {
        "ddim": "lcm.diffusion.solvers.ddim:ddim",
        "heun": "lcm.diffusion.solvers.heun:heun",
        "dpm_solver_pp_2m": "lcm.diffusion.solvers.dpm_solver_pp_2m:dpm_solver_pp_2m",
    },
)
LOSSES: Table[Loss] = Table(
    "loss_type",
    {
        "l2": "lcm.diffusion.losses:l2",
        "l1": "lcm.diffusion.losses:l1",
        "huber": "lcm.diffusion.losses:huber",
        "huber_norm": "lcm.diffusion.losses:huber_norm",
        "cauchy": "lcm.diffusion.losses:cauchy",
        "energy": "lcm.diffusion.losses:energy",
    },
)
WEIGHTS: Table[Weight] = Table(
    "weighting",
    {
        "uniform": "lcm.diffusion.weighting:uniform",
        "snr": "lcm.diffusion.weighting:snr",
        "min_snr": "lcm.diffusion.weighting:min_snr",
        "velocity": "lcm.diffusion.weighting:velocity",
        "inverse_dt": "lcm.diffusion.weighting:inverse_dt",
        "scm_prior": "lcm.diffusion.weighting:scm_prior",
        "alpha_squared": "lcm.diffusion.weighting:alpha_squared",
        "balanced": "lcm.diffusion.weighting:balanced",
    },
)
