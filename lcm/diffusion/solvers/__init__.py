"""Solvers of the probability-flow ODE: functions (predict, schedule, x_t, t, s) -> x_s, one file
each.
"""

from __future__ import annotations

from lcm.diffusion.solvers.base import Predict, Solver, repeated, substeps
from lcm.diffusion.solvers.ddim import ddim
from lcm.diffusion.solvers.dpm_solver_pp_2m import dpm_solver_pp_2m
from lcm.diffusion.solvers.heun import heun

SOLVERS: dict[str, Solver] = {"ddim": ddim, "heun": heun, "dpm_solver_pp_2m": dpm_solver_pp_2m}

__all__ = ["SOLVERS", "Predict", "Solver", "ddim", "heun", "repeated", "substeps"]
