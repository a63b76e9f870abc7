"""The weight that is learnt beside the student."""

from __future__ import annotations

import pytest
import torch

from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.methods.learned_weight import LearnedWeight
from tests.support.closed_forms import GaussianRoles, make_batch, make_objective
from tests.support.schedules import make_schedule


@pytest.mark.parametrize("zero_snr", [False, True])
def test_it_learns_to_count_every_noise_level_alike(zero_snr: bool) -> None:
    """The minimum of E[exp(w) d - w] over w is w = -ln E[d | t]."""
    schedule = make_schedule("v_prediction", zero_snr)
    weight = LearnedWeight(schedule)
    generator = torch.Generator().manual_seed(0)
    expected = 0.05 + schedule.phi.square()  # of a distance that is twice that, or none
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.05)
    for _ in range(1500):
        t = torch.randint(0, schedule.num_train_timesteps, (256,), generator=generator)
        twice = 2.0 * torch.randint(0, 2, (256,), generator=generator)
        loss = weight(twice * expected[t], t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    t = torch.arange(0, schedule.num_train_timesteps, 50)
    counts = weight(expected[t], t) - weight(torch.zeros_like(expected[t]), t)
    torch.testing.assert_close(counts.detach(), torch.ones_like(counts), rtol=0.0, atol=0.35)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_untrained_it_changes_nothing(prediction_type: str) -> None:
    schedule = make_schedule(prediction_type)
    nets, batch = GaussianRoles(schedule), make_batch()
    learning, plain = (
        make_objective("scm", schedule, **flags) for flags in ({"learned_weight": True}, {})
    )
    torch.testing.assert_close(learning(nets, batch, 0.5), plain(nets, batch, 0.5))
    assert plain.parameters == []
    (coefficients,) = learning.parameters
    assert coefficients.requires_grad
