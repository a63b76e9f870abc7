"""The consistency function and a step of its distillation, in golden numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcm.diffusion.consistency import boundary_scalings, land
from lcm.diffusion.guidance import guide
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.tables import LOSSES
from tests.support.schedules import make_schedule

# t, c_skip, c_out
GOLDEN_SCALINGS = [
    (0, 1.0, 0.0),
    (19, 6.925160e-06, 0.999996543),
    (259, 3.726838e-08, 1.0),
    (499, 1.004012e-08, 1.0),
    (519, 9.281225e-09, 1.0),
    (759, 4.339667e-09, 1.0),
    (979, 2.608403e-09, 1.0),
    (999, 2.505008e-09, 1.0),
]
GoldenStep = tuple[str, int, int, float, float, float, float, float, float, float, float]
# One element with z = 0.5, eps = -1, guidance_scale 8.5, teacher cond 0.2 and uncond -0.1, student
# 0.3 at z_t and 0.15 at z_t': type, t, t', z_t, guided x0, guided eps, z_t', f, g, l2, huber (c =
# 0.001)
GOLDEN_STEPS: list[GoldenStep] = [
    (
        "epsilon",
        19,
        0,
        0.362289,
        0.036145,
        2.450000,
        0.107559,
        0.325215,
        0.107559,
        0.047374,
        0.216658,
    ),
    (
        "epsilon",
        519,
        499,
        -0.614327,
        -5.450543,
        2.450000,
        -0.789872,
        -1.742233,
        -1.740903,
        0.000002,
        0.000665,
    ),
    (
        "epsilon",
        999,
        979,
        -0.963535,
        -49.920532,
        2.450000,
        -1.395869,
        -18.499043,
        -20.097985,
        2.556615,
        1.597942,
    ),
    (
        "v_prediction",
        19,
        0,
        0.362289,
        0.032591,
        2.476427,
        0.104778,
        0.319084,
        0.104778,
        0.045927,
        0.213308,
    ),
    (
        "v_prediction",
        519,
        499,
        -0.614327,
        -2.427660,
        0.697396,
        -0.686523,
        -0.567665,
        -0.489244,
        0.006150,
        0.077428,
    ),
    (
        "v_prediction",
        999,
        979,
        -0.963535,
        -2.510060,
        -0.794038,
        -0.984697,
        -0.365076,
        -0.225274,
        0.019545,
        0.138806,
    ),
]


@pytest.mark.parametrize(("t", "c_skip", "c_out"), GOLDEN_SCALINGS)
def test_golden_boundary_scalings(t: int, c_skip: float, c_out: float) -> None:
    skip, out = boundary_scalings(torch.tensor([t]))
    assert skip.shape == out.shape == (1, 1, 1, 1)
    assert float(skip) == pytest.approx(c_skip, rel=5e-7)
    assert float(out) == pytest.approx(c_out, abs=6e-8)


@pytest.mark.parametrize("row", GOLDEN_STEPS, ids=[f"{row[0]}-{row[1]}" for row in GOLDEN_STEPS])
def test_golden_distillation_step(row: GoldenStep) -> None:
    """At t' = 0 the worked example ends, as the public scripts do: landing there, g is z_t'."""
    prediction_type, t, u, *path, l2, huber = row

    def element(value: float) -> Tensor:
        return torch.full((1, 1, 1, 1), value)

    schedule = make_schedule(prediction_type)
    time = torch.tensor([t])
    lower = torch.tensor([u])
    clean = torch.tensor([CLEAN])
    noisy = schedule.add_noise(element(0.5), element(-1.0), time)
    guided = schedule.predict(guide(element(0.2), element(-0.1), torch.tensor([8.5])), noisy, time)
    solved = schedule.jump(guided, lower)
    student = land(schedule, element(0.3), noisy, time, clean)
    target = land(schedule, element(0.15), solved, lower, lower if u == 0 else clean)
    got = [noisy, guided.x0, guided.eps, solved, student, target]
    for value, expected in zip(got, path, strict=True):
        assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    # f - g cancels: a rounding of f = 18, another on every processor, weighs more in the losses
    assert float(LOSSES["l2"](student, target, 0.001)) == pytest.approx(l2, rel=1e-5, abs=1e-6)
    assert float(LOSSES["huber"](student, target, 0.001)) == pytest.approx(
        huber, rel=1e-5, abs=1e-6
    )
    if u == 0:
        assert torch.equal(target, solved)
