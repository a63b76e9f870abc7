"""The points that the method dmd trains from are those of the stock sampler's own play."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.methods.context import LatentBatch, LossContext
from lcm.methods.dmd import PlayedTimes
from lcm.methods.objective import Compared, Objective
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.schedules import SD_BETAS, every_model, make_schedule

FIRST, STRENGTH = 699, 0.7
SIZE = 24
"""As many samples as make every place of 1, 2 and 4 steps come: 8, 4 + 4, and 2 of each."""


def stock(prediction_type: str = "epsilon", zero_snr: bool = False, grid: int = 50) -> LCMScheduler:
    return LCMScheduler(
        **SD_BETAS,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        original_inference_steps=grid,
        clip_sample=False,
    )


def visited(steps: int, grid: int = 50) -> list[int]:
    scheduler = stock(grid=grid)
    begin(scheduler, steps)
    times: list[int] = scheduler.timesteps.tolist()
    return times


def begin(scheduler: LCMScheduler, steps: int) -> None:
    """Where image-to-image begins at that strength."""
    scheduler.set_timesteps(steps, strength=STRENGTH)


def even(size: int) -> Tensor:
    return (torch.arange(size) + 0.5) / size


@pytest.mark.parametrize("grid", [40, 50])
@pytest.mark.parametrize("steps", [(1,), (2,), (4,), (1, 2, 4), (4, 1), (8, 3)], ids=str)
def test_the_times_are_those_that_lcm_scheduler_visits(steps: tuple[int, ...], grid: int) -> None:
    """One of the numbers of steps, then one of its times, all equally likely; both land clean."""
    sampler = PlayedTimes(SolverGrid(grid), steps, FIRST)
    times = sampler(even(24 * len(steps)), torch.zeros(24 * len(steps)), 0.0)
    expected = [time for n in steps for time in visited(n, grid) for _ in range(24 // n)]
    assert sorted(times.t.tolist()) == sorted(expected)
    assert set(times.s.tolist()) == set(times.u.tolist()) == {CLEAN}
    for uniform in (0.0, 0.99999999):  # the ends of what a random number may be
        assert int(sampler(torch.tensor([uniform]), torch.zeros(1), 0.0).t) in expected


def seen(objective: Objective, nets: Any, batch: LatentBatch) -> tuple[Tensor, Tensor, Tensor]:
    """t, x_t and the landing point."""
    found: list[Tensor] = []

    def compare(objective: Objective, context: LossContext, target: Tensor) -> Compared:
        point = objective.student_lands(context)
        found.extend([context.times.t, context.x_t, point])
        return Compared(point.flatten(1).mean(1), point)

    dataclasses.replace(objective, compare=compare, terms=())(nets, batch)
    return found[0], found[1], found[2]


@every_model
def test_the_points_are_those_of_lcm_scheduler_with_the_same_noises(
    prediction_type: str, zero_snr: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x_t and the landing point of every sample, played one by one from pure noise."""
    schedule = make_schedule(prediction_type, zero_snr)
    nets = GaussianRoles(schedule)
    batch = dataclasses.replace(make_batch(SIZE), uniform_time=even(SIZE))
    objective = make_objective("dmd", schedule, dmd_steps=[1, 2, 4])
    t, x_t, point = seen(objective, nets, batch)
    assert batch.extra_noise is not None
    for i in range(SIZE):
        steps = (1, 2, 4)[3 * i // SIZE]
        scheduler = stock(prediction_type, zero_snr)
        begin(scheduler, steps)
        fresh = iter(batch.extra_noise[i, :, None])
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_lcm.randn_tensor",
            lambda *_, fresh=fresh, **__: next(fresh),
        )
        said = batch.cond.map(lambda part, i=i: part[i : i + 1])  # type: ignore[misc]
        x, played = batch.noise[i : i + 1], {}
        for time in scheduler.timesteps:
            output = nets.student(x, time[None], said)
            step = scheduler.step(output, time, x)
            played[int(time)] = x, step.denoised
            x = step.prev_sample
        expected_x, landed = played[int(t[i])]
        torch.testing.assert_close(x_t[i : i + 1], expected_x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(point[i : i + 1], landed, rtol=1e-4, atol=1e-4)


def test_the_way_there_has_no_gradient_and_no_pass_too_many() -> None:
    """A sample is played as far as it has to come."""
    schedule, asked = make_schedule(), []

    class Listening(GaussianRoles):
        def target(self, x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
            assert not torch.is_grad_enabled()
            asked.append((len(x_t), len(conditioning.prompt_embeds)))
            return super().student(x_t, t, conditioning)

    batch = dataclasses.replace(make_batch(SIZE), uniform_time=even(SIZE))
    objective = make_objective("dmd", schedule, dmd_steps=[1, 2, 4])
    _, x_t, _ = seen(objective, Listening(schedule), batch)
    assert not x_t.requires_grad
    assert asked == [(10, 10), (4, 4), (2, 2)]  # 4 of two steps and 6 of four, then 4, then 2


def test_more_steps_than_the_grid_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dmd_steps: num_inference_steps=60 does not fit the 50"):
        make_objective("dmd", dmd_steps=[60])
    with pytest.raises(ValueError, match=r"dmd_steps: .* of which 3 are left from 59 on; pass 1"):
        make_objective("dmd", first_timestep=59)
