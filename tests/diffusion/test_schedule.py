"""Laws of the noise schedule; expected values are golden numbers, float64 numpy or stock diffusers
schedulers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.diffusion.schedule import CLEAN, NoiseSchedule, Prediction
from tests.support.schedules import (
    MODELS,
    SD_BETAS,
    make_schedule,
    randn,
    stock_ddim,
)

# Stable Diffusion's schedule: t, alpha_bar, alpha, sigma, sigma / alpha
GOLDEN = [
    (0, "0.999149978", "0.9995749", "0.0291551", "0.0292"),
    (19, "0.982243955", "0.9910823", "0.1332518", "0.1345"),
    (259, "0.658975244", "0.8117729", "0.5839732", "0.7194"),
    (499, "0.277669430", "0.5269435", "0.8499004", "1.6129"),
    (519, "0.251577526", "0.5015751", "0.8651142", "1.7248"),
    (759, "0.052212890", "0.2285014", "0.9735436", "4.2606"),
    (979, "0.005912766", "0.0768945", "0.9970393", "12.9663"),
    (999, "0.004660095", "0.0682649", "0.9976673", "14.6146"),
]

TIMES = [0, 19, 499, 979, 999]


def stock_ddpm(prediction_type: str, zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        **SD_BETAS, prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr
    )


def reference_alpha_sigma(schedule: NoiseSchedule, t: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The same float32 tables as float64 numpy, shaped [B, 1, 1, 1]."""
    pick = t.numpy()
    return (
        schedule.alphas.double().numpy()[pick].reshape(-1, 1, 1, 1),
        schedule.sigmas.double().numpy()[pick].reshape(-1, 1, 1, 1),
    )


def raw_output(
    prediction_type: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """What a perfect network of this type answers; v = alpha eps - sigma x0."""
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0}[prediction_type]


@pytest.mark.parametrize(("t", "alpha_bar", "alpha", "sigma", "tau"), GOLDEN)
def test_golden_table_of_stable_diffusion(
    t: int, alpha_bar: str, alpha: str, sigma: str, tau: str
) -> None:
    schedule = make_schedule("epsilon")
    a, s = float(schedule.alphas[t]), float(schedule.sigmas[t])
    # processors round the product of the betas differently, by a unit in the last place
    assert a == pytest.approx(float(alpha), abs=1.2e-7)
    assert s == pytest.approx(float(sigma), abs=1.2e-7)
    assert s / a == pytest.approx(float(tau), abs=1e-4)
    # the square doubles the rounding of a
    assert a**2 == pytest.approx(float(alpha_bar), rel=4e-7)


def test_tables_equal_the_float64_cumulative_product_of_the_betas() -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)
    schedule = make_schedule("epsilon")
    np.testing.assert_allclose(schedule.alphas[:-1].numpy(), np.sqrt(alpha_bar), rtol=1e-5)
    np.testing.assert_allclose(schedule.sigmas[:-1].numpy(), np.sqrt(1 - alpha_bar), rtol=1e-4)


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    schedule = make_schedule("v_prediction", zero_snr=True)
    assert (float(schedule.alphas[999]), float(schedule.sigmas[999])) == (0.0, 1.0)
    assert float(schedule.alphas[979]) ** 2 == pytest.approx(8.579e-05, rel=1e-3)


def test_clean_is_alpha_one_sigma_zero() -> None:
    schedule = make_schedule("epsilon")
    alpha, sigma = schedule.alpha_sigma(torch.tensor([CLEAN]))
    assert CLEAN == -1
    assert (float(alpha), float(sigma)) == (1.0, 0.0)
    assert (len(schedule.alphas), len(schedule.sigmas), schedule.num_train_timesteps) == (
        1001,
        1001,
        1000,
    )


@pytest.mark.parametrize("zero_snr", [False, True])
def test_variance_is_preserved_at_every_time(zero_snr: bool) -> None:
    schedule = make_schedule("v_prediction", zero_snr)
    total = schedule.alphas.double() ** 2 + schedule.sigmas.double() ** 2
    torch.testing.assert_close(total, torch.ones(1001, dtype=torch.float64), rtol=0, atol=2e-7)


