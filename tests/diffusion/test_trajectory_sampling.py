"""Strategic stochastic sampling and random landing points equal the stock schedulers, and keep the
law of the data."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler, TCDScheduler
from torch import Tensor

from lcm.diffusion.consistency import land
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.sampling import (
    Jump,
    sample_consistency,
    sample_stochastic_flow,
    sample_trajectory,
)
from lcm.diffusion.schedule import NoiseSchedule
from tests.support.schedules import SD_BETAS, every_model, make_schedule, network, randn, stock_ddim
from tests.support.steps import SHAPE, consistency_function, every_count, noise_from


def jump_of(schedule: NoiseSchedule) -> Jump:
    return lambda x, t, s: land(schedule, network(x, t), x, t, s, timestep_scaling=None)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@every_model
@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8, 10])
def test_gamma_zero_equals_stock_ddim_trailing(
    prediction_type: str, zero_snr: bool, num_steps: int
) -> None:
    stock = stock_ddim(prediction_type, zero_snr)
    stock.set_timesteps(num_steps)
    theirs = randn(*SHAPE)
    for t in stock.timesteps:
        theirs = stock.step(network(theirs, t.expand(SHAPE[0])), t, theirs, eta=0.0).prev_sample
    schedule = NoiseSchedule.from_scheduler(stock)
    mine = sample_trajectory(jump_of(schedule), schedule, randn(*SHAPE), stock.timesteps, no_noise)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_gamma_zero_equals_stock_euler_trailing_up_to_its_scale(
    prediction_type: str, num_steps: int
) -> None:
    """Euler integrates x / alpha."""
    stock = EulerDiscreteScheduler(
        **SD_BETAS, prediction_type=prediction_type, timestep_spacing="trailing"
    )
    stock.set_timesteps(num_steps)
    schedule = NoiseSchedule.from_scheduler(stock)
    theirs = randn(*SHAPE) / schedule.alphas[999]
    for t in stock.timesteps:
        output = network(stock.scale_model_input(theirs, t), t.expand(SHAPE[0]))
        theirs = stock.step(output, t, theirs).prev_sample
    times = stock.timesteps.long()
    mine = sample_trajectory(jump_of(schedule), schedule, randn(*SHAPE), times, no_noise)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@every_model
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_sampling_equals_stock_tcd_scheduler(
    prediction_type: str, zero_snr: bool, num_steps: int, gamma: float
) -> None:
    stock = TCDScheduler(
        **SD_BETAS,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        original_inference_steps=50,
    )
    stock.set_timesteps(num_steps)
    generator, theirs = torch.Generator().manual_seed(5), randn(*SHAPE)
    for t in stock.timesteps:
        theirs = stock.step(
            network(theirs, t.expand(SHAPE[0])), t, theirs, eta=gamma, generator=generator
        ).prev_sample
    schedule, times = NoiseSchedule.from_scheduler(stock), SolverGrid(50).few_step(num_steps)
    assert stock.timesteps.tolist() == times.tolist()
    mine = sample_trajectory(
        jump_of(schedule),
        schedule,
        randn(*SHAPE),
        times,
        noise_from(seed=5) if gamma else no_noise,
        gamma=gamma,
        final=0,
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=3e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_exact_flow_maps_keep_the_law_of_the_data(gamma: float) -> None:
    """For data N(0, std^2) the variance is right after every step, whatever share of it is fresh
    noise.
    """
    schedule, std = make_schedule("epsilon"), 0.6
    marginal = (schedule.alphas * std) ** 2 + schedule.sigmas**2
    x, generator = randn(40, 4, 32, 32) * marginal[999].sqrt(), torch.Generator().manual_seed(3)

    def flow(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x * (marginal[s] / marginal[t]).sqrt().view(-1, 1, 1, 1)

    got = sample_trajectory(
        flow,
        schedule,
        x,
        [999, 759, 499, 259],
        lambda: torch.randn(x.shape, generator=generator),
        gamma=gamma,
    )
    assert float(got.var()) == pytest.approx(std**2, rel=0.02)


@pytest.mark.parametrize(("timesteps", "gamma"), [([], 0.0), ([999], -0.1), ([999], 1.1)])
def test_trajectories_without_times_or_with_a_strange_gamma_are_refused(
    timesteps: list[int], gamma: float
) -> None:
    schedule = make_schedule("epsilon")
    with pytest.raises(ValueError, match="at least one timestep and a gamma"):
        sample_trajectory(
            jump_of(schedule), schedule, randn(*SHAPE), timesteps, no_noise, gamma=gamma
        )


@every_count
def test_without_injection_a_stochastic_flow_is_consistency_sampling(num_steps: int) -> None:
    schedule = make_schedule("v_prediction")
    times = SolverGrid(50).few_step(num_steps)
    noises = [randn(*SHAPE, seed=seed) for seed in range(2 * num_steps)]
    injected_first = iter(noises)

    mine = sample_stochastic_flow(
        consistency_function(schedule),
        schedule,
        randn(*SHAPE),
        times,
        lambda: next(injected_first),
        injection=0.0,
    )
    between = iter(noises[1::2])
    expected = sample_consistency(
        consistency_function(schedule), schedule, randn(*SHAPE), times, lambda: next(between)
    )
    assert torch.equal(mine, expected)


def test_a_stochastic_flow_shows_the_network_fresh_noise_in_every_step() -> None:
    schedule, times = make_schedule("epsilon"), [999, 499, 259]
    # one for each of three answers, one between two of them
    noises = [randn(*SHAPE, seed=seed) for seed in range(5)]
    draws, shown = iter(noises), []

    def f(seen: Tensor, t: Tensor) -> Tensor:
        shown.append(seen)
        return torch.zeros_like(seen)

    start = randn(*SHAPE, seed=9)
    sample_stochastic_flow(f, schedule, start, times, lambda: next(draws), injection=0.5)
    assert next(draws, None) is None
    visited = [
        start,
        *(schedule.sigmas[t] * noise for t, noise in zip(times[1:], noises[1::2], strict=True)),
    ]
    for got, x_t, t, fresh in zip(shown, visited, times, noises[::2], strict=True):
        torch.testing.assert_close(
            got, x_t + 0.5 * schedule.sigmas[t] * fresh, rtol=1e-4, atol=1e-5
        )
