"""Laws of every solver in SOLVERS, and its order against a teacher whose ODE has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from lcm.diffusion.schedule import CLEAN, NoiseSchedule, Prediction
from lcm.diffusion.solvers.base import repeated, substeps
from lcm.diffusion.tables import SOLVERS
from tests.support.closed_forms import exact_solution, gaussian_teacher
from tests.support.schedules import (
    SD_BETAS,
    every_model,
    every_solver,
    float64_schedule,
    make_schedule,
    network,
    network_of,
    randn,
    stable_diffusion_schedule,
    stock_ddim,
)

# a new solver must say its order
ORDERS = {"ddim": 1.0, "heun": 2.0, "dpm_solver_pp_2m": 2.0}


def geometric_schedule() -> NoiseSchedule:
    """tau = sigma / alpha from 0.05 to 20, evenly in its logarithm."""
    tau = 0.05 * 400 ** torch.linspace(0, 1, 1025, dtype=torch.float64)
    return float64_schedule(1 / (1 + tau**2))


def relative_error(
    name: str, schedule: NoiseSchedule, std: float, start: int, end: int, steps: int
) -> float:
    x, predict = torch.ones(1, 1, 1, 1, dtype=torch.float64), gaussian_teacher(schedule, std)
    x = repeated(SOLVERS[name], steps)(
        predict, schedule, x, torch.tensor([start]), torch.tensor([end])
    )
    exact = exact_solution(schedule, std, 1.0, start, end)
    return abs(float(x) - exact) / exact


@every_solver
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["stable diffusion", "geometric"])
def test_order_against_the_closed_form_gaussian_teacher(name: str, std: float, kind: str) -> None:
    if kind == "geometric":
        schedule, start, end, steps = geometric_schedule(), 1024, 0, (32, 64, 128)
    else:
        schedule, start, end, steps = stable_diffusion_schedule(), 999, 199, (40, 80, 160)
    errors = [relative_error(name, schedule, std, start, end, n) for n in steps]
    orders = [float(np.log2(errors[0] / errors[1])), float(np.log2(errors[1] / errors[2]))]
    assert orders == pytest.approx([ORDERS[name]] * 2, abs=0.15)


@every_solver
def test_many_small_steps_reach_the_closed_form(name: str) -> None:
    assert relative_error(name, stable_diffusion_schedule(), 1.0, 999, 199, 400) < 2e-3


@every_solver
def test_a_point_mass_is_solved_exactly_by_one_step_of_any_length(name: str) -> None:
    """For data that is a single image, eps is constant along the trajectory."""
    schedule = stable_diffusion_schedule()
    mu, eps = randn(3, 4, 5, 5, seed=1).double(), randn(3, 4, 5, 5, seed=2).double()
    t, s = torch.tensor([999, 999, 519]), torch.tensor([0, CLEAN, 499])

    def predict(x_t: Tensor, time: Tensor) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(time)
        return Prediction(mu, (x_t - alpha * mu) / sigma)

    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    got = SOLVERS[name](predict, schedule, alpha_t * mu + sigma_t * eps, t, s)
    torch.testing.assert_close(got, alpha_s * mu + sigma_s * eps, rtol=0, atol=1e-12)


@every_solver
@every_model
def test_a_step_from_t_to_t_is_the_identity(
    name: str, prediction_type: str, zero_snr: bool
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    x_t, t = randn(5, 4, 6, 6), torch.tensor([0, 19, 499, 979, 999])
    got = SOLVERS[name](network_of(schedule), schedule, x_t, t, t)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, x_t, rtol=1e-6, atol=1e-6)


@every_solver
@every_model
def test_samples_of_a_batch_do_not_influence_each_other(
    name: str, prediction_type: str, zero_snr: bool
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    predict, x_t = network_of(schedule), randn(5, 4, 6, 6)
    t, s = torch.tensor([999, 999, 519, 19, 19]), torch.tensor([979, CLEAN, 499, 0, CLEAN])
    together = SOLVERS[name](predict, schedule, x_t, t, s)
    for i in range(5):
        alone = SOLVERS[name](predict, schedule, x_t[i : i + 1], t[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=2e-6)


@every_solver
def test_a_poisoned_sample_leaves_its_neighbours_alone(name: str) -> None:
    schedule = make_schedule("v_prediction")
    x_t, t, s = randn(3, 4, 6, 6), torch.tensor([999, 519, 19]), torch.tensor([979, 499, CLEAN])
    expected = SOLVERS[name](network_of(schedule), schedule, x_t, t, s)
    x_t[1] = float("nan")
    got = SOLVERS[name](network_of(schedule), schedule, x_t, t, s)
    torch.testing.assert_close(got[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


@every_solver
@every_model
@pytest.mark.parametrize("t", [0, 19, 499, 999])
def test_a_step_to_the_clean_end_is_the_predicted_x0(
    name: str, prediction_type: str, zero_snr: bool, t: int
) -> None:
    """No network can be asked there, so every solver ends as EDM does, with the prediction at
    x_t.
    """
    schedule = make_schedule(prediction_type, zero_snr)
    predict, x_t, time = network_of(schedule), randn(2, 4, 6, 6), torch.tensor([t, t])
    got = SOLVERS[name](predict, schedule, x_t, time, torch.tensor([CLEAN, CLEAN]))
    assert got.isfinite().all()
    assert torch.equal(got, predict(x_t, time).x0)


@every_solver
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize("s", [999, 979, 0, CLEAN])
def test_the_first_step_at_zero_terminal_snr_is_the_euler_step(
    name: str, prediction_type: str, s: int
) -> None:
    """tau is infinite at t, so the step is finite and alpha_s x0 + sigma_s eps."""
    schedule = make_schedule(prediction_type, zero_snr=True)
    predict, x_t, t = network_of(schedule), randn(2, 4, 6, 6), torch.tensor([999, 999])
    got = SOLVERS[name](predict, schedule, x_t, t, torch.tensor([s, s]))
    assert got.isfinite().all()
    x0, eps = predict(x_t, t)
    expected = float(schedule.alphas[s]) * x0 + float(schedule.sigmas[s]) * eps
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@every_model
@pytest.mark.parametrize("num_steps", range(1, 9))
def test_ddim_equals_stock_over_all_steps(
    prediction_type: str, zero_snr: bool, num_steps: int
) -> None:
    """Stock steps from t to t - 1000 // n, which for n = 3, 6, 7 is a neighbour of the next
    timestep.
    """
    stock = stock_ddim(prediction_type, zero_snr)
    stock.set_timesteps(num_steps)
    schedule, mix = NoiseSchedule.from_scheduler(stock), randn(4, 4, seed=7)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(
            torch.einsum("ij,bjhw->bihw", mix, x) + torch.cos(t / 300.0).view(-1, 1, 1, 1)
        )

    def predict(x: Tensor, t: Tensor) -> Prediction:
        return schedule.predict(network(x, t), x, t)

    mine = theirs = randn(2, 4, 6, 6)
    for time in stock.timesteps.tolist():
        t = torch.tensor([time, time])
        theirs = stock.step(network(theirs, t), time, theirs, eta=0.0).prev_sample
        mine = SOLVERS["ddim"](predict, schedule, mine, t, t - 1000 // num_steps)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 8, 10, 20, 25, 40])
def test_dpm_solver_equals_stock_over_all_steps(prediction_type: str, num_steps: int) -> None:
    """DPM-Solver++ 2M with midpoint steps and a first-order last one to sigma 0, at the same
    timesteps.
    """
    stock = DPMSolverMultistepScheduler(
        **SD_BETAS,
        prediction_type=prediction_type,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        lower_order_final=True,
        timestep_spacing="trailing",
    )
    stock.set_timesteps(num_steps)
    t, clean = torch.tensor([999, 999]), torch.tensor([CLEAN, CLEAN])
    assert stock.timesteps.tolist() == [int(time[0]) for time in substeps(t, clean, num_steps)[:-1]]
    schedule = NoiseSchedule.from_scheduler(stock)
    start = randn(2, 4, 6, 6)
    theirs = randn(2, 4, 6, 6)
    for time in stock.timesteps:
        theirs = stock.step(network(theirs, time.expand(2)), time, theirs).prev_sample
    mine = repeated(SOLVERS["dpm_solver_pp_2m"], num_steps)(
        network_of(schedule), schedule, start, t, clean
    )
    # stock keeps lambda = log(alpha / sigma) in float32
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@every_solver
@every_model
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_repeated_steps_are_finite_and_keep_samples_apart(
    name: str, prediction_type: str, zero_snr: bool, steps: int
) -> None:
    """Some samples stand still in some of the steps, or arrive early at the clean end."""
    schedule, solver = make_schedule(prediction_type, zero_snr), repeated(SOLVERS[name], steps)
    predict, x_t = network_of(schedule), randn(6, 4, 6, 6)
    t = torch.tensor([999, 999, 519, 3, 0, 700])
    s = torch.tensor([979, CLEAN, 499, CLEAN, CLEAN, 700])
    together = solver(predict, schedule, x_t, t, s)
    assert together.isfinite().all()
    assert torch.equal(together[5], x_t[5])
    for i in range(6):
        alone = solver(predict, schedule, x_t[i : i + 1], t[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=5e-6)


@every_solver
def test_repeated_steps_follow_the_substeps_and_ask_no_more_than_the_solver_must(name: str) -> None:
    schedule, asked = make_schedule("v_prediction"), []

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        asked.append(int(t))
        return network_of(schedule)(x_t, t)

    repeated(SOLVERS[name], 4)(
        predict, schedule, randn(1, 4, 6, 6), torch.tensor([999]), torch.tensor([199])
    )
    starts = [999, 799, 599, 399]
    assert asked == (starts if name != "heun" else [999, 799, 799, 599, 599, 399, 399, 199])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
def test_substeps_are_even_up_to_rounding(steps: int) -> None:
    t, s = torch.tensor([999, 999, 519, 3, 5]), torch.tensor([CLEAN, 0, 499, CLEAN, 5])
    got = torch.stack(substeps(t, s, steps)).numpy()
    exact = np.linspace(t.numpy(), s.numpy(), steps + 1)
    assert np.abs(got - exact).max() <= 0.5
    assert (got[0] == t.numpy()).all() and (got[-1] == s.numpy()).all()


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="positive; got 0"):
        repeated(SOLVERS["ddim"], 0)


def test_memory_does_not_survive_a_pair() -> None:
    """The same pair twice gives the same answer, and one step of the remembering solver is
    DDIM's.
    """
    schedule, t, s = make_schedule("epsilon"), torch.tensor([999, 519]), torch.tensor([499, 19])
    solver = repeated(SOLVERS["dpm_solver_pp_2m"], 3)
    x_t, predict = randn(2, 4, 6, 6), network_of(schedule)
    assert torch.equal(solver(predict, schedule, x_t, t, s), solver(predict, schedule, x_t, t, s))
    once = repeated(SOLVERS["dpm_solver_pp_2m"], 1)(predict, schedule, x_t, t, s)
    assert torch.equal(once, SOLVERS["ddim"](predict, schedule, x_t, t, s))