def test_alpha_sigma_takes_a_batch_or_a_scalar_time() -> None:
    schedule = make_schedule("epsilon")
    alpha, sigma = schedule.alpha_sigma(torch.tensor([0, 999, CLEAN]))
    assert alpha.shape == sigma.shape == (3, 1, 1, 1)
    assert schedule.alpha_sigma(torch.tensor(999))[0].shape == (1, 1, 1, 1)
    assert float(schedule.alpha_sigma(torch.tensor(999))[0]) == float(alpha[1])


@pytest.mark.parametrize(("prediction_type", "zero_snr"), MODELS)
def test_predict_gives_back_the_x0_and_eps_of_a_perfect_network(
    prediction_type: str, zero_snr: bool
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    t = torch.tensor(TIMES)
    x0, eps = randn(5, 4, 6, 6, seed=1), randn(5, 4, 6, 6, seed=2)
    alpha, sigma = (torch.from_numpy(table) for table in reference_alpha_sigma(schedule, t))
    output = raw_output(prediction_type, x0.double(), eps.double(), alpha, sigma)
    got = schedule.predict(output, alpha * x0 + sigma * eps, t)
    # float32 rounding of x_t weighs 1 / alpha in x0 and 1 / sigma in eps
    worst = 1e-6 * torch.ones_like(alpha)
    tolerance_x0 = worst / alpha if prediction_type == "epsilon" else worst
    tolerance_eps = worst / sigma if prediction_type == "sample" else worst
    assert ((got.x0 - x0).abs() <= tolerance_x0).all()
    assert ((got.eps - eps).abs() <= tolerance_eps).all()


@pytest.mark.parametrize(("prediction_type", "zero_snr"), MODELS)
def test_the_prediction_lies_on_the_line_to_x_t(prediction_type: str, zero_snr: bool) -> None:
    """x_t = alpha_t x0 + sigma_t eps for any output: jumping to where one is changes nothing."""
    schedule = make_schedule(prediction_type, zero_snr)
    t, x_t = torch.tensor(TIMES), randn(5, 4, 6, 6, seed=1)
    back = schedule.jump(schedule.predict(randn(5, 4, 6, 6, seed=2), x_t, t), t)
    torch.testing.assert_close(back, x_t, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_add_noise_equals_stock(zero_snr: bool) -> None:
    t = torch.arange(1000)
    x0, eps = randn(1000, 4, 2, 2, seed=1), randn(1000, 4, 2, 2, seed=2)
    expected = stock_ddpm("v_prediction", zero_snr).add_noise(x0, eps, t)
    torch.testing.assert_close(
        make_schedule("v_prediction", zero_snr).add_noise(x0, eps, t),
        expected,
        rtol=1e-6,
        atol=1e-7,
    )


def test_add_noise_at_the_clean_end_is_the_identity() -> None:
    x0 = randn(2, 4, 3, 3, seed=1)
    assert torch.equal(
        make_schedule("epsilon").add_noise(
            x0, randn(2, 4, 3, 3, seed=2), torch.tensor([CLEAN, CLEAN])
        ),
        x0,
    )


@pytest.mark.parametrize("zero_snr", [False, True])
def test_v_is_the_velocity_of_stock(zero_snr: bool) -> None:
    """A network that answers stock's get_velocity is read back as the (x0, eps) it was made of."""
    t = torch.arange(1000)
    x0, eps = randn(1000, 4, 2, 2, seed=1), randn(1000, 4, 2, 2, seed=2)
    stock, schedule = stock_ddpm("v_prediction", zero_snr), make_schedule("v_prediction", zero_snr)
    got = schedule.predict(stock.get_velocity(x0, eps, t), stock.add_noise(x0, eps, t), t)
    torch.testing.assert_close(got, Prediction(x0, eps), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("prediction_type", "zero_snr"), MODELS)
def test_predict_and_jump_equal_float64_numpy(prediction_type: str, zero_snr: bool) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    t, s = torch.tensor([19, 499, 979, 999]), torch.tensor([CLEAN, 0, 499, 979])
    x_t, output = randn(4, 4, 6, 6, seed=1), randn(4, 4, 6, 6, seed=2)
    x, o = x_t.double().numpy(), output.double().numpy()
    alpha, sigma = reference_alpha_sigma(schedule, t)
    alpha_s, sigma_s = reference_alpha_sigma(schedule, s)
    if prediction_type == "epsilon":
        x0, eps = (x - sigma * o) / alpha, o
    elif prediction_type == "v_prediction":
        x0, eps = alpha * x - sigma * o, alpha * o + sigma * x
    else:
        x0, eps = o, (x - alpha * o) / sigma
    got = schedule.predict(output, x_t, t)
    jumped = schedule.jump(got, s)
    for mine, expected in ((got.x0, x0), (got.eps, eps), (jumped, alpha_s * x0 + sigma_s * eps)):
        scale = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
        assert (np.abs(mine.double().numpy() - expected) <= 4e-7 * scale).all()


@pytest.mark.parametrize(("prediction_type", "zero_snr"), MODELS)
@pytest.mark.parametrize("t", [999, 979, 519, 39, 19])
def test_one_jump_equals_a_stock_ddim_step(prediction_type: str, zero_snr: bool, t: int) -> None:
    stock = stock_ddim(prediction_type, zero_snr)
    stock.set_timesteps(50)
    x_t, output = randn(2, 4, 6, 6, seed=1), randn(2, 4, 6, 6, seed=2)
    expected = stock.step(output, t, x_t, eta=0.0)
    schedule = NoiseSchedule.from_scheduler(stock)
    got = schedule.predict(output, x_t, torch.tensor([t, t]))
    torch.testing.assert_close(got.x0, expected.pred_original_sample, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        schedule.jump(got, torch.tensor([t - 20, t - 20])),
        expected.prev_sample,
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_input_dtype_is_computed_in_float32(prediction_type: str, dtype: torch.dtype) -> None:
    schedule, t = make_schedule(prediction_type), torch.tensor([19, 999])
    a, b = randn(2, 4, 3, 3, seed=1).to(dtype), randn(2, 4, 3, 3, seed=2).to(dtype)
    noisy, got = schedule.add_noise(a, b, t), schedule.predict(a, b, t)
    assert {noisy.dtype, got.x0.dtype, got.eps.dtype} == {torch.float32}
    assert torch.equal(noisy, schedule.add_noise(a.float(), b.float(), t))
    for mine, expected in zip(got, schedule.predict(a.float(), b.float(), t), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_prediction_jumps_in_float32(dtype: torch.dtype) -> None:
    schedule, s = make_schedule("epsilon"), torch.tensor([CLEAN, 979])
    a, b = randn(2, 4, 3, 3, seed=1).to(dtype), randn(2, 4, 3, 3, seed=2).to(dtype)
    jumped = schedule.jump(Prediction(a, b), s)
    assert jumped.dtype == torch.float32
    assert torch.equal(jumped, schedule.jump(Prediction(a.float(), b.float()), s))


def test_epsilon_with_zero_terminal_snr_raises_and_names_the_fix() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)zero terminal SNR.*rescale_betas_zero_snr.*v_prediction"
    ):
        make_schedule("epsilon", zero_snr=True)


def test_an_unknown_prediction_type_raises_and_names_the_choices() -> None:
    with pytest.raises(ValueError, match="epsilon, v_prediction, sample; got 'velocity'"):
        NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 10), "velocity")


def test_moving_to_a_device_keeps_every_value() -> None:
    schedule = make_schedule("sample")
    moved = schedule.to("cpu")
    assert torch.equal(moved.alphas, schedule.alphas)
    assert torch.equal(moved.sigmas, schedule.sigmas)
    assert moved.prediction_type == "sample"
