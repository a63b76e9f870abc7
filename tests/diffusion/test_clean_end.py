"""Where the chain of training pairs ends: on the image, whatever grid the pairs are from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lcm.diffusion.consistency import boundary_scalings
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.methods.context import LatentBatch
from lcm.methods.objective import Objective
from lcm.models.conditioning import Conditioning
from tests.support.closed_forms import make_objective, seen_by_the_loss
from tests.support.schedules import make_schedule, randn

POINT = 0.8
"""All data lie on it."""
FINEST: list[tuple[str, dict[str, Any]]] = [
    ("ct", {}),
    ("ct", {"discretization": "fixed", "num_ddim_timesteps": 1000}),
    ("ct", {"discretization": "ect"}),
    ("lcm", {"num_ddim_timesteps": 1000, "skipping_steps": 1, "guidance_scale": 1.0}),
    ("cd", {"num_ddim_timesteps": 1000, "guidance_scale": 1.0}),
    ("pcm", {"num_ddim_timesteps": 1000, "phases": 1, "guidance_scale": 1.0}),
    ("tcd", {"num_ddim_timesteps": 1000, "landing_steps": [1], "guidance_scale": 1.0}),
    ("stochastic_flow", {"num_ddim_timesteps": 1000, "guidance_scale": 1.0}),
]
"""Methods that land clean, on grids that come to timestep 0."""
finest = pytest.mark.parametrize(("name", "flags"), FINEST, ids=str)


class Tabulated:
    """A teacher that knows the point, and a student with a landing point for every time."""

    def __init__(self, schedule: NoiseSchedule, scaling: float | None) -> None:
        self.schedule, self.scaling = schedule, scaling
        self.landings = randn(1000, 1, 4, 3, 3, seed=7)

    def tell(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(t)
        return (x - alpha * x0) / sigma  # epsilon

    def teacher(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.tell(torch.full_like(x_t, POINT), x_t, t)

    def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """What lands on the table's point, through the scalings where there are any."""
        x0 = self.landings[int(t[0])].expand_as(x_t)
        if self.scaling is not None and int(t[0]) > 0:
            c_skip, c_out = boundary_scalings(t, self.scaling)
            x0 = (x0 - c_skip * x_t) / c_out
        return self.tell(x0, x_t, t)

    target = student


def batch_at(uniform: float) -> LatentBatch:
    """The point with some noise, at this place of the grid."""
    said = Conditioning(torch.zeros(1, 1, 1))
    every = torch.full((1,), uniform)
    return LatentBatch(
        x0=torch.full((1, 4, 3, 3), POINT),
        noise=randn(1, 4, 3, 3),
        uniform_time=every,
        uniform_guidance=torch.zeros(1),
        uniform_landing=torch.zeros(1),
        cond=said,
        uncond=said,
        extra_noise=randn(1, 4, 4, 3, 3, seed=2),
    )


def chain(objective: Objective, length: int) -> dict[int, tuple[int, Tensor]]:
    """The student learns each target in turn, from clean upwards, and nothing before it is asked:
    what it was taught at each t, and the u that taught it.
    """
    nets, taught = Tabulated(objective.schedule, objective.timestep_scaling), {}
    for i in range(length):
        batch = batch_at((i + 0.5) / 1000)
        t, u, _ = objective.times(batch.uniform_time, batch.uniform_landing, 0.999)
        _, target = seen_by_the_loss(objective, nets, batch, 0.999)
        nets.landings[int(t)] = target
        taught[int(t)] = (int(u), target)
    return taught


@finest
def test_the_chain_of_pairs_ends_on_the_image(name: str, flags: dict[str, Any]) -> None:
    """Not on alpha_0 c + sigma_0 eps: a twentieth of the 3 % that would be left there."""
    taught = chain(make_objective(name, make_schedule(), **flags), 40)
    assert taught[0][0] == CLEAN and taught[1][0] == 0  # the pairs that the law is about
    for _, target in taught.values():
        torch.testing.assert_close(target, torch.full_like(target, POINT), rtol=0, atol=1.5e-3)


@finest
def test_the_last_pair_regresses_the_network_onto_the_image(
    name: str, flags: dict[str, Any]
) -> None:
    """The pair (0, CLEAN) is denoising: |x0(x_0) - x0|, as r = 0 is in ECT, with a gradient."""
    objective = make_objective(name, make_schedule(), **flags)
    nets = Tabulated(objective.schedule, objective.timestep_scaling)
    landed, target = seen_by_the_loss(objective, nets, batch_at(0.0005), 0.999)
    torch.testing.assert_close(target, torch.full_like(target, POINT), rtol=0, atol=1e-6)
    if objective.injection == 0:
        torch.testing.assert_close(landed, nets.landings[0], rtol=0, atol=2e-6)
