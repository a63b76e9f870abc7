"""Laws of the time samplers; expected times come from stock schedulers and the published
formulas.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler
from torch import Tensor

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.times import (
    DirectTimes,
    GridTimes,
    LandClean,
    PhaseEdge,
    TangentTimes,
    TargetSet,
    TimeSampler,
    WithinSegment,
)
from lcm.methods import METHODS
from tests.support.closed_forms import make_objective

SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS),
    ("lcm", {"num_ddim_timesteps": 30}),
    ("lcm", {"num_ddim_timesteps": 1000}),
    ("ct", {"discretization": "fixed", "num_ddim_timesteps": 8}),
    ("ct", {"discretization": "ect"}),
    ("pcm", {"phases": 8}),
    ("pcm", {"phases": 1}),
    ("tcd", {"landing_steps": []}),
    ("tcd", {"landing_jitter": 0.0}),
    ("tcd", {"landing_jitter": 1.0}),
    *(("tcd", {"landing_window": window}) for window in (0, 260)),
    ("ct", {"discretization": "cm", "first_ddim_timesteps": 1, "num_ddim_timesteps": 200}),
    ("ct", {"time_distribution": "lognormal"}),
    ("ct", {"discretization": "ect", "time_distribution": "lognormal"}),
    ("flow_map", {"phases": 8}),
    ("scm", {"tangent_step": 100}),
]
every_sampler = pytest.mark.parametrize(("name", "flags"), SAMPLERS, ids=str)
PROGRESS = [0.0, 0.249, 0.25, 0.6, 0.999]


def even(count: int) -> Tensor:
    """The middles of `count` equal parts of [0, 1)."""
    return (torch.arange(count) + 0.5) / count


def square(count: int) -> tuple[Tensor, Tensor]:
    """Every pair of two such rows of numbers."""
    return even(count).repeat_interleave(count), even(count).repeat(count)


@every_sampler
@pytest.mark.parametrize("progress", PROGRESS)
def test_the_landing_lies_below_u_and_u_below_t(
    name: str, flags: dict[str, Any], progress: float
) -> None:
    objective = make_objective(name, **flags)
    # float32 may round up to 1.0
    uniform = torch.cat([torch.zeros(1), even(199), torch.tensor([1 - 2**-24, 1.0])])
    first, second = uniform.repeat_interleave(len(uniform)), uniform.repeat(len(uniform))
    t, u, s = objective.times(first, second, progress)
    assert {part.dtype for part in (t, u, s)} == {torch.int64}
    assert {part.shape for part in (t, u, s)} == {first.shape}
    assert ((s >= CLEAN) & (s <= u) & (u < t) & (t <= 999)).all()
    assert bool((s == u).all()) or not objective.times.direct


@every_sampler
def test_times_of_a_sample_do_not_depend_on_its_neighbours(
    name: str, flags: dict[str, Any]
) -> None:
    times = make_objective(name, **flags).times
    first, second = square(9)
    together = torch.stack(times(first, second, 0.6))
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(times(first[order], second[order], 0.6)), together[:, order])
    assert torch.equal(torch.stack(times(first[:5], second[:5], 0.6)), together[:, :5])


@pytest.mark.parametrize("num_steps", [1, 7, 40, 50, 1000])
@pytest.mark.parametrize("kind", [GridTimes, DirectTimes])
def test_t_is_every_grid_point_equally_often_and_u_the_next_one_or_the_landing(
    num_steps: int, kind: Any
) -> None:
    grid = SolverGrid(num_steps)
    t, u, s = kind(grid, LandClean())(even(4 * num_steps), torch.zeros(4 * num_steps), 0.0)
    assert Counter(t.tolist()) == dict.fromkeys(grid.timesteps.tolist(), 4)
    assert set(s.tolist()) == {CLEAN}
    below = dict(zip(grid.timesteps.tolist(), [CLEAN, *grid.timesteps.tolist()], strict=False))
    assert u.tolist() == ([below[time] for time in t.tolist()] if kind is GridTimes else s.tolist())


@pytest.mark.parametrize("skipping_steps", [1, 3, 50])
def test_a_pair_spans_as_many_points_as_it_is_told_and_ends_clean_below_the_grid(
    skipping_steps: int,
) -> None:
    grid = SolverGrid(50)
    t, u, _ = GridTimes(grid, LandClean(), skipping_steps)(even(50), torch.zeros(50), 0.0)
    points = [CLEAN] * skipping_steps + grid.timesteps.tolist()
    assert dict(zip(t.tolist(), u.tolist(), strict=True)) == dict(
        zip(grid.timesteps.tolist(), points, strict=False)
    )


# --- phases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [1, 2, 4, 8])
def test_phase_edges_are_what_stock_schedulers_visit(phases: int) -> None:
    """DDIM trailing, and LCMScheduler on the same 40 steps, each down to clean data."""
    grid = SolverGrid(40)
    t, u, s = GridTimes(grid, PhaseEdge(grid, phases))(even(40), torch.zeros(40), 0.0)
    trailing = DDIMScheduler(timestep_spacing="trailing")
    trailing.set_timesteps(phases)
    lcm = LCMScheduler(original_inference_steps=40)
    lcm.set_timesteps(phases)
    assert trailing.timesteps.tolist() == lcm.timesteps.tolist()
    edges = [*trailing.timesteps.tolist()[1:], CLEAN]
    assert sorted(set(s.tolist()), reverse=True) == edges
    # from every t the nearest edge below it
    assert s.tolist() == [max(edge for edge in edges if edge < time) for time in t.tolist()]
    assert (u >= s).all()


@pytest.mark.parametrize(
    ("steps", "phases", "fitting"),
    [
        (50, 8, "1, 2, 5, 10, 25, 50"),
        (40, 3, "1, 2, 4, 5, 8, 10, 20, 40"),
        (40, 0, "1, 2"),
        (30, 2, ""),
    ],
)
def test_phases_that_do_not_divide_are_refused_with_those_that_do(
    steps: int, phases: int, fitting: str
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"phases={phases} does not divide a grid of {steps}.*some of "
        rf"\[{fitting}.*num_ddim_timesteps 40",
    ):
        PhaseEdge(SolverGrid(steps), phases)
    with pytest.raises(ValueError, match=f"segments={phases} does not divide"):
        WithinSegment(SolverGrid(steps), (1 if steps == 40 else 2, phases))


# --- landing anywhere -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "phases"),
    [(0.0, 8), (0.249, 8), (0.25, 4), (0.5, 2), (0.749, 2), (0.75, 1), (0.999, 1), (1.0, 1)],
)
def test_segments_merge_in_equal_shares_of_the_run(progress: float, phases: int) -> None:
    grid = SolverGrid(40)
    sampler = GridTimes(grid, WithinSegment(grid, (8, 4, 2, 1)))
    t, _, lowest = sampler(even(40), torch.zeros(40), progress)
    assert torch.equal(lowest, PhaseEdge(grid, phases)(t, t, t, 0.0))


@pytest.mark.parametrize("phases", [1, 2, 4, 8])
def test_segments_are_landed_in_uniformly(phases: int) -> None:
    """Every grid point from the edge up to u, both included, equally often."""
    grid, draws = SolverGrid(40), 2520
    sampler = GridTimes(grid, WithinSegment(grid, (phases,)))
    for uniform_time in even(40).tolist():
        t, u, s = sampler(torch.full((draws,), uniform_time), even(draws), 0.0)
        edge, stride = int(t[0]) // (1000 // phases) * (1000 // phases) - 1, 25
        counts = Counter(s.tolist())
        assert sorted(counts) == list(range(edge, int(u[0]) + 1, stride))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("step_counts", [(4,), (4, 5, 6, 7, 8), (1,)])
@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
def test_target_sets_land_on_what_stock_tcd_visits_or_a_share_below(
    step_counts: tuple[int, ...], jitter: float
) -> None:
    grid, visited = SolverGrid(50), {CLEAN}
    stock = TCDScheduler(original_inference_steps=50)
    for n in step_counts:
        stock.set_timesteps(n)
        visited |= set(stock.timesteps.tolist()[1:])
    first, second = square(500)
    _, u, s = GridTimes(grid, TargetSet(grid, step_counts, jitter))(first, second, 0.0)
    assert (s <= u).all()
    if jitter == 0.0:
        assert set(s.tolist()) == visited
        return
    allowed = {CLEAN} | {
        low
        for edge in visited - {CLEAN}
        for low in range(math.floor((1 - jitter) * edge), edge + 1)
    }
    assert set(s.tolist()) <= allowed
    if len(visited) > 1:
        assert len(set(s.tolist())) > 5 * len(visited)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_target_sets_choose_uniformly_and_jitter_uniformly(jitter: float) -> None:
    grid = SolverGrid(50)
    landing = TargetSet(grid, (5,), jitter)  # CLEAN, 199, 399, 599, 799
    s = GridTimes(grid, landing)(torch.full((5000,), 0.999), even(5000), 0.0).s
    if jitter == 0.0:
        assert Counter(s.tolist()) == {CLEAN: 1000, 199: 1000, 399: 1000, 599: 1000, 799: 1000}
        return
    around = s[s > 0.7 * 799 - 1].double()  # 0.7 * 799 > 599 does not hold: the highest two overlap
    only_highest = around[around > 599]
    assert len(only_highest) == pytest.approx(1000 * (799 - 599) / (0.3 * 799), rel=0.03)
    assert float(only_highest.mean()) == pytest.approx((600 + 799) / 2, abs=2)


def targets_of_tdd(u: int, targets: list[int], window: int) -> list[int]:
    """`select_s` of TDD's training script, with 0 in the place of the clean end."""
    highest = max(target for target in targets if target <= max(u, 0))
    return [t for t in targets if max(highest - window, 0) <= t <= highest]


