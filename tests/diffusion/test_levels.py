"""The law of noise levels, against scipy-free closed forms and the shares that papers give."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from lcm.diffusion.levels import LogNormal, evenly
from lcm.diffusion.schedule import CLEAN
from tests.support.closed_forms import make_objective
from tests.support.schedules import SD_BETAS, make_schedule

EVERY = torch.arange(-1, 1000)
"""The edges of the finest grid."""
# the noise levels of stock diffusers, from 0 to the highest; EDM's, whose data have deviation 0.5
LEVELS = np.asarray(EulerDiscreteScheduler(**SD_BETAS).sigmas, dtype=float)[::-1] * 0.5


def even(count: int) -> torch.Tensor:
    return (torch.arange(count) + 0.5) / count


@pytest.mark.parametrize(("mean", "std"), [(-1.1, 2.0), (-1.0, 1.4), (-0.4, 1.0)])
@pytest.mark.parametrize("steps", [1000, 50, 10])
def test_each_step_has_the_share_that_the_law_has_between_its_edges(
    mean: float, std: float, steps: int
) -> None:
    """iCT, Eq. 10: p(i) is the difference of two error functions, over their sum."""
    edges, draws = torch.arange(steps + 1) * (1000 // steps) - 1, 200_000
    index = LogNormal(make_schedule(), mean, std)(even(draws), edges)
    share = np.bincount(index.numpy(), minlength=steps) / draws
    law = NormalDist(mean, std)
    below = np.asarray([law.cdf(math.log(level)) if level else 0.0 for level in LEVELS[edges + 1]])
    np.testing.assert_allclose(share, np.diff(below) / below[-1], atol=2e-5)


@pytest.mark.parametrize("draw", [evenly, LogNormal(make_schedule())], ids=["even", "log-normal"])
def test_draws_are_a_monotone_function_of_the_number_and_stay_inside(draw: object) -> None:
    assert callable(draw)
    uniform = torch.cat([torch.zeros(1), even(3000), torch.tensor([1 - 2**-24, 1.0])])
    index = draw(uniform, EVERY)
    assert (index.dtype, index.shape) == (torch.int64, uniform.shape)
    assert (index.diff() >= 0).all()
    assert index.min() == 0 and index.max() == 999


def test_the_flags_of_the_law_reach_the_pairs() -> None:
    """Half of all samples lie below the median of the law, exp(mean), where all of it fits."""
    for mean in (-2.0, -1.0):
        times = make_objective(
            "ct",
            discretization="ect",
            time_distribution="lognormal",
            lognormal_mean=mean,
            lognormal_std=0.5,
        ).times
        t = times(even(10_001), torch.zeros(10_001), 0.0).t
        middle = float(LEVELS[int(t.median()) + 1])
        assert middle == pytest.approx(math.exp(mean), rel=0.02)


def test_refined_grids_are_drawn_from_by_the_law_too() -> None:
    law = make_objective("ct", time_distribution="lognormal").times
    plain = make_objective("ct").times
    for progress in (0.0, 0.5, 0.999):
        t, u, s = law(even(4000), torch.zeros(4000), progress)
        grid = {
            tuple(pair) for pair in torch.stack(plain(even(4000), even(4000), progress)).T.tolist()
        }
        assert {tuple(pair) for pair in torch.stack((t, u, s)).T.tolist()} <= grid
        assert set(s.tolist()) == {CLEAN}
        assert t.float().mean() < plain(even(4000), even(4000), progress).t.float().mean()
