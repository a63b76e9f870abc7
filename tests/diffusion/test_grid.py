"""Laws of the solver grid; expected values by hand or from stock LCMScheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import LCMScheduler

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.times import GridTimes, LandClean, Times

FEW_STEP_OF_50 = {
    1: [999],
    2: [999, 499],
    3: [999, 679, 339],
    4: [999, 759, 499, 259],
    5: [999, 799, 599, 399, 199],
    6: [999, 839, 679, 499, 339, 179],
    7: [999, 859, 719, 579, 439, 299, 159],
    8: [999, 879, 759, 639, 499, 379, 259, 139],
}


def stock_timesteps(num_steps: int, num_inference_steps: int) -> list[int]:
    scheduler = LCMScheduler(original_inference_steps=num_steps)
    scheduler.set_timesteps(num_inference_steps)
    return [int(t) for t in scheduler.timesteps]


def pairs(grid: SolverGrid, uniform: torch.Tensor) -> Times:
    return GridTimes(grid, LandClean())(uniform, torch.zeros_like(uniform), 0.0)


def test_the_grid_of_50_is_19_to_999() -> None:
    grid = SolverGrid(50)
    assert grid.stride == 20
    assert grid.timesteps.tolist() == list(range(19, 1000, 20))
    assert grid.timesteps.dtype == torch.int64


def test_pairs_of_50_step_down_by_20_and_the_first_lands_clean() -> None:
    pair = pairs(SolverGrid(50), (torch.arange(50) + 0.5) / 50)
    assert pair.t.tolist() == list(range(19, 1000, 20))
    assert pair.u.tolist() == [CLEAN, *range(19, 980, 20)]
    assert pair.s.tolist() == [CLEAN] * 50
    assert pair.t.dtype == pair.u.dtype == pair.s.dtype == torch.int64


@pytest.mark.parametrize("num_steps", [1, 10, 40, 50, 1000])
def test_the_lower_end_of_the_first_pair_is_clean_and_of_others_the_grid_point_below(
    num_steps: int,
) -> None:
    grid = SolverGrid(num_steps)
    pair = pairs(grid, (torch.arange(num_steps) + 0.5) / num_steps)
    assert pair.u.tolist() == [CLEAN, *grid.timesteps.tolist()[:-1]]


@pytest.mark.parametrize(
    ("uniform", "t", "u"), [(0.0, 19, CLEAN), (0.999999, 999, 979), (1.0 - 2.0**-24, 999, 979)]
)
def test_the_ends_of_the_unit_interval_hit_the_ends_of_the_grid(
    uniform: float, t: int, u: int
) -> None:
    pair = pairs(SolverGrid(50), torch.tensor([uniform]))
    assert (pair.t.tolist(), pair.u.tolist()) == ([t], [u])


@pytest.mark.parametrize("num_steps", [1, 7, 10, 40, 50, 1000])
def test_every_grid_point_is_hit_equally_often(num_steps: int) -> None:
    uniform = (torch.arange(num_steps * 8, dtype=torch.float64) + 0.5) / (num_steps * 8)
    grid = SolverGrid(num_steps)
    values, counts = torch.unique(grid.at(uniform.float()), return_counts=True)
    assert torch.equal(values, grid.timesteps)
    assert (counts == 8).all()


@pytest.mark.parametrize(("num_inference_steps", "expected"), FEW_STEP_OF_50.items())
def test_few_step_lists_of_50(num_inference_steps: int, expected: list[int]) -> None:
    assert SolverGrid(50).few_step(num_inference_steps).tolist() == expected


@pytest.mark.parametrize("num_steps", [10, 30, 40, 50, 100])
@pytest.mark.parametrize("num_inference_steps", range(1, 9))
def test_few_step_equals_stock_lcm_scheduler(num_steps: int, num_inference_steps: int) -> None:
    expected = stock_timesteps(num_steps, num_inference_steps)
    assert SolverGrid(num_steps).few_step(num_inference_steps).tolist() == expected


@pytest.mark.parametrize("num_inference_steps", range(9, 51))
def test_few_step_equals_stock_for_every_count_up_to_the_grid(num_inference_steps: int) -> None:
    assert SolverGrid(50).few_step(num_inference_steps).tolist() == stock_timesteps(
        50, num_inference_steps
    )


@pytest.mark.parametrize("num_train_timesteps", [100, 500])
def test_few_step_follows_the_length_of_the_schedule(num_train_timesteps: int) -> None:
    scheduler = LCMScheduler(original_inference_steps=20, num_train_timesteps=num_train_timesteps)
    scheduler.set_timesteps(4)
    assert SolverGrid(20, num_train_timesteps).few_step(4).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("num_inference_steps", [0, -1, 51, 1000])
def test_more_steps_than_the_grid_has_raise_and_name_the_range(num_inference_steps: int) -> None:
    with pytest.raises(
        ValueError, match=rf"num_inference_steps={num_inference_steps} .*pass 1\.\.50"
    ):
        SolverGrid(50).few_step(num_inference_steps)


@pytest.mark.parametrize("num_steps", [0, -5, 1001])
def test_a_grid_outside_the_schedule_raises(num_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.1000; got {num_steps}"):
        SolverGrid(num_steps)
