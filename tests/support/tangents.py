"""Objectives of continuous-time consistency, by finite differences and forward mode."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.objective import Objective
from lcm.methods.tangent import Tangent
from tests.support.closed_forms import make_objective

every_mode = pytest.mark.parametrize("mode", ["fd", "central", "jvp"])
GUIDANCE = 3.0


def even_schedule(prediction_type: str = "v_prediction") -> NoiseSchedule:
    """phi from 0.03 to 1.5 in even steps: then the derivative of phi by the timestep is known."""
    phi = torch.cat(
        [torch.linspace(0.03, 1.5, 1000, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    )
    return NoiseSchedule(phi.cos().float(), phi.sin().float(), prediction_type)


def make_scm(
    schedule: NoiseSchedule,
    mode: str,
    *,
    step: int = 5,
    warmup: float = 0.0,
    normalization: float | None = None,
    phases: int = 1,
) -> Objective:
    flags: dict[str, Any] = {"tangent_mode": "fd", "tangent_step": step, "guidance_scale": GUIDANCE}
    name = "scm" if phases == 1 else "phased_scm"
    objective = make_objective(
        name, schedule, **flags, **({"phases": phases} if phases > 1 else {})
    )
    return dataclasses.replace(objective, target=Tangent(mode, warmup, normalization, phases))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
