"""Weights against their closed forms, and what each makes of an l2 loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from lcm.diffusion.consistency import land
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.tables import LOSSES, WEIGHTS
from lcm.diffusion.times import Times
from tests.support.schedules import SD_BETAS, make_schedule

every_type = pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
T = torch.tensor([0, 4, 19, 259, 499, 979, 999])
U = torch.tensor([-1, -1, -1, 239, 124, 974, 979])
TIMES = Times(T, U, torch.full_like(T, CLEAN))
ALPHA_BAR = np.asarray(DDIMScheduler(**SD_BETAS).alphas_cumprod, dtype=float)[T.numpy()]
# the noise levels of stock diffusers, from the highest down to 0
LEVELS = np.asarray(EulerDiscreteScheduler(**SD_BETAS).sigmas, dtype=float)[::-1]
STEPS = LEVELS[T.numpy() + 1] - LEVELS[U.numpy() + 1]

# alpha_bar, the step in noise level and gamma -> weight; a new weight must bring its formula
FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "uniform": lambda a, d, g: np.ones_like(a),
    "snr": lambda a, d, g: a / (1 - a),
    "min_snr": lambda a, d, g: np.minimum(a / (1 - a), g),
    "velocity": lambda a, d, g: 1 / (1 - a),
    "inverse_dt": lambda a, d, g: 1 / d,
    "alpha_squared": lambda a, d, g: a,
    "balanced": lambda a, d, g: np.sqrt(a),
    "scm_prior": lambda a, d, g: np.sqrt(a) / (1 - a) ** 1.5,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_values_equal_the_formula(name: str, gamma: float) -> None:
    got = WEIGHTS[name](make_schedule(), TIMES, gamma)
    assert (got.shape, got.dtype) == (T.shape, torch.float32)
    np.testing.assert_allclose(got.numpy(), FORMULAS[name](ALPHA_BAR, STEPS, gamma), rtol=2e-4)


@pytest.mark.parametrize("name", WEIGHTS)
def test_zero_terminal_snr_has_finite_weights(name: str) -> None:
    got = WEIGHTS[name](make_schedule("v_prediction", zero_snr=True), TIMES, 5.0)
    assert (got.isfinite() & (got >= 0)).all()


def test_snr_equals_the_one_of_diffusers() -> None:
    expected = compute_snr(DDIMScheduler(**SD_BETAS), T)
    torch.testing.assert_close(
        WEIGHTS["snr"](make_schedule(), TIMES, 5.0), expected, rtol=1e-5, atol=0
    )


def test_min_snr_caps_the_clean_end_and_leaves_the_noisy_one() -> None:
    snr, capped = (WEIGHTS[name](make_schedule(), TIMES, 5.0) for name in ("snr", "min_snr"))
    assert torch.equal(capped[snr > 5], torch.full_like(capped[snr > 5], 5.0))
    assert torch.equal(capped[snr <= 5], snr[snr <= 5])
    assert 0 < int((snr > 5).sum()) < len(T)


@pytest.mark.parametrize("s", [-1, 124, 249])
def test_velocity_makes_an_l2_loss_that_of_the_outputs_wherever_they_land(s: int) -> None:
    schedule, generator = make_schedule("v_prediction"), torch.Generator().manual_seed(0)
    t, end = torch.tensor([259, 499, 979, 999]), torch.full((4,), s)
    x, first, second = (torch.randn(4, 4, 4, 4, generator=generator) for _ in range(3))
    landed = [land(schedule, v, x, t, end, timestep_scaling=None) for v in (first, second)]
    weight = WEIGHTS["velocity"](schedule, Times(t, end, end), None)
    torch.testing.assert_close(
        weight * LOSSES["l2"](*landed, None), LOSSES["l2"](first, second, None), rtol=1e-3, atol=0
    )


def test_inverse_dt_weighs_a_step_by_its_length_in_noise_level() -> None:
    def weight(t: list[int], u: list[int]) -> torch.Tensor:
        end = torch.tensor(u)
        return WEIGHTS["inverse_dt"](make_schedule(), Times(torch.tensor(t), end, end), 5.0)

    # of steps equally long in t the noisiest is the longest by far
    middle, high = weight([499, 999], [479, 979]).tolist()
    assert middle > 3 * high
    # a step's length is the sum of its parts
    whole, lower, upper = weight([499, 239, 499], [124, 124, 239])
    torch.testing.assert_close(1 / whole, 1 / lower + 1 / upper)


@every_type
@pytest.mark.parametrize(
    ("name", "kind"), [("snr", "epsilon"), ("velocity", "v_prediction"), ("uniform", "sample")]
)
def test_a_weighted_l2_of_clean_landings_is_the_l2_of_predictions(
    prediction_type: str, name: str, kind: str
) -> None:
    """The weights of a loss on epsilon, v or x0, whatever the network itself predicts."""
    schedule = make_schedule(prediction_type)
    generator = torch.Generator().manual_seed(0)
    x_t, mine, other = (torch.randn(len(T), 4, 3, 3, generator=generator) for _ in range(3))
    landed = [
        land(schedule, output, x_t, T, TIMES.s, timestep_scaling=None) for output in (mine, other)
    ]
    got = WEIGHTS[name](schedule, TIMES, 5.0) * LOSSES["l2"](landed[0], landed[1], 0.001)
    alpha, sigma = (
        torch.from_numpy(part).view(-1, 1, 1, 1)
        for part in (ALPHA_BAR**0.5, (1 - ALPHA_BAR) ** 0.5)
    )

    def told(output: torch.Tensor) -> torch.Tensor:
        output, x = output.double(), x_t.double()
        x0 = {
            "epsilon": (x - sigma * output) / alpha,
            "v_prediction": alpha * x - sigma * output,
            "sample": output,
        }[prediction_type]
        eps = (x - alpha * x0) / sigma
        return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0}[kind]

    expected = (told(mine) - told(other)).square().mean((1, 2, 3)).float()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("weighting", "loss"), [("alpha_squared", "l2"), ("balanced", "l1")])
def test_alpha_gives_an_epsilon_network_the_balance_of_a_v_network(
    weighting: str, loss: str
) -> None:
    """An error of the output counts as sigma_t or its square, as with CM's c_out, not as tau_t."""
    output, x_t = torch.zeros(len(T), 4, 3, 3), torch.ones(len(T), 4, 3, 3)
    distances = []
    for kind in ("epsilon", "v_prediction"):
        here = make_schedule(kind)
        landed = [
            land(here, told, x_t, T, TIMES.s, timestep_scaling=None)
            for told in (output, output + 1)
        ]
        distances.append(LOSSES[loss](landed[0], landed[1], None))
    weighed = WEIGHTS[weighting](make_schedule(), TIMES, None) * distances[0]
    torch.testing.assert_close(weighed, distances[1], rtol=1e-4, atol=1e-7)
