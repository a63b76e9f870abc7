"""Multistep consistency sampling equals stock LCMScheduler with the same noise, and a float64
rewrite of CM, Algorithm 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.sampling import sample_consistency
from lcm.diffusion.schedule import NoiseSchedule
from tests.support.schedules import SD_BETAS, every_model, make_schedule, network, randn
from tests.support.steps import SHAPE, consistency_function, every_count, noise_from


def stock_lcm(prediction_type: str, zero_snr: bool = False) -> LCMScheduler:
    return LCMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )


def float64_reference(
    prediction_type: str, alpha_bar: np.ndarray, x: np.ndarray, times: list[int]
) -> np.ndarray:
    """CM, Algorithm 1 with LCM's boundary scalings, written out in float64."""
    draw_noise = noise_from(seed=5)
    x0 = x
    for i, t in enumerate(times):
        alpha, sigma = np.sqrt(alpha_bar[t]), np.sqrt(1 - alpha_bar[t])
        if i > 0:
            x = alpha * x0 + sigma * draw_noise().double().numpy()
        output = network(torch.from_numpy(x), torch.full((SHAPE[0],), t)).numpy()
        denoised = output
        if prediction_type == "epsilon":
            denoised = (x - sigma * output) / alpha
        elif prediction_type == "v_prediction":
            denoised = alpha * x - sigma * output
        u = 10.0 * t
        x0 = 0.25 / (u**2 + 0.25) * x + u / np.sqrt(u**2 + 0.25) * denoised
    return x0


@every_model
@every_count
def test_sampling_equals_stock_lcm_scheduler(
    prediction_type: str, zero_snr: bool, num_steps: int
) -> None:
    stock = stock_lcm(prediction_type, zero_snr)
    stock.set_timesteps(num_steps)
    generator, theirs = torch.Generator().manual_seed(5), randn(*SHAPE)
    for t in stock.timesteps:
        output = network(theirs, torch.full((SHAPE[0],), int(t)))
        theirs = stock.step(output, t, theirs, generator=generator).prev_sample

    schedule, times = NoiseSchedule.from_scheduler(stock), SolverGrid(50).few_step(num_steps)
    mine = sample_consistency(
        consistency_function(schedule), schedule, randn(*SHAPE), times, noise_from(seed=5)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


@every_model
@every_count
def test_sampling_equals_a_float64_reference(
    prediction_type: str, zero_snr: bool, num_steps: int
) -> None:
    stock = stock_lcm(prediction_type, zero_snr)
    schedule, times = NoiseSchedule.from_scheduler(stock), SolverGrid(50).few_step(num_steps)
    mine = sample_consistency(
        consistency_function(schedule), schedule, randn(*SHAPE), times, noise_from(seed=5)
    )
    alpha_bar = stock.alphas_cumprod.double().numpy()
    expected = float64_reference(
        prediction_type, alpha_bar, randn(*SHAPE).double().numpy(), times.tolist()
    )
    np.testing.assert_allclose(mine.numpy(), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_times_may_be_any_descending_sequence() -> None:
    schedule = make_schedule("epsilon")
    f, x = consistency_function(schedule), randn(*SHAPE)
    of_list = sample_consistency(f, schedule, x, [999, 501, 7], noise_from(seed=1))
    of_tensor = sample_consistency(f, schedule, x, torch.tensor([999, 501, 7]), noise_from(seed=1))
    assert torch.equal(of_list, of_tensor)


def test_f_sees_the_start_and_then_x0_with_the_noise_of_the_next_time() -> None:
    schedule = make_schedule("epsilon")
    seen: list[tuple[Tensor, Tensor]] = []

    def f(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return torch.full_like(x, 0.25)

    start, noise = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    assert torch.equal(
        sample_consistency(f, schedule, start, [999, 499], lambda: noise), torch.full(SHAPE, 0.25)
    )
    (first, t_first), (second, t_second) = seen
    assert (t_first.tolist(), t_second.tolist()) == ([999] * 3, [499] * 3)
    assert t_first.dtype == torch.int64
    assert torch.equal(first, start)
    # the golden alpha and sigma of timestep 499
    torch.testing.assert_close(second, 0.5269435 * 0.25 + 0.8499004 * noise, rtol=1e-6, atol=1e-6)


@every_count
def test_noise_is_drawn_once_between_two_steps(num_steps: int) -> None:
    schedule, calls = make_schedule("epsilon"), 0

    def draw_noise() -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros(SHAPE)

    sample_consistency(
        consistency_function(schedule),
        schedule,
        randn(*SHAPE),
        SolverGrid(50).few_step(num_steps),
        draw_noise,
    )
    assert calls == num_steps - 1


def test_the_start_is_not_changed_in_place() -> None:
    schedule, x = make_schedule("epsilon"), randn(*SHAPE)
    sample_consistency(consistency_function(schedule), schedule, x, [999, 499], noise_from(seed=1))
    assert torch.equal(x, randn(*SHAPE))


@pytest.mark.parametrize(
    "timesteps", [[], torch.empty(0, dtype=torch.int64)], ids=["list", "tensor"]
)
def test_empty_timesteps_raise_and_name_an_example(timesteps: list[int] | Tensor) -> None:
    schedule = make_schedule("epsilon")
    with pytest.raises(ValueError, match=r"empty.*few_step"):
        sample_consistency(
            consistency_function(schedule), schedule, randn(*SHAPE), timesteps, noise_from(seed=1)
        )
