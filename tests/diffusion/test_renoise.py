"""Noise on what has some, and the output that stands for a prediction."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from lcm.diffusion.schedule import CLEAN, Prediction
from tests.support.schedules import SD_BETAS, every_model, make_schedule, randn, stock_ddim

PAIRS = [(CLEAN, 0), (CLEAN, 500), (CLEAN, 999), (0, 1), (19, 700), (499, 500), (250, 999)]


@every_model
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_it_has_the_law_of_the_process(
    prediction_type: str, zero_snr: bool, s: int, t: int
) -> None:
    """x_s of a picture and noise e becomes alpha_t x0 + a e + b e', a^2 + b^2 = sigma_t^2: the mean
    and the variance of stock diffusers' x_t.
    """
    schedule = make_schedule(prediction_type, zero_snr)
    alpha_bar = stock_ddim(prediction_type, zero_snr).alphas_cumprod.double()
    start, end = torch.tensor([s]), torch.tensor([t])
    one, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)

    def weight(x0: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
        x_s = schedule.add_noise(x0, first, start)
        return float(schedule.renoise(x_s, start, second, end))

    assert weight(one, nothing, nothing) == pytest.approx(float(alpha_bar[t].sqrt()), abs=1e-5)
    variance = weight(nothing, one, nothing) ** 2 + weight(nothing, nothing, one) ** 2
    assert variance == pytest.approx(float(1 - alpha_bar[t]), abs=1e-5)
    assert weight(nothing, nothing, one) > 0


@every_model
def test_two_steps_are_one(prediction_type: str, zero_snr: bool) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    s, m, t = (torch.tensor(time) for time in ([CLEAN, 19, 300], [0, 400, 301], [499, 999, 999]))
    x, nothing = randn(3, 4, 2, 2), torch.zeros(3, 4, 2, 2)
    middle = schedule.renoise(x, s, nothing, m)
    torch.testing.assert_close(
        schedule.renoise(middle, m, nothing, t), schedule.renoise(x, s, nothing, t)
    )
    one = torch.ones(3, 1, 1, 1)
    zero = torch.zeros_like(one)
    first = schedule.renoise(schedule.renoise(zero, s, one, m), m, zero, t)
    second = schedule.renoise(zero, m, one, t)
    whole = schedule.renoise(zero, s, one, t)
    torch.testing.assert_close(first.square() + second.square(), whole.square())


@every_model
def test_of_a_picture_it_is_that_of_diffusers_and_no_step_is_none(
    prediction_type: str, zero_snr: bool
) -> None:
    schedule, x, noise = (
        make_schedule(prediction_type, zero_snr),
        randn(3, 4, 2, 2),
        randn(3, 4, 2, 2),
    )
    t = torch.tensor([0, 500, 999])
    stock = stock_ddim(prediction_type, zero_snr)
    torch.testing.assert_close(
        schedule.renoise(x, torch.full_like(t, CLEAN), noise, t), stock.add_noise(x, noise, t)
    )
    same = torch.tensor([0, 500, 998])
    torch.testing.assert_close(schedule.renoise(x, same, noise, same), x, rtol=1e-3, atol=1e-3)


@every_model
def test_the_output_of_a_prediction_is_what_is_trained_with_diffusers(
    prediction_type: str, zero_snr: bool
) -> None:
    schedule, t = make_schedule(prediction_type, zero_snr), torch.tensor([0, 400, 999])
    x0, eps = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    stock = DDPMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )
    wanted = {"epsilon": eps, "sample": x0, "v_prediction": stock.get_velocity(x0, eps, t)}
    output = schedule.output_of(Prediction(x0, eps), t)
    torch.testing.assert_close(output, wanted[prediction_type])
    t = torch.tensor([0, 400, 900])
    output = schedule.output_of(Prediction(x0, eps), t)
    found = schedule.predict(output, schedule.add_noise(x0, eps, t), t)
    torch.testing.assert_close(found, Prediction(x0, eps), rtol=1e-4, atol=1e-4)
