"""Laws of the consistency function; expected values come from stock diffusers schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from lcm.diffusion.consistency import boundary_scalings, land
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from tests.support.schedules import SD_BETAS, make_schedule, randn, stock_ddim


@pytest.mark.parametrize("timestep_scaling", [1.0, 10.0, 25.0])
def test_boundary_scalings_equal_stock_at_every_timestep(timestep_scaling: float) -> None:
    stock = LCMScheduler(timestep_scaling=timestep_scaling)
    expected = torch.tensor(
        [stock.get_scalings_for_boundary_condition_discrete(t) for t in range(1000)]
    )
    skip, out = boundary_scalings(torch.arange(1000), timestep_scaling)
    torch.testing.assert_close(skip.flatten(), expected[:, 0], rtol=5e-7, atol=0)
    torch.testing.assert_close(out.flatten(), expected[:, 1], rtol=5e-7, atol=0)


def test_the_clean_end_is_a_boundary_too() -> None:
    skip, out = boundary_scalings(torch.tensor([CLEAN]))
    assert (float(skip), float(out)) == (1.0, 0.0)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("output", [0.0, -3.0, 1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("timestep_scaling", [10.0, 1.0, None])
def test_f_from_t_to_t_is_x_t_whatever_the_output(
    prediction_type: str, zero_snr: bool, output: float, timestep_scaling: float | None
) -> None:
    if prediction_type == "epsilon":
        zero_snr = False  # that pair is refused by NoiseSchedule
    t = torch.tensor([CLEAN, 0, 19, 499, 998, 999])
    x_t = randn(6, 4, 3, 3)
    network_output = torch.full_like(x_t, output)
    landed = land(
        make_schedule(prediction_type, zero_snr),
        network_output,
        x_t,
        t,
        t,
        timestep_scaling=timestep_scaling,
    )
    assert torch.equal(landed, x_t)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("timestep_scaling", [10.0, 0.05, None])
def test_from_timestep_0_the_networks_own_image_is_landed_on(
    prediction_type: str, timestep_scaling: float | None
) -> None:
    """x_0 has 3 % noise, the clean end has none: they are two times. Stock DDIM says which image
    the network means.
    """
    stock = stock_ddim(prediction_type, False)
    stock.set_timesteps(1000)
    x_t, output = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    expected = stock.step(output, 0, x_t, eta=0.0).pred_original_sample
    landed = land(
        NoiseSchedule.from_scheduler(stock),
        output,
        x_t,
        torch.tensor([0, 0]),
        torch.tensor([CLEAN] * 2),
        timestep_scaling=timestep_scaling,
    )
    torch.testing.assert_close(landed, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("sample", False),
        ("v_prediction", True),
        ("sample", True),
    ],
)
@pytest.mark.parametrize("t", [19, 259, 979, 999])
def test_landing_clean_equals_the_denoised_sample_of_stock(
    prediction_type: str, zero_snr: bool, t: int
) -> None:
    stock = LCMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )
    stock.set_timesteps(50)
    x_t, output = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    expected = stock.step(output, t, x_t, generator=torch.Generator().manual_seed(0)).denoised
    landed = land(
        NoiseSchedule.from_scheduler(stock),
        output,
        x_t,
        torch.tensor([t, t]),
        torch.tensor([CLEAN, CLEAN]),
    )
    torch.testing.assert_close(landed, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [50, 10, 2])
def test_landing_at_s_equals_a_stock_ddim_step(prediction_type: str, steps: int) -> None:
    """Up to the boundary impulse, whose c_skip at a distance of 20 timesteps is 6e-6."""
    stock = DDIMScheduler(**SD_BETAS, prediction_type=prediction_type, clip_sample=False)
    stock.set_timesteps(steps)
    x_t, output = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    expected = stock.step(output, 999, x_t, eta=0.0).prev_sample
    schedule = NoiseSchedule.from_scheduler(stock)
    t = torch.tensor([999, 999])
    s = torch.tensor([999 - 1000 // steps] * 2)
    landed = land(schedule, output, x_t, t, s)
    torch.testing.assert_close(landed, expected, rtol=2e-5, atol=2e-5)
    c_skip, c_out = LCMScheduler().get_scalings_for_boundary_condition_discrete(1000 // steps)
    torch.testing.assert_close(landed, c_skip * x_t + c_out * expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_half_precision_lands_in_float32(prediction_type: str, dtype: torch.dtype) -> None:
    schedule = make_schedule(prediction_type)
    t = torch.tensor([999, 19, 0])
    s = torch.tensor([499, CLEAN, 0])
    x_t, output = randn(3, 4, 3, 3).to(dtype), randn(3, 4, 3, 3, seed=1).to(dtype)
    landed = land(schedule, output, x_t, t, s)
    assert landed.dtype == torch.float32
    assert torch.equal(landed, land(schedule, output.float(), x_t.float(), t, s))


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("sample", False),
        ("v_prediction", True),
        ("sample", True),
    ],
)
@pytest.mark.parametrize("steps", [50, 10, 4, 2, 1])
def test_the_pure_jump_is_a_stock_ddim_step(
    prediction_type: str, zero_snr: bool, steps: int
) -> None:
    """The jumps go from every timestep of a trailing schedule to the next, and from the last to
    clean data.
    """
    stock = stock_ddim(prediction_type, zero_snr)
    stock.set_timesteps(steps)
    schedule = NoiseSchedule.from_scheduler(stock)
    x_t = randn(2, 4, 3, 3)
    output = randn(2, 4, 3, 3, seed=1)
    for t in stock.timesteps.tolist():
        expected = stock.step(output, t, x_t, eta=0.0).prev_sample
        landed = land(
            schedule,
            output,
            x_t,
            torch.tensor([t, t]),
            torch.tensor([t - 1000 // steps] * 2),
            timestep_scaling=None,
        )
        torch.testing.assert_close(landed, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("scaling", [10.0, None])
def test_nothing_but_the_sample_itself_decides_where_it_lands(
    prediction_type: str, scaling: float | None
) -> None:
    schedule = make_schedule(prediction_type)
    x_t = randn(5, 4, 3, 3)
    output = randn(5, 4, 3, 3, seed=1)
    t, s = torch.tensor([999, 999, 519, 19, 19]), torch.tensor([979, CLEAN, 519, 0, CLEAN])
    together = land(schedule, output, x_t, t, s, timestep_scaling=scaling)
    for i in range(5):
        row = slice(i, i + 1)
        alone = land(schedule, output[row], x_t[row], t[row], s[row], timestep_scaling=scaling)
        torch.testing.assert_close(together[row], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scaling", [10.0, None])
def test_gradients_stay_finite_where_the_landing_is_the_start(scaling: float | None) -> None:
    """At a boundary of zero terminal SNR with v, and at the last timestep above it."""
    schedule = make_schedule("v_prediction", True)
    t = torch.tensor([999, 999, 0, 0])
    s = torch.tensor([999, CLEAN, 0, CLEAN])
    output = randn(4, 4, 3, 3).requires_grad_()
    landed = land(schedule, output, randn(4, 4, 3, 3, seed=1), t, s, timestep_scaling=scaling)
    (gradient,) = torch.autograd.grad(landed.square().sum(), output)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[[0, 2]], torch.zeros(2, 4, 3, 3))
    assert all(gradient[i].abs().max() > 0 for i in (1, 3))
