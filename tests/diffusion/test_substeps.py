"""A solver in several steps between two points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.solvers.base import Remembering, Solver, repeated, substeps
from lcm.diffusion.tables import SOLVERS
from tests.support.closed_forms import exact_solution, gaussian_teacher
from tests.support.schedules import (
    every_model,
    every_solver,
    make_schedule,
    network_of,
    randn,
    stable_diffusion_schedule,
)


def in_sequence(name: str) -> Solver:
    """The solver for steps that follow each other, with a memory if it has one."""
    solver = SOLVERS[name]
    return solver.fresh() if isinstance(solver, Remembering) else solver


@every_solver
@every_model
def test_one_step_is_the_solver_itself(name: str, prediction_type: str, zero_snr: bool) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    x_t = randn(4, 4, 6, 6)
    t = torch.tensor([999, 519, 19, 19])
    s = torch.tensor([979, CLEAN, 0, CLEAN])
    network = network_of(schedule)
    assert torch.equal(
        repeated(SOLVERS[name], 1)(network, schedule, x_t, t, s),
        SOLVERS[name](network, schedule, x_t, t, s),
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 33])
@pytest.mark.parametrize(
    ("t", "s"), [(999, 979), (19, CLEAN), (999, CLEAN), (40, 40), (0, CLEAN), (CLEAN, CLEAN)]
)
def test_substeps_are_whole_even_and_complete(t: int, s: int, steps: int) -> None:
    times = torch.stack(substeps(torch.tensor([t]), torch.tensor([s]), steps))[:, 0]
    assert (times.dtype, len(times), times[0].item(), times[-1].item()) == (
        torch.int64,
        steps + 1,
        t,
        s,
    )
    lengths = -times.diff()
    assert lengths.min() >= 0
    assert lengths.max() - lengths.min() <= 1
    np.testing.assert_allclose(times, np.linspace(t, s, steps + 1), atol=0.5)


@every_solver
@every_model
@pytest.mark.parametrize("steps", [2, 3, 20])
def test_substeps_are_steps_one_after_another(
    name: str, prediction_type: str, zero_snr: bool, steps: int
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    network, x = network_of(schedule), randn(1, 4, 6, 6)
    for t, s in ((999, 979), (519, 499), (19, CLEAN)):
        step, expected = in_sequence(name), x
        for here, there in pairwise(substeps(torch.tensor([t]), torch.tensor([s]), steps)):
            expected = step(network, schedule, expected, here, there)
        got = repeated(SOLVERS[name], steps)(
            network, schedule, x, torch.tensor([t]), torch.tensor([s])
        )
        assert torch.equal(got, expected)


@every_solver
@every_model
@pytest.mark.parametrize("steps", [1, 4])
def test_no_way_is_no_change_even_at_the_clean_end(
    name: str, prediction_type: str, zero_snr: bool, steps: int
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    x_t, t = randn(4, 4, 6, 6), torch.tensor([CLEAN, 0, 519, 999])
    assert torch.equal(
        repeated(SOLVERS[name], steps)(network_of(schedule), schedule, x_t, t, t), x_t
    )


@every_solver
@pytest.mark.parametrize("steps", [3, 25])
def test_substeps_of_a_batch_do_not_influence_each_other(name: str, steps: int) -> None:
    schedule = make_schedule("epsilon")
    network, solver = network_of(schedule), repeated(SOLVERS[name], steps)
    x_t = randn(4, 4, 6, 6)
    t = torch.tensor([999, 519, 19, 3])
    s = torch.tensor([979, 519, 0, CLEAN])
    together = solver(network, schedule, x_t, t, s)
    for i in range(4):
        alone = solver(network, schedule, x_t[i : i + 1], t[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@every_solver
def test_more_substeps_converge_to_the_closed_form(name: str) -> None:
    schedule = stable_diffusion_schedule()
    x_t = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = exact_solution(schedule, 2.0, 1.0, 999, 199)
    errors = []
    for steps in (20, 40, 80, 400):
        solver = repeated(SOLVERS[name], steps)
        got = solver(
            gaussian_teacher(schedule, 2.0), schedule, x_t, torch.tensor([999]), torch.tensor([199])
        )
        errors.append(abs(float(got) - exact) / exact)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_no_substeps_are_refused() -> None:
    with pytest.raises(ValueError, match="solver steps must be positive; got 0"):
        repeated(SOLVERS["ddim"], 0)
