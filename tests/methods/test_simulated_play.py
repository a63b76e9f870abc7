"""Training points that inference comes past."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lcm.diffusion.schedule import CLEAN
from lcm.methods.context import LossContext
from lcm.methods.objective import Objective
from lcm.methods.parts import FollowPath
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.schedules import make_schedule


@pytest.mark.parametrize(
    ("warmup_steps", "update", "share"),
    [(0, 0, 0.5), (4, 0, 0.125), (4, 1, 0.25), (4, 3, 0.5), (4, 10**6, 0.5)],
)
def test_a_share_of_the_points_lies_where_lcm_scheduler_comes_past(
    warmup_steps: int, update: int, share: float
) -> None:
    """Noise of their own on what the target network makes of a point above. The share grows to 1/2
    in equal parts.
    """
    schedule = make_schedule("epsilon")
    nets, batch, seen = GaussianRoles(schedule), make_batch(64), {}

    def target(objective: Objective, context: LossContext) -> torch.Tensor:
        seen["x_t"], seen["t"] = context.x_t, context.times.t
        return context.x_t

    flags = {"simulated_play": 0.5, "simulated_play_warmup_steps": warmup_steps}
    objective = make_objective("lcm", schedule, **flags)
    dataclasses.replace(objective, target=target)(nets, batch, update=update)
    t, rows = seen["t"], batch.uniform_landing < share
    assert 0 < rows.sum() < len(rows)
    above = (t + 1 + ((999 - t) * (batch.uniform_landing / share)).long()).clamp(max=999)
    assert bool((above[rows] > t[rows])[t[rows] < 999].all())
    higher = schedule.add_noise(batch.x0, batch.noise, above)
    output = nets.target(higher, above, batch.cond)
    clean = objective.land(output, higher, above, torch.full_like(t, CLEAN))
    assert batch.extra_noise is not None
    played = schedule.add_noise(clean, batch.extra_noise[:, 0], t)
    torch.testing.assert_close(seen["x_t"][rows], played[rows])
    plain = schedule.add_noise(batch.x0, batch.noise, t)
    torch.testing.assert_close(seen["x_t"][~rows], plain[~rows])


def test_a_pair_that_begins_there_follows_the_teacher() -> None:
    objective = make_objective("lcm", make_schedule("epsilon"), simulated_play=0.5)
    with pytest.raises(ValueError, match=r"simulated_play leaves the path.*--coupling solver"):
        dataclasses.replace(objective, coupling=FollowPath())


@pytest.mark.parametrize(("share", "noises"), [(0.0, 0), (0.5, 1)])
def test_it_asks_for_noise_only_where_it_adds_some(share: float, noises: int) -> None:
    schedule = make_schedule("epsilon")
    assert make_objective("lcm", schedule, simulated_play=share).extra_numbers.noises == noises
