"""The loss after the whole play: what it compares, and the gradient through all of its steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lcm.adapter.lora import add_lora
from lcm.diffusion.schedule import NoiseSchedule
from lcm.methods.context import LatentBatch
from lcm.models.conditioning import Conditioning
from lcm.models.networks import make_networks
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective, seen_by_the_loss
from tests.support.methods import every_type
from tests.support.schedules import SD_BETAS
from tests.support.worlds import build_unet, randomize_lora

every_base = pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False)],
)


def scheduler_of(prediction_type: str, zero_snr: bool) -> Any:
    """Stock DDIM as the recipe makes it."""
    return DDIMScheduler(
        **SD_BETAS,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )


def from_the_end(batch: LatentBatch) -> LatentBatch:
    """The batch with the last time of every grid drawn."""
    return dataclasses.replace(batch, uniform_time=torch.full_like(batch.uniform_time, 0.9999))


@every_base
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_what_is_compared_is_the_picture_of_stock_ddim_from_the_same_noise(
    prediction_type: str, zero_snr: bool, num_steps: int
) -> None:
    scheduler = scheduler_of(prediction_type, zero_snr)
    schedule, batch = NoiseSchedule.from_scheduler(scheduler), make_batch(3)
    objective = make_objective("rollout", schedule, rollout_steps=[num_steps])
    nets = GaussianRoles(schedule)
    assert batch.trajectory is not None
    landed, target = seen_by_the_loss(objective, nets, batch)
    x = batch.trajectory[:, -1]
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps:
        x = scheduler.step(nets.student(x, t.expand(3), batch.cond), t, x).prev_sample
    size = float(x.abs().max())
    torch.testing.assert_close(landed, x, rtol=0, atol=1e-5 * max(1.0, size))
    assert torch.equal(target, batch.trajectory[:, 0])


@every_type
@pytest.mark.parametrize("other", ["endpoint", "reflow"])
def test_one_step_is_the_regression_of_the_last_time(prediction_type: str, other: str) -> None:
    """Loss and gradient, on a real network."""
    unet = build_unet()
    add_lora(unet, 2)
    randomize_lora(unet)
    nets, batch = make_networks(unet, ema_decay=None), from_the_end(make_batch(3))
    schedule = NoiseSchedule.from_scheduler(scheduler_of(prediction_type, False))
    trained = [p for p in unet.parameters() if p.requires_grad]
    found = []
    for name, flags in (("rollout", {"rollout_steps": [1]}), (other, {})):
        loss = make_objective(name, schedule, **flags)(nets, batch).loss
        found.append((loss, torch.autograd.grad(loss.sum(), trained)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-6)
    largest = max(float(part.abs().max()) for part in found[1][1])
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * largest)


def test_several_numbers_of_steps_are_the_mean_of_each_and_share_their_first_pass() -> None:
    schedule = NoiseSchedule.from_scheduler(scheduler_of("v_prediction", True))
    batch, asked = make_batch(3), []

    class Counting(GaussianRoles):
        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            asked.append(int(t[0]))
            return super().student(x_t, t, conditioning)

    nets = Counting(schedule)
    alone = [
        make_objective("rollout", schedule, rollout_steps=[n])(nets, batch).loss for n in (1, 2, 4)
    ]
    asked.clear()
    together = make_objective("rollout", schedule, rollout_steps=[1, 2, 4])(nets, batch).loss
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    assert sorted(asked) == [249, 499, 499, 749, 999]


@every_base
def test_the_gradient_of_every_step_counts(prediction_type: str, zero_snr: bool) -> None:
    """Against a finite difference of what a stock sampler makes, nudged at one step alone."""
    scheduler = scheduler_of(prediction_type, zero_snr)
    schedule, batch = NoiseSchedule.from_scheduler(scheduler), make_batch(2)
    assert batch.trajectory is not None
    objective = make_objective("rollout", schedule)
    nudge = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    class Nudged(GaussianRoles):
        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            answer = super().student(x_t, t, conditioning)
            return (answer.double() + nudge[int(t[0]) // 250]).float()

    nets = Nudged(schedule)
    (gradient,) = torch.autograd.grad(objective(nets, batch).loss.sum(), nudge)

    def played() -> float:
        x = batch.trajectory[:, -1]
        scheduler.set_timesteps(4)
        for t in scheduler.timesteps:
            x = scheduler.step(nets.student(x, t.expand(2), batch.cond), t, x).prev_sample
        return float((x - batch.trajectory[:, 0]).double().square().mean((1, 2, 3)).sum())

    width = 0.02
    for place in range(4):
        ends = []
        for side in (-width, width):
            with torch.no_grad():
                nudge[place] = side
                ends.append(played())
                nudge[place] = 0.0
        slope = (ends[1] - ends[0]) / (2 * width)
        assert float(gradient[place]) == pytest.approx(slope, rel=0.03, abs=0.01)
        assert abs(slope) > 1e-3


def test_n_steps_hold_the_activations_of_n_passes() -> None:
    """What is saved for the way back: the memory that a dry run measures."""
    unet = build_unet()
    add_lora(unet, 2)
    nets, batch = make_networks(unet, ema_decay=None), make_batch(2)
    schedule = NoiseSchedule.from_scheduler(scheduler_of("epsilon", False))
    held = {}
    for steps in ([1], [2], [4], [1, 2, 4]):
        # by their place in memory, where those of other passes cannot lie: all are kept alive
        storages: dict[int, Any] = {}

        def keep(tensor: Tensor, storages: dict[int, Any] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = make_objective("rollout", schedule, rollout_steps=steps)(nets, batch).loss
        weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
        held[tuple(steps)] = sum(s.nbytes() for at, s in storages.items() if at not in weights)
        del loss
    one = held[(1,)]
    for steps, passes in (((2,), 2), ((4,), 4), ((1, 2, 4), 5)):
        assert held[steps] == pytest.approx(passes * one, rel=0.1)


def test_it_converges_on_a_student_whose_play_is_the_teachers() -> None:
    """One number for each of four steps, on data N(0, std^2): there the way from noise to image is
    a factor, which a play of linear steps can be.
    """
    schedule = NoiseSchedule.from_scheduler(scheduler_of("v_prediction", True))
    batch = make_batch(2)
    start = batch.noise
    batch = dataclasses.replace(batch, trajectory=torch.stack([0.7 * start, start], 1))
    slope = torch.zeros(4, requires_grad=True)

    class Linear(GaussianRoles):
        def student(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            return slope[t // 250].view(-1, 1, 1, 1) * x_t

    objective = make_objective("rollout", schedule, rollout_steps=[1, 2, 4])
    optimizer = torch.optim.Adam([slope], 0.1)
    losses = []
    for _ in range(100):
        loss = objective(Linear(schedule), batch).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
