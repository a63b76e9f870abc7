"""Laws every loss obeys, and the value of each against float64 numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lcm.diffusion.tables import LOSSES
from tests.support.schedules import randn

Reference = Callable[[np.ndarray, float], np.ndarray]

# difference [B, D] in float64 and c -> [B]; a new loss must bring its formula
REFERENCES: dict[str, Reference] = {
    "l2": lambda d, c: (d**2).mean(axis=1),
    "huber": lambda d, c: (np.sqrt(d**2 + c**2) - c).mean(axis=1),
    "huber_norm": lambda d, c: np.sqrt((d**2).sum(axis=1) + c**2) - c,
    "l1": lambda d, c: np.abs(d).mean(axis=1),
    "cauchy": lambda d, c: np.log1p(d**2 / (2 * c**2)).mean(axis=1),
}

# the loss's own c by the number of elements: LCM's script; iCT, section 3.3; the scale of
# differences of latents
OWN_C: dict[str, Callable[[int], float]] = {
    "huber": lambda dim: 0.001,
    "huber_norm": lambda dim: 0.00054 * dim**0.5,
    "cauchy": lambda dim: 0.1,
}

# which compares laws, below
every_loss = pytest.mark.parametrize("name", [name for name in LOSSES if name != "energy"])
every_c = pytest.mark.parametrize("huber_c", [0.001, 0.069, 1.0])


@every_loss
@every_c
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_values_equal_float64_numpy(name: str, huber_c: float, size: float) -> None:
    a, b = size * randn(3, 4, 8, 8, seed=1), size * randn(3, 4, 8, 8, seed=2)
    expected = REFERENCES[name]((a.double() - b.double()).flatten(1).numpy(), huber_c)
    # the roots of float32 cancel down to a rounding of c
    np.testing.assert_allclose(
        LOSSES[name](a, b, huber_c).numpy(), expected, rtol=2e-6, atol=2e-7 * huber_c
    )


@every_loss
@pytest.mark.parametrize("side", [4, 8, 16])
def test_without_a_c_it_is_the_losss_own(name: str, side: int) -> None:
    a, b = randn(3, 4, side, side, seed=1), randn(3, 4, side, side, seed=2)
    c = OWN_C[name](4 * side**2) if name in OWN_C else 7.0  # any, for those without one
    difference = (a.double() - b.double()).flatten(1).numpy()
    np.testing.assert_allclose(
        LOSSES[name](a, b, None).numpy(), REFERENCES[name](difference, c), rtol=2e-6
    )


def test_cauchy_by_itself_is_quadratic_between_neighbours_and_nearly_blind_to_outliers() -> None:
    """Cauchy with the c of huber would be a logarithm of either."""

    def growth(size: float, c: float | None) -> float:
        d, zero = size * randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
        return float(LOSSES["cauchy"](2 * d, zero, c) / LOSSES["cauchy"](d, zero, c))

    assert growth(0.02, None) > 3.5
    assert growth(2.0, None) < 1.5
    assert growth(0.02, 0.001) < 1.5


@every_loss
def test_one_number_for_every_sample(name: str) -> None:
    value = LOSSES[name](randn(5, 4, 3, 3), randn(5, 4, 3, 3, seed=1), 0.001)
    assert (value.shape, value.dtype) == ((5,), torch.float32)


@every_loss
@every_c
def test_equal_tensors_have_no_loss(name: str, huber_c: float) -> None:
    a = randn(3, 4, 8, 8)
    torch.testing.assert_close(
        LOSSES[name](a, a.clone(), huber_c), torch.zeros(3), rtol=0, atol=2e-7 * huber_c
    )


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
        torch.testing.assert_close(
            LOSSES[name](a[i : i + 1], b[i : i + 1], 0.001)[0], together[i], rtol=1e-6, atol=0
        )


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


# --- the energy score, of two draws of the prediction ---------------------------------------------


def energy(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    return LOSSES["energy"](torch.cat([first, second]), target, 0.001)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_energy_equals_float64_numpy(size: float) -> None:
    first, second, target = (size * randn(3, 4, 8, 8, seed=seed) for seed in (1, 2, 3))

    def rms(a: Tensor, b: Tensor) -> np.ndarray:
        return np.sqrt(((a.double() - b.double()).flatten(1).numpy() ** 2).mean(axis=1))

    expected = (rms(first, target) + rms(second, target)) / 2 - rms(first, second) / 2
    np.testing.assert_allclose(
        energy(first, second, target).numpy(), expected, rtol=2e-6, atol=1e-6
    )


def test_energy_of_the_target_itself_is_zero_and_has_a_finite_gradient() -> None:
    a = randn(3, 4, 8, 8).requires_grad_()
    value = energy(a, a, a.detach())
    torch.testing.assert_close(value, torch.zeros(3), rtol=0, atol=1e-6)
    assert torch.autograd.grad(value.sum(), a)[0].isfinite().all()


def test_energy_does_not_tell_the_draws_or_the_samples_apart() -> None:
    first, second, target = (randn(3, 4, 8, 8, seed=seed) for seed in (1, 2, 3))
    together = energy(first, second, target)
    assert (together.shape, together.dtype) == ((3,), torch.float32)
    torch.testing.assert_close(energy(second, first, target), together, rtol=1e-6, atol=0)
    for i in range(3):
        alone = energy(first[i : i + 1], second[i : i + 1], target[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=0)


WRONG_LAWS = [
    (0.0, 0.0),
    (0.0, 0.6),
    (0.0, 0.85),
    (0.0, 1.2),
    (0.0, 2.0),
    (0.3, 1.0),
    (-0.3, 1.0),
    (0.3, 0.6),
]


@pytest.mark.parametrize(("mean", "std"), WRONG_LAWS)
def test_energy_is_least_at_the_true_law(mean: float, std: float) -> None:
    """Predictions N(mean, std^2) for data N(0, 1), on the same random numbers; four standard
    errors.
    """
    first, second, target = (randn(8000, 1, 4, 4, seed=seed) for seed in (1, 2, 3))
    worse = energy(mean + std * first, mean + std * second, target) - energy(first, second, target)
    assert worse.mean() > 4 * worse.std() / 8000**0.5


@pytest.mark.parametrize("name", ["l2", "l1", "huber"])
def test_a_distance_is_least_at_a_law_without_variance(name: str) -> None:
    """So it cannot teach a random landing point: it asks for the mean or the median alone."""
    draw, target = randn(8000, 1, 4, 4, seed=1), randn(8000, 1, 4, 4, seed=3)
    losses = [float(LOSSES[name](std * draw, target, 0.001).mean()) for std in (0.0, 0.5, 1.0, 2.0)]
    assert losses == sorted(losses)
    assert losses[0] < 0.8 * losses[2]
