"""Laws of the pairs of consistency training; expected values are written out from the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lcm.diffusion.pairs import EasyTimes, RefinedTimes, doubling, square_root
from lcm.diffusion.schedule import CLEAN
from lcm.methods.config import MethodConfig, resolved, settings_of
from tests.support.closed_forms import make_objective
from tests.support.schedules import make_schedule

PROGRESS = [0.0, 0.249, 0.25, 0.6, 0.999]


def even(count: int) -> Tensor:
    """The middles of `count` equal parts of [0, 1)."""
    return (torch.arange(count) + 0.5) / count


def test_the_refined_grid_doubles_and_ends_at_the_last() -> None:
    sampler = RefinedTimes(10, 1000, 1000)
    numbers = [sampler.num_steps(progress) for progress in np.linspace(0, 0.9999, 800)]
    stages = list(dict.fromkeys(numbers))
    assert stages == [10, 20, 40, 80, 160, 320, 640, 1000]
    assert [numbers.count(stage) for stage in stages] == [100] * 8
    assert sampler.num_steps(1.0) == 1000
    assert {RefinedTimes(18, 18, 1000).num_steps(progress) for progress in PROGRESS} == {18}


@pytest.mark.parametrize("n", [1, 3, 10, 18, 50, 640, 999, 1000])
def test_refined_neighbours_tile_the_way_from_clean_to_the_last_timestep(n: int) -> None:
    t, u, s = RefinedTimes(n, n, 1000)(even(n), torch.zeros(n), 0.5)
    assert u[0] == CLEAN and t[-1] == 999
    assert torch.equal(t[:-1], u[1:])
    lengths = t - u
    assert lengths.max() - lengths.min() <= 1
    assert set(s.tolist()) == {CLEAN}


@pytest.mark.parametrize(
    "curve", [(2.0, 8.0, 1.0), (4.0, 8.0, 1.0), (2.0, 0.0, 1.0), (2.0, 8.0, 5.0)]
)
def test_easy_times_follow_the_published_mapping_within_one_timestep(
    curve: tuple[float, float, float],
) -> None:
    """ECT, Eq. 10 and 11, with EDM's noise level in n(t), half of tau = sigma / alpha: r is the
    timestep below t (1 - n(t) / q^(stage + 1)).
    """
    schedule = make_schedule()
    alpha_bar = np.asarray(
        DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ).alphas_cumprod,
        dtype=float,
    )
    tau = np.sqrt((1 - alpha_bar) / alpha_bar)
    q, k, b = curve
    for stage in range(8):
        pairs = EasyTimes(schedule, 8, q, k, b)
        t, u, s = pairs(even(1000), torch.zeros(1000), (stage + 0.5) / 8)
        assert torch.equal(t, torch.arange(1000))
        assert set(s.tolist()) == {CLEAN}
        wanted = np.maximum(tau * (1 - (1 + k / (1 + np.exp(b * tau / 2))) / q ** (stage + 1)), 0.0)
        for time, lower in zip(t.tolist(), u.tolist(), strict=True):
            below = -1 if lower == CLEAN else lower
            # the next timestep would be too high
            assert below == time - 1 or tau[below + 1] >= wanted[time] * (1 - 1e-5)
            assert lower == CLEAN or tau[lower] <= wanted[time] * (1 + 1e-5) or wanted[time] == 0.0


def test_easy_times_begin_far_and_end_near() -> None:
    schedule, t = make_schedule(), torch.arange(1000)
    means = []
    for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 0.999):
        _, u, _ = EasyTimes(schedule)(even(1000), torch.zeros(1000), progress)
        means.append(float((t - u).float().mean()))
    assert means == sorted(means, reverse=True)
    first, last = (
        EasyTimes(schedule)(even(1000), torch.zeros(1000), progress).u for progress in (0.0, 0.999)
    )
    assert (first[:300] == CLEAN).all()  # nearly diffusion training: the target is the image itself
    assert (t - last)[100:].max() <= 5


def test_easy_stages_are_equal_shares_of_the_run() -> None:
    at = torch.linspace(0.3, 0.9, 50)
    pairs = EasyTimes(make_schedule(), stages=3)
    seen = [pairs(at, at, progress).u.tolist() for progress in (0.0, 0.33, 0.34, 0.66, 0.67, 0.999)]
    assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4] == seen[5]


@pytest.mark.parametrize("progress", PROGRESS)
def test_easy_pairs_exist_at_zero_terminal_snr(progress: float) -> None:
    """There tau is infinite: the law of noise levels comes near, and every pair is one."""
    objective = make_objective(
        "ct",
        make_schedule("v_prediction", zero_snr=True),
        discretization="ect",
        time_distribution="lognormal",
    )
    t, u, _ = objective.times(even(5000), torch.zeros(5000), progress)
    assert t.min() == 0 and t.max() >= 990
    assert ((u < t) & (u >= CLEAN)).all()


# --- CM, appendix C -------------------------------------------------------------------------------


def published_points(progress: float, s_0: int, s_1: int) -> int:
    """N(k) = ceil(sqrt(k / K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1."""
    return math.ceil(math.sqrt(progress * ((s_1 + 1) ** 2 - s_0**2) + s_0**2) - 1) + 1


@pytest.mark.parametrize(("s_0", "s_1"), [(2, 150), (2, 200), (11, 1000)])
def test_the_grid_of_cm_has_as_many_points_as_published(s_0: int, s_1: int) -> None:
    numbers = [square_root(s_0 - 1, s_1, progress) for progress in np.linspace(0, 0.9999, 500)]
    assert [n + 1 for n in numbers] == [
        published_points(progress, s_0, s_1) for progress in np.linspace(0, 0.9999, 500)
    ]
    assert (numbers[0], numbers[-1]) == (s_0 - 1, s_1)
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("discretization", ["refined", "cm"])
def test_the_decay_of_the_target_rises_as_in_cm(discretization: str) -> None:
    """mu(k) = exp(s_0 ln(mu_0) / N(k)), mu_0 at the start."""
    flags: dict[str, Any] = {"objective": "ct", "target": "ema", "ema_decay": 0.9}
    grid = {"discretization": discretization, "first_ddim_timesteps": 1, "num_ddim_timesteps": 200}
    settings: Any = settings_of(resolved(MethodConfig(**flags, **grid, ema_schedule="cm")))
    constant: Any = settings_of(resolved(MethodConfig(**flags, **grid)))
    growth = {"refined": doubling, "cm": square_root}[discretization]
    for progress in (0.0, 0.1, 0.5, 0.999):
        points = growth(1, 200, progress) + 1
        expected = math.exp(2 * math.log(0.9) / points)
        assert 0.9 ** settings.ema_exponent(progress) == pytest.approx(expected, rel=1e-12)
        assert constant.ema_exponent(progress) == 1.0
    assert settings.ema_exponent(0.0) == 1.0
    assert 0.9 ** settings.ema_exponent(0.999) > 0.998
