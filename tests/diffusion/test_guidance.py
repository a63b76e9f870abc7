"""Laws of classifier-free guidance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.guidance import Guidance, guidance_scale_to_w, guide
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.diffusion.schedule import NoiseSchedule
from lcm.diffusion.times import GridTimes, PhaseEdge
from tests.support.schedules import randn


def test_w_of_the_papers_is_guidance_scale_minus_one() -> None:
    assert guidance_scale_to_w(torch.tensor([1.0, 7.5, 8.5])).tolist() == [0.0, 6.5, 7.5]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 7.5, 15.0])
def test_guide_equals_the_formula_in_float64(scale: float) -> None:
    cond, uncond = randn(3, 4, 5, 5, seed=1), randn(3, 4, 5, 5, seed=2)
    expected = scale * cond.double().numpy() - (scale - 1) * uncond.double().numpy()
    got = guide(cond, uncond, torch.full((3,), scale))
    np.testing.assert_allclose(
        got.numpy(), expected, rtol=0, atol=1e-6 * max(1.0, np.abs(expected).max())
    )


def test_scale_one_is_the_conditional_output_bit_for_bit() -> None:
    cond, uncond = randn(3, 4, 5, 5, seed=1), 100 * randn(3, 4, 5, 5, seed=2)
    assert torch.equal(guide(cond, uncond, torch.ones(3)), cond)


def test_scale_zero_is_the_unconditional_output() -> None:
    cond, uncond = randn(3, 4, 5, 5, seed=1), randn(3, 4, 5, 5, seed=2)
    torch.testing.assert_close(guide(cond, uncond, torch.zeros(3)), uncond, rtol=1e-6, atol=1e-6)


def test_equal_outputs_are_a_fixed_point_of_every_scale() -> None:
    cond = randn(3, 4, 5, 5)
    assert torch.equal(guide(cond, cond.clone(), torch.tensor([0.0, 7.5, 15.0])), cond)


def test_every_sample_of_a_batch_has_its_own_scale() -> None:
    cond = randn(3, 4, 5, 5, seed=1)
    uncond = randn(3, 4, 5, 5, seed=2)
    scale = torch.tensor([1.0, 4.0, 12.5])
    together = guide(cond, uncond, scale)
    for i in range(3):
        assert torch.equal(
            together[i : i + 1], guide(cond[i : i + 1], uncond[i : i + 1], scale[i : i + 1])
        )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("scale", [1.0, 7.5, 15.0])
def test_guiding_outputs_is_guiding_x0_and_eps(prediction_type: str, scale: float) -> None:
    stock = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
    )
    schedule = NoiseSchedule.from_scheduler(stock)
    t, scales = torch.tensor([0, 19, 499, 999]), torch.full((4,), scale)
    x_t = randn(4, 4, 5, 5, seed=1)
    cond = randn(4, 4, 5, 5, seed=2)
    uncond = randn(4, 4, 5, 5, seed=3)
    of_guided = schedule.predict(guide(cond, uncond, scales), x_t, t)
    parts = zip(
        of_guided, schedule.predict(cond, x_t, t), schedule.predict(uncond, x_t, t), strict=True
    )
    for mine, with_prompt, without in parts:
        expected = guide(with_prompt, without, scales)
        size = (
            torch.maximum(with_prompt.abs().amax((1, 2, 3)), without.abs().amax((1, 2, 3))) * scale
        )
        assert ((mine - expected).abs() <= 1e-6 * size.view(-1, 1, 1, 1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_are_guided_in_float32(dtype: torch.dtype) -> None:
    cond = randn(2, 4, 5, 5, seed=1).to(dtype)
    uncond = randn(2, 4, 5, 5, seed=2).to(dtype)
    scale = torch.tensor([1.0, 7.3])
    got = guide(cond, uncond, scale)
    assert got.dtype == torch.float32
    assert torch.equal(got, guide(cond.float(), uncond.float(), scale))
    assert guide(cond, uncond, scale.double()).dtype == torch.float32


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (7.5, 7.5), (2.0, 14.0)])
def test_a_range_is_covered_evenly_whatever_the_time(low: float, high: float) -> None:
    uniform = (torch.arange(1000) + 0.5) / 1000
    got = Guidance(low, high)(torch.arange(1000).flip(0), uniform)
    assert (got.shape, got.dtype) == ((1000,), torch.float32)
    np.testing.assert_allclose(got.numpy(), np.linspace(low, high, 2001)[1::2], rtol=1e-5)


@pytest.mark.parametrize("phases", [1, 2, 4, 5, 8])
def test_every_phase_has_its_own_scale_the_noisiest_first(phases: int) -> None:
    scales = tuple(float(value) for value in range(2, 2 + phases))
    got = Guidance(per_phase=scales)(torch.arange(1000), torch.rand(1000))
    assert got.dtype == torch.float32
    assert got[999] == scales[0] and got[0] == scales[-1]
    width = 1000 // phases
    for i in range(phases):
        assert (got[i * width : (i + 1) * width] == scales[phases - 1 - i]).all()


@pytest.mark.parametrize("phases", [1, 2, 4, 8])
def test_a_phase_of_guidance_is_a_phase_of_the_trajectory(phases: int) -> None:
    """Times with the same landing edge have the same scale, and others have another."""
    grid = SolverGrid(40)
    t, _, s = GridTimes(grid, PhaseEdge(grid, phases))(
        (torch.arange(40) + 0.5) / 40, torch.zeros(40), 0.0
    )
    scale = Guidance(per_phase=tuple(float(value) for value in range(2, 2 + phases)))(
        t, torch.zeros(40)
    )
    assert len({*zip(s.tolist(), scale.tolist(), strict=True)}) == phases


@pytest.mark.parametrize(
    ("guidance", "is_none"),
    [
        (Guidance(), True),
        (Guidance(1.0, 1.0), True),
        (Guidance(7.5, 7.5), False),
        (Guidance(1.0, 7.5), False),
        (Guidance(7.5, 7.5, (1.0, 1.0)), True),
        (Guidance(1.0, 1.0, (3.0, 1.0)), False),
    ],
)
def test_no_guidance_is_known_as_such(guidance: Guidance, is_none: bool) -> None:
    assert guidance.is_none is is_none
    scales = guidance(torch.tensor([999, 0]), torch.tensor([0.9, 0.1]))
    assert bool((scales == 1).all()) is is_none
