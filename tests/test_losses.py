"""Laws every loss obeys, and the value of each against float64 numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lcm.losses import LOSSES

Reference = Callable[[np.ndarray, float], np.ndarray]

# difference [B, D] in float64 and c -> [B]; a new loss must bring its formula
REFERENCES: dict[str, Reference] = {
    "l2": lambda d, c: (d**2).mean(axis=1),
    "huber": lambda d, c: (np.sqrt(d**2 + c**2) - c).mean(axis=1),
    "huber_norm": lambda d, c: np.sqrt((d**2).sum(axis=1) + c**2) - c,
}

every_loss = pytest.mark.parametrize("name", LOSSES)
every_c = pytest.mark.parametrize("huber_c", [0.001, 0.069, 1.0])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@every_loss
@every_c
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_values_equal_float64_numpy(name: str, huber_c: float, size: float) -> None:
    a, b = size * randn(3, 4, 8, 8, seed=1), size * randn(3, 4, 8, 8, seed=2)
    expected = REFERENCES[name]((a.double() - b.double()).flatten(1).numpy(), huber_c)
    # the roots of float32 cancel down to a rounding of c
    np.testing.assert_allclose(LOSSES[name](a, b, huber_c).numpy(), expected, rtol=2e-6, atol=2e-7 * huber_c)


@every_loss
def test_one_number_for_every_sample(name: str) -> None:
    value = LOSSES[name](randn(5, 4, 3, 3), randn(5, 4, 3, 3, seed=1), 0.001)
    assert (value.shape, value.dtype) == ((5,), torch.float32)


@every_loss
@every_c
def test_equal_tensors_have_no_loss(name: str, huber_c: float) -> None:
    a = randn(3, 4, 8, 8)
    torch.testing.assert_close(LOSSES[name](a, a.clone(), huber_c), torch.zeros(3), rtol=0, atol=2e-7 * huber_c)


@every_loss
@every_c
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
def test_no_loss_is_negative(name: str, huber_c: float, size: float) -> None:
    a = randn(3, 4, 8, 8)
    value = LOSSES[name](a, a + size * randn(3, 4, 8, 8, seed=1), huber_c)
    assert (value >= -2e-7 * huber_c).all()


@every_loss
def test_a_real_difference_has_a_positive_loss_that_grows(name: str) -> None:
    a, d = randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=1)
    near, far = LOSSES[name](a, a + 0.01 * d, 0.001), LOSSES[name](a, a + 0.02 * d, 0.001)
    assert (near > 0).all()
    assert (far > near).all()


@every_loss
@every_c
def test_prediction_and_target_may_be_swapped(name: str, huber_c: float) -> None:
    a, b = randn(3, 4, 8, 8, seed=1), randn(3, 4, 8, 8, seed=2)
    assert torch.equal(LOSSES[name](a, b, huber_c), LOSSES[name](b, a, huber_c))


@every_loss
def test_samples_of_a_batch_do_not_influence_each_other(name: str) -> None:
    a, b = randn(3, 4, 8, 8, seed=1), randn(3, 4, 8, 8, seed=2)
    together = LOSSES[name](a, b, 0.001)
    a_poisoned = a.clone()
    a_poisoned[1] = float("nan")
    poisoned = LOSSES[name](a_poisoned, b, 0.001)
    assert poisoned[1].isnan()
    torch.testing.assert_close(poisoned[[0, 2]], together[[0, 2]], rtol=1e-6, atol=0)
    for i in range(3):
        torch.testing.assert_close(LOSSES[name](a[i : i + 1], b[i : i + 1], 0.001)[0], together[i], rtol=1e-6, atol=0)


@every_loss
@every_c
def test_the_gradient_at_zero_difference_is_zero(name: str, huber_c: float) -> None:
    a = randn(2, 4, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](a, a.detach().clone(), huber_c).sum(), a)
    assert torch.equal(gradient, torch.zeros_like(a))


@every_loss
def test_the_gradient_points_from_target_to_prediction(name: str) -> None:
    target, prediction = randn(2, 4, 8, 8, seed=1), randn(2, 4, 8, 8, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](prediction, target, 0.001).sum(), prediction)
    assert torch.equal(gradient.sign(), (prediction - target).sign())