@pytest.mark.parametrize("window", [0, 100, 260, 1000])
def test_a_window_leaves_the_targets_that_tdd_draws_from_equally_often(window: int) -> None:
    grid, counts = SolverGrid(50), (4, 5, 6, 7, 8)
    stock, visited = TCDScheduler(original_inference_steps=50), {0}
    for n in counts:
        stock.set_timesteps(n)
        visited |= set(stock.timesteps.tolist()[1:])
    sampler = GridTimes(grid, TargetSet(grid, counts, 0.0, window))
    for place in even(50).tolist():
        _, u, s = sampler(torch.full((2520,), place), even(2520), 0.0)
        drawn = Counter(s.clamp(min=0).tolist())
        assert sorted(drawn) == targets_of_tdd(int(u[0]), sorted(visited), window)
        assert max(drawn.values()) - min(drawn.values()) <= 1


@pytest.mark.parametrize("step", [1, 5, 100])
def test_tangent_times_are_one_step_apart_over_all_timesteps(step: int) -> None:
    count = 1000 - step
    t, u, s = TangentTimes(1000, step)(even(count), torch.zeros(count), 0.5)
    assert t.tolist() == list(range(step, 1000))
    assert (t - u == step).all()
    assert set(s.tolist()) == {CLEAN}


def test_progress_matters_only_to_schedules() -> None:
    """A run may then be shortened without changing what is taught."""
    moving: set[str] = set()
    first, second = square(40)
    for name in METHODS:
        sampler: TimeSampler = make_objective(name).times
        if not torch.equal(
            torch.stack(sampler(first, second, 0.0)), torch.stack(sampler(first, second, 0.999))
        ):
            moving.add(name)
    assert moving == {"ct", "tscd", "hyper"}
